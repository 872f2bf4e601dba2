package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/quota"
	"github.com/wherry-engine/wherry/internal/undo"
)

// Lower is an unpacked chain of layers. The zero value is the empty root of an
// image without layers. The directories belong to the store and are never written to.
type Lower struct {
	Chain digest.Digest
	Dirs  []string // absolute, top layer first; with vfs one directory that holds everything
	Size  int64    // bytes of the layers' files
}

// WritableOptions changes how a writable layer is made.
type WritableOptions struct {
	// Volatile asks for an overlay that never syncs: its content is worthless
	// after a power failure. Right for containers that are removed at their exit.
	Volatile bool
	// SizeLimit in bytes, 0 for none; refused where the file system has no
	// project quotas.
	SizeLimit int64
}

// Writable is the layer that one container writes to.
type Writable struct {
	Driver   string
	Lower    []string // overlay2: read-only directories, top first
	Upper    string   // overlay2
	Work     string   // overlay2
	Dir      string   // vfs: the root itself, nothing to mount
	Volatile bool
	base     string // directory that all of Lower lies in
}

// indexOff tells that this kernel's overlay knows the option index.
func indexOff() bool {
	_, err := os.Stat("/sys/module/overlay/parameters/index")
	return err == nil
}

// MountOptions are the options of the overlay beside its directories.
func (w *Writable) MountOptions() []string {
	var o []string
	if w.Volatile {
		o = append(o, "volatile")
	}
	if indexOff() {
		// The same lower directories serve many containers at a time.
		o = append(o, "index=off")
	}
	return o
}

// OverlayOptions returns the data argument of mount(2) and the directory to be
// in when it is called ("" if it does not matter). Long chains are named
// relative to that directory, because the kernel takes one page of options.
func (w *Writable) OverlayOptions() (data, chdir string) {
	lower, dir := strings.Join(w.Lower, ":"), ""
	tail := ",upperdir=" + w.Upper + ",workdir=" + w.Work
	for _, o := range w.MountOptions() {
		tail += "," + o
	}
	if len(lower)+len(tail)+len("lowerdir=") >= os.Getpagesize() && w.base != "" {
		short := make([]string, len(w.Lower))
		for i, d := range w.Lower {
			short[i] = strings.TrimPrefix(d, w.base+"/")
		}
		lower, dir = strings.Join(short, ":"), w.base
	}
	return "lowerdir=" + lower + tail, dir
}

// writableDir returns <root>/rw/<first two characters>/<id>.
func (s *Store) writableDir(cid string) (string, error) {
	if !id.Valid(cid) {
		return "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid container id %q", cid))
	}
	return filepath.Join(s.root, "rw", cid[:2], cid), nil
}

// CreateWritable makes the writable layer of a container on top of lower. It
// is on the path of every start: a few mkdirs and one small file, nothing is synced.
func (s *Store) CreateWritable(cid string, lower Lower, o WritableOptions) (*Writable, error) {
	dir, err := s.writableDir(cid)
	if err != nil {
		return nil, err
	}
	w := s.describe(dir, lower, o.Volatile)
	var u undo.Stack
	defer u.Run()
	end, err := s.claim(dir, lower, o.Volatile)
	if err != nil {
		return nil, err
	}
	u.Add(func() { os.RemoveAll(dir) })
	if o.SizeLimit > 0 {
		if err := s.limit(dir, o.SizeLimit); err != nil {
			return nil, err
		}
		u.Add(func() { _ = quota.Release(dir) }) // the first error is the one to tell
	}
	if err := s.settled(end, lower); err != nil {
		return nil, err
	}
	if s.driver == VFS {
		if err := s.copyRoot(w.Dir, lower); err != nil {
			return nil, err
		}
	} else {
		if err := makeUpper(w.Upper, lower); err != nil {
			return nil, err
		}
		if err := os.Mkdir(w.Work, 0o700); err != nil {
			return nil, fmt.Errorf("create writable layer: %w", err)
		}
	}
	u.Keep()
	return w, nil
}

// Limits tells whether writable layers can have limits; the error says what is
// missing.
func (s *Store) Limits() error { return quota.Supported(filepath.Join(s.root, "rw")) }

// limit bounds what the container may write.
func (s *Store) limit(dir string, bytes int64) error {
	err := quota.Limit(dir, uint64(bytes))
	if errors.Is(err, quota.ErrUnsupported) {
		return errdefs.ErrInvalidArgument.WithMessage("--storage-opt size: " + err.Error())
	}
	return err
}

// claim makes the container's directory and says in it what it stands on. It
// returns the end to wait for of a collection that may not have seen it.
func (s *Store) claim(dir string, lower Lower, volatile bool) (<-chan struct{}, error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if err := os.Mkdir(dir, 0o711); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("create writable layer: %w", err)
		}
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("create writable layer: %w", err)
		}
	}
	if err := s.writeLower(dir, lower, volatile); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	if s.spared[lower.Chain] || len(lower.Dirs) == 0 {
		return nil, nil
	}
	return s.collecting, nil
}

func (s *Store) describe(dir string, lower Lower, volatile bool) *Writable {
	w := &Writable{Driver: s.driver}
	if s.driver == VFS {
		w.Dir = filepath.Join(dir, "fs")
		return w
	}
	w.Lower, w.Volatile, w.base = lower.Dirs, volatile, s.base
	w.Upper, w.Work = filepath.Join(dir, "fs"), filepath.Join(dir, "work")
	if len(w.Lower) == 0 {
		// The kernel wants a lower directory even for an image without layers.
		w.Lower = []string{s.empty}
	}
	return w
}

