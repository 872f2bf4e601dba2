package fileop

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

// plain tells whether an action is one that copies files and directories as
// they are.
func plain(a *pb.FileActionCopy) bool {
	return a.CreateDestPath && a.DirCopyContents &&
		len(a.IncludePatterns) == 0 && len(a.ExcludePatterns) == 0 &&
		a.ModeStr == "" && a.Mode == -1 && a.Timestamp == -1 &&
		(!a.AllowWildcard || !strings.ContainsAny(a.Src, `*?[\`))
}

// directories are those of a layer that is written and of what it stands on,
// the upper one first.
func directories(mounts []mount.Mount) ([]string, bool) {
	if len(mounts) != 1 {
		return nil, false
	}
	m := mounts[0]
	switch m.Type {
	case "bind":
		return []string{m.Source}, !slices.Contains(m.Options, "ro")
	case "overlay":
		var upper, lower string
		for _, o := range m.Options {
			if v, ok := strings.CutPrefix(o, "upperdir="); ok {
				upper = v
			} else if v, ok := strings.CutPrefix(o, "lowerdir="); ok {
				lower = v
			}
		}
		if upper == "" || lower == "" {
			return nil, false
		}
		return append([]string{upper}, strings.Split(lower, ":")...), true
	}
	return nil, false
}

const pathOnly = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// place is a directory of the layer that is written, together with those that
// an overlay would show through it, upper ones first.
type place struct {
	up    int // -1: not in the layer yet
	below []int
}

func (p *place) close() {
	if p.up >= 0 {
		unix.Close(p.up)
	}
	for _, fd := range p.below {
		unix.Close(fd)
	}
	p.up, p.below = -1, nil
}

// root opens the layers.
func root(layers []string) (*place, error) {
	p := &place{up: -1}
	for i, dir := range layers {
		fd, err := unix.Open(dir, pathOnly, 0)
		if err != nil {
			p.close()
			return nil, pathError("open", dir, err)
		}
		if i == 0 {
			p.up = fd
		} else {
			p.below = append(p.below, fd)
		}
	}
	return p, nil
}

// what stands at a name
type what int

const (
	nothing what = iota
	directory
	another // a file can take its place
	link    // a symbolic link, of which the same is true
)

// look tells what an overlay of the layers would show at name. A directory is
// to be closed by the caller.
func (p *place) look(name string) (w what, _ *place, err error) {
	found := &place{up: -1}
	defer func() {
		if err != nil || w != directory {
			found.close()
		}
	}()
	for i, dir := range append([]int{p.up}, p.below...) {
		if dir < 0 {
			continue
		}
		var st unix.Stat_t
		err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return 0, nil, pathError("stat", name, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if w != nothing {
				break // hidden
			}
			if st.Mode&unix.S_IFMT == unix.S_IFLNK {
				return link, nil, nil
			}
			if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
				return another, nil, nil
			}
			if i == 0 {
				return 0, nil, errOther // a whiteout of an earlier action
			}
			break
		}
		fd, err := unix.Openat(dir, name, pathOnly, 0)
		if err != nil {
			return 0, nil, pathError("open", name, err)
		}
		if i == 0 {
			found.up = fd
		} else {
			found.below = append(found.below, fd)
		}
		w = directory
		opaque, err := stops(fd)
		if err != nil {
			return 0, nil, err
		}
		if opaque {
			break
		}
	}
	return w, found, nil
}

// stops tells whether a directory hides those below it. Directories that an
// overlay finds elsewhere are not for this package.
func stops(fd int) (bool, error) {
	path := self(fd)
	buf := make([]byte, 8)
	if _, err := unix.Getxattr(path, "trusted.overlay.redirect", buf); !absent(err) {
		return false, errOther
	}
	n, err := unix.Getxattr(path, "trusted.overlay.opaque", buf)
	switch {
	case absent(err):
		return false, nil
	case err == nil && string(buf[:n]) == "y":
		return true, nil
	}
	return false, errOther
}

func absent(err error) bool {
	return errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP)
}

// entry is what a directory tells about a file without a look at it.
type entry struct {
	name string
	ino  uint64
	kind uint8
}

// list reads a directory that was opened for reading.
func list(fd int) (out []entry, err error) {
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			return nil, pathError("read", "a directory", err)
		}
		if n == 0 {
			return out, nil
		}
		for b := buf[:n]; len(b) > 19; {
			size := binary.NativeEndian.Uint16(b[16:])
			name, _, _ := strings.Cut(string(b[19:size]), "\x00")
			if name != "." && name != ".." {
				out = append(out, entry{name, binary.NativeEndian.Uint64(b), b[18]})
			}
			b = b[size:]
		}
	}
}

// readable opens a directory for reading.
func readable(at int, name string) (int, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, pathError("open", name, err)
	}
	return fd, nil
}

// inodes notes the files of a tree.
func inodes(at int, name string, into map[uint64]bool) error {
	fd, err := readable(at, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	entries, err := list(fd)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.kind == unix.DT_DIR {
			if err := inodes(fd, e.name, into); err != nil {
				return err
			}
		} else {
			into[e.ino] = true
		}
	}
	return nil
}

// mark is the file beside a layer's directory that says that it has links, and
// to files of which layers: a line with the Origin of each.
func mark(layer string) string { return filepath.Join(filepath.Dir(layer), "linked") }

// Origin names a layer's directory in marks.
func Origin(layer string) string { return filepath.Base(filepath.Dir(layer)) }

// Origins tells whether a layer has links, and of which layers' files.
func Origins(layer string) (list []string, linked bool) {
	text, err := os.ReadFile(mark(layer))
	return strings.Fields(string(text)), err == nil
}

// setMark notes that a layer has links to files of another one.
func setMark(layer, from string) error {
	f, err := os.OpenFile(mark(layer), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(Origin(from) + "\n")
	return errors.Join(err, f.Close())
}
