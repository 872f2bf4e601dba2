package cp

import (
	"context"
	"errors"
	"slices"
	"strings"

	apicontainer "github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/container"
	kmount "github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/linux/ns"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// Changes lists what differs from the container's image: directories before
// what they hold, and in each what was removed last.
func (f *Files) Changes(ctx context.Context, ref string) ([]apicontainer.FilesystemChange, error) {
	c, err := f.store.Get(ref)
	if err != nil {
		return nil, err
	}
	v, err := f.open(ctx, c, bare)
	if err != nil {
		return nil, err
	}
	defer v.close()
	list, err := f.compare(ctx, c, v)
	if err != nil {
		return nil, err
	}
	out := []apicontainer.FilesystemChange{}
	for _, one := range list {
		if !one.hidden {
			out = append(out, apicontainer.FilesystemChange{Path: one.path, Kind: one.kind})
		}
	}
	return out, nil
}

// difference is one path that is in the container's own layer.
type difference struct {
	path string
	kind apicontainer.ChangeType
	// hidden is a file that looks the same as in the image. A layer has it all
	// the same: an attribute may differ.
	hidden bool
}

// comparison walks a container's layer beside the image's files.
type comparison struct {
	ctx    context.Context
	merged int // the root as the container sees it
	// copied says that the container has no layer of its own but a copy of the
	// image: what looks the same is the same, and nothing stands for a removal.
	copied bool
	list   []difference
}

// compare finds the changes of a container whose files v shows.
func (f *Files) compare(ctx context.Context, c *container.Container, v *view) ([]difference, error) {
	r := c.Snapshot()
	w, err := f.snapshots.OpenWritable(r.ID, snapshot.Lower{})
	if err != nil {
		return nil, err
	}
	k := &comparison{ctx: ctx, merged: v.root}
	if k.copied = w.Dir != ""; k.copied {
		img, err := f.images.Resolve(ctx, r.ImageID)
		if err != nil {
			return nil, err
		}
		lower, err := f.images.Layers(ctx, img)
		if err != nil {
			return nil, err
		}
		low := -1
		if len(lower.Dirs) > 0 {
			if low, err = openDir(lower.Dirs[0]); err != nil {
				return nil, err
			}
			defer unix.Close(low)
		}
		up, err := openDir(w.Dir)
		if err != nil {
			return nil, err
		}
		defer unix.Close(up)
		_, _, err = k.dir("", up, low, true)
		return k.list, err
	}
	low, err := openLower(w.Lower)
	if err != nil {
		return nil, err
	}
	defer unix.Close(low)
	up, err := openDir(w.Upper)
	if err != nil {
		return nil, err
	}
	defer unix.Close(up)
	_, _, err = k.dir("", up, low, false)
	return k.list, err
}

func openDir(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &kmount.Error{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// openLower opens the root of an image's layers.
func openLower(dirs []string) (fd int, err error) {
	if len(dirs) == 1 {
		return openDir(dirs[0])
	}
	err = ns.Aside(func() error {
		if err := private(); err != nil {
			return err
		}
		o := kmount.PackOverlay(dirs, "", "", nil)
		at, err := o.Mount()
		if err != nil {
			return err
		}
		defer unix.Close(at)
		fd, err = kmount.Clone(at, "", false)
		return err
	})
	return fd, err
}

// file is one entry of a directory, opened; fd is -1 if there is none.
type file struct {
	fd int
	st unix.Stat_t
}

func openFile(dir int, name string) (file, error) {
	if dir < 0 {
		return file{fd: -1}, nil
	}
	fd, err := child(dir, name)
	if errors.Is(err, unix.ENOENT) {
		return file{fd: -1}, nil
	}
	f := file{fd: fd}
	if err == nil {
		err = unix.Fstat(fd, &f.st)
	}
	return f, err
}

func (f *file) close() {
	if f.fd >= 0 {
		unix.Close(f.fd)
	}
}

func (f *file) exists() bool { return f.fd >= 0 }
func (f *file) dir() bool    { return f.exists() && isDir(&f.st) }

// whiteout is how an overlay remembers that a file was removed.
func (f *file) whiteout() bool {
	return f.st.Mode&unix.S_IFMT == unix.S_IFCHR && f.st.Rdev == 0
}

// dir compares one directory. up is it in the container's layer, low in the
// image or -1. whole says that up holds everything there is, not only what was
// changed. It returns how many of the changes below are to be seen, and
// whether files were passed over that only the engine wants there.
func (k *comparison) dir(at string, up, low int, whole bool) (visible int, engine bool, err error) {
	if err := context.Cause(k.ctx); err != nil {
		return 0, false, err
	}
	if len(at) > unix.PathMax {
		return 0, false, &kmount.Error{Op: "compare", Path: at[:60] + "...", Err: unix.ENAMETOOLONG}
	}
	list, err := names(up)
	if err != nil {
		return 0, false, err
	}
	var removed []string
	for _, name := range list {
		n, ours, gone, err := k.entry(at, name, up, low, whole)
		if err != nil {
			return visible, engine, err
		}
		visible += n
		engine = engine || ours
		if gone {
			removed = append(removed, name)
		}
	}
	if whole && low >= 0 {
		had, err := names(low)
		if err != nil {
			return visible, engine, err
		}
		for _, name := range had {
			if _, found := slices.BinarySearch(list, name); !found {
				removed = append(removed, name)
			}
		}
	}
	slices.Sort(removed)
	for _, name := range removed {
		k.list = append(k.list, difference{path: at + "/" + name, kind: apicontainer.ChangeDelete})
		visible++
	}
	return visible, engine, nil
}

// entry compares one entry of a directory; gone says that it was removed.
func (k *comparison) entry(at, name string, up, low int, whole bool) (visible int, engine, gone bool, err error) {
	now, err := openFile(up, name)
	if err != nil || !now.exists() {
		return 0, false, false, err
	}
	defer now.close()
	was, err := openFile(low, name)
	if err != nil {
		return 0, false, false, err
	}
	defer was.close()
	if now.whiteout() && !k.copied {
		return 0, false, was.exists(), nil
	}
	p := at + "/" + name
	kind := apicontainer.ChangeAdd
	if was.exists() {
		kind = apicontainer.ChangeModify
	}
	if !now.dir() {
		if !was.exists() && ours(p, &now.st) {
			return 0, true, false, nil
		}
		same := was.exists() && sameFile(&now, &was)
		if same && k.copied {
			return 0, false, false, nil
		}
		k.list = append(k.list, difference{p, kind, same})
		if same {
			return 0, false, false, nil
		}
		return 1, false, false, nil
	}
	visible, engine, err = k.subdir(p, kind, &now, &was, whole)
	return visible, engine, false, err
}

// subdir compares a directory of the container and then what it holds.
func (k *comparison) subdir(p string, kind apicontainer.ChangeType, now, was *file, whole bool) (visible int, engine bool, err error) {
	low, up := -1, now.fd
	if was.dir() {
		low = was.fd
	}
	if !whole {
		switch {
		case xattr(now.fd, "trusted.overlay.redirect") != nil:
			// It was renamed: what it holds is found in the merged root only.
			whole = true
			if up, err = kmount.OpenBelow(k.merged, strings.TrimPrefix(p, "/"), unix.O_PATH|unix.O_DIRECTORY); err != nil {
				if errors.Is(err, unix.ENOENT) {
					return 0, false, nil
				}
				return 0, false, err
			}
			defer unix.Close(up)
		case string(xattr(now.fd, "trusted.overlay.opaque")) == "y", low < 0:
			whole = true
		}
	}
	start := len(k.list)
	k.list = append(k.list, difference{path: p, kind: kind})
	visible, engine, err = k.dir(p, up, low, whole)
	if err != nil {
		return visible, engine, err
	}
	empty := len(k.list) == start+1
	switch {
	case kind == apicontainer.ChangeAdd && empty && madeDirs[p]:
		k.list = k.list[:start]
		return 0, true, nil
	case low >= 0 && visible == 0 && sameDir(&now.st, &was.st, engine || k.copied):
		if empty {
			k.list = k.list[:start]
			return 0, engine, nil
		}
		k.list[start].hidden = true
		return 0, engine, nil
	}
	return visible + 1, engine, nil
}

// sameFile compares what can be seen of two files that are no directories.
func sameFile(a, b *file) bool {
	x, y := &a.st, &b.st
	if x.Mode != y.Mode || x.Uid != y.Uid || x.Gid != y.Gid || x.Rdev != y.Rdev || x.Size != y.Size || x.Mtim != y.Mtim {
		return false
	}
	if x.Mode&unix.S_IFMT != unix.S_IFREG {
		return true
	}
	return string(xattr(a.fd, capability)) == string(xattr(b.fd, capability))
}

// sameDir compares two directories themselves. Where the engine has made
// something or the whole, the time says nothing.
func sameDir(a, b *unix.Stat_t, made bool) bool {
	return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid && (made || a.Mtim == b.Mtim)
}

// What the engine makes in a container's root so that it can mount over it.
// docker has these in a layer of their own, which it never shows.
var (
	madeDirs  = map[string]bool{"/dev": true, "/dev/pts": true, "/dev/shm": true, "/dev/mqueue": true, "/etc": true, "/proc": true, "/sys": true}
	madeFiles = map[string]bool{"/.dockerenv": true, "/dev/console": true, "/etc/hosts": true, "/etc/hostname": true, "/etc/resolv.conf": true}
)

// ours reports whether a file that the image has not is one of the engine's.
func ours(p string, st *unix.Stat_t) bool {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return madeFiles[p] && st.Size == 0
	case unix.S_IFLNK:
		return p == "/etc/mtab"
	}
	return false
}