// makeUpper makes the upper directory with owner and mode of the topmost
// layer's root: an overlay shows its upper directory's as those of "/".
func makeUpper(dir string, lower Lower) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("create writable layer: %w", err)
	}
	if len(lower.Dirs) == 0 {
		return nil
	}
	var st syscall.Stat_t
	if err := syscall.Stat(lower.Dirs[0], &st); err != nil {
		return gone(lower)
	}
	if st.Uid|st.Gid != 0 {
		if err := os.Chown(dir, int(st.Uid), int(st.Gid)); err != nil {
			return fmt.Errorf("create writable layer: %w", err)
		}
	}
	if st.Mode&0o7777 != 0o755 {
		return syscall.Chmod(dir, st.Mode&0o7777)
	}
	return nil
}

// gone is the error when an image was removed after it was resolved.
func gone(lower Lower) error {
	return errdefs.ErrNotFound.WithMessage("the image was removed: its layer " + lower.Chain.String() + " is gone")
}

// writeLower records what the layer stands on, so that it can be opened, and
// kept alive, without its image. Format: the chain (and "volatile") in the
// first line, then one directory a line relative to the layers' base.
func (s *Store) writeLower(dir string, lower Lower, volatile bool) error {
	b := make([]byte, 0, 512)
	b = append(b, lower.Chain...)
	if volatile {
		b = append(b, " volatile"...)
	}
	b = append(b, '\n')
	for _, d := range lower.Dirs {
		b = append(b, strings.TrimPrefix(d, s.base+"/")...)
		b = append(b, '\n')
	}
	if err := os.WriteFile(filepath.Join(dir, "lower"), b, 0o600); err != nil {
		return fmt.Errorf("create writable layer: %w", err)
	}
	return nil
}

func (s *Store) readLower(dir string) (l Lower, volatile bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, "lower"))
	if err != nil {
		return l, false, err
	}
	head, rest, ok := bytes.Cut(b, []byte("\n"))
	if !ok {
		return l, false, fmt.Errorf("%s: cut short", filepath.Join(dir, "lower"))
	}
	chain, mark, _ := strings.Cut(string(head), " ")
	l.Chain = digest.Digest(chain)
	for _, d := range strings.Fields(string(rest)) {
		l.Dirs = append(l.Dirs, filepath.Join(s.base, d))
	}
	return l, mark == "volatile", nil
}

// OpenWritable finds the layer made by CreateWritable, also by an earlier
// process, and makes it ready to be mounted again. With the zero Lower the
// recorded one is used. errdefs.ErrNotFound when there is none.
func (s *Store) OpenWritable(cid string, lower Lower) (*Writable, error) {
	dir, err := s.writableDir(cid)
	if err != nil {
		return nil, err
	}
	had, volatile, err := s.readLower(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errdefs.ErrNotFound.WithMessage("no writable layer of container " + cid)
		}
		return nil, fmt.Errorf("open writable layer: %w", err)
	}
	if lower.Chain == "" && len(lower.Dirs) == 0 {
		lower = had
	}
	w := s.describe(dir, lower, volatile)
	if volatile && s.driver != VFS {
		// The kernel leaves this mark to keep a volatile overlay from being
		// mounted twice, as its content may be torn after a crash. A container
		// that is started again takes the layer as it is.
		if err := os.RemoveAll(filepath.Join(w.Work, "work", "incompat")); err != nil {
			return nil, fmt.Errorf("open writable layer: %w", err)
		}
	}
	return w, nil
}

// RemoveWritable takes the layer away at once and deletes its files behind the
// answer. Removing what is not there is no error.
func (s *Store) RemoveWritable(cid string) error {
	dir, err := s.writableDir(cid)
	if err != nil {
		return err
	}
	if s.quotas {
		if err := quota.Release(dir); err != nil {
			return fmt.Errorf("remove writable layer: %w", err)
		}
	}
	if err := s.trash.throw(dir, cid); err != nil {
		return fmt.Errorf("remove writable layer: %w", err)
	}
	return nil
}

// Usage returns the bytes of the files that the container wrote.
func (s *Store) Usage(cid string) (int64, error) {
	dir, err := s.writableDir(cid)
	if err != nil {
		return 0, err
	}
	var below string
	if s.driver == VFS {
		if l, _, err := s.readLower(dir); err == nil && len(l.Dirs) > 0 {
			below = l.Dirs[0]
		}
	}
	n, err := treeSize(filepath.Join(dir, "fs"), below)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, errdefs.ErrNotFound.WithMessage("no writable layer of container " + cid)
	}
	return n, err
}

// treeSize sums the sizes of the files under root, hard links once. Files that
// are the same (size and time) in below, if given, do not count. Files that go
// away during the walk are passed over: the container may be running. So are those
// deeper than a path can tell: a program can make them, and all other files count.
func treeSize(root, below string) (int64, error) {
	if _, err := os.Lstat(root); err != nil {
		return 0, err
	}
	var total int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENAMETOOLONG) {
				return nil
			}
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return nil
		}
		if st.Nlink > 1 {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		if below != "" {
			var old syscall.Stat_t
			if syscall.Lstat(below+path[len(root):], &old) == nil && old.Size == st.Size && old.Mtim == st.Mtim {
				return nil
			}
		}
		total += st.Size
		return nil
	})
	return total, err
}

// chainsInUse returns the chains that writable layers stand on.
func (s *Store) chainsInUse() (map[digest.Digest]bool, error) {
	dirs, err := filepath.Glob(filepath.Join(s.root, "rw", "??", "*"))
	if err != nil {
		return nil, err
	}
	used := map[digest.Digest]bool{}
	for _, d := range dirs {
		l, _, err := s.readLower(d)
		if err == nil && l.Chain != "" {
			used[l.Chain] = true
		}
	}
	return used, nil
}
