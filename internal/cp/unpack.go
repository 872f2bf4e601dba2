package cp

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	kmount "github.com/wherry-engine/wherry/internal/linux/mount"
)

// unpacker writes a tar stream into a directory of a container. Every path is
// resolved inside the container's root, however it is changed meanwhile.
type unpacker struct {
	ctx         context.Context
	root        int
	dest        string // an absolute path in the container
	noOverwrite bool
	ids         ids
	owner       *owner // nil: as the archive says
	dirs        []dirTime

	parentPath string // whose descriptor parentFD is
	parentFD   int
}

// dirTime is set at the end: what is made in a directory changes its time.
type dirTime struct {
	path string
	at   time.Time
}

func (u *unpacker) unpack(r io.Reader) error {
	u.parentFD = -1
	defer u.forget()
	t := tar.NewReader(&patient{u.ctx, r})
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return invalid("%v", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := u.entry(h, t); err != nil {
			return err
		}
	}
	for i := len(u.dirs) - 1; i >= 0; i-- {
		u.setTime(u.dirs[i])
	}
	return nil
}

// inside is name as a path in the container below dest.
func (u *unpacker) inside(name string) (string, error) {
	clean := path.Clean(name)
	if full := path.Join(u.dest, clean); clean != ".." && !strings.HasPrefix(clean, "../") {
		return full, nil
	}
	return "", invalid("%q is outside of %q", name, u.dest)
}

func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	full, err := u.inside(h.Name)
	if err != nil {
		return err
	}
	if path.Clean("/"+h.Name) == "/" {
		return nil // the destination itself, which stays as it is
	}
	dir, base := path.Split(full)
	parent, err := u.parent(dir)
	if err != nil {
		return err
	}
	there, err := u.makeRoom(parent, base, full, h)
	if err != nil {
		return err
	}
	if u.owner != nil {
		h.Uid, h.Gid = u.owner.uid, u.owner.gid
	}
	h.Uid, h.Gid = u.ids.outside(h.Uid, h.Gid)
	fd, err := u.create(parent, base, h, r, there)
	if err != nil {
		return named(err, full)
	}
	defer unix.Close(fd)
	if h.Typeflag == tar.TypeLink {
		return nil // it has what it is a link to
	}
	if h.Typeflag == tar.TypeDir {
		u.dirs = append(u.dirs, dirTime{full, h.ModTime})
	}
	return named(u.finish(parent, base, fd, h), full)
}

func named(err error, path string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", path, err)
}

// parent opens the directory that an entry lies in, making it if need be.
// Neighbours in the archive mostly share it.
func (u *unpacker) parent(dir string) (int, error) {
	if u.parentFD >= 0 && u.parentPath == dir {
		return u.parentFD, nil
	}
	fd, err := kmount.MkdirAll(u.root, dir, 0o755)
	if err != nil {
		return -1, err
	}
	u.forget()
	u.parentPath, u.parentFD = dir, fd
	return fd, nil
}

func (u *unpacker) forget() {
	if u.parentFD >= 0 {
		unix.Close(u.parentFD)
		u.parentFD = -1
	}
}

// makeRoom removes what is in the way of an entry; there says that a directory
// is there already and stays.
func (u *unpacker) makeRoom(parent int, base, full string, h *tar.Header) (there bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, named(err, full)
	}
	dir := h.Typeflag == tar.TypeDir
	switch {
	case isDir(&st) && dir:
		return true, nil
	case u.noOverwrite && isDir(&st):
		return false, invalid("cannot overwrite directory %q with non-directory %q", full, u.dest)
	case u.noOverwrite && dir:
		return false, invalid("cannot overwrite non-directory %q with directory %q", full, u.dest)
	}
	return false, named(removeAll(parent, base), full)
}

// removeAll removes an entry of a directory and what is below it, following nothing.
func removeAll(parent int, name string) error {
	err := unix.Unlinkat(parent, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	dir, oerr := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if oerr != nil {
		return err
	}
	list, err := names(dir)
	for _, n := range list {
		if err == nil {
			err = removeAll(dir, n)
		}
	}
	unix.Close(dir)
	if err != nil {
		return err
	}
	return unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
}

// create makes the entry and opens it: a regular file by the very descriptor
// that made it, so that nobody can put another one in its place.
func (u *unpacker) create(parent int, base string, h *tar.Header, r io.Reader, there bool) (int, error) {
	var err error
	perm := uint32(h.Mode) & 0o7777
	switch h.Typeflag {
	case tar.TypeReg, '\x00':
		return u.regular(parent, base, r)
	case tar.TypeDir:
		if !there {
			err = unix.Mkdirat(parent, base, perm)
		}
	case tar.TypeSymlink:
		err = unix.Symlinkat(h.Linkname, parent, base)
	case tar.TypeLink:
		err = u.link(parent, base, h.Linkname)
	case tar.TypeChar:
		err = unix.Mknodat(parent, base, unix.S_IFCHR|perm, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	case tar.TypeBlock:
		err = unix.Mknodat(parent, base, unix.S_IFBLK|perm, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	case tar.TypeFifo:
		err = unix.Mknodat(parent, base, unix.S_IFIFO|perm, 0)
	default:
		return -1, invalid("unhandled tar header type %d", h.Typeflag)
	}
	if err != nil {
		return -1, err
	}
	return child(parent, base)
}

func (u *unpacker) regular(parent int, base string, r io.Reader) (int, error) {
	fd, err := unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, err
	}
	w := fdWriter(fd)
	if _, err := io.CopyBuffer(onlyWriter{w}, onlyReader{r}, make([]byte, 128<<10)); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

type onlyReader struct{ io.Reader }

// fdWriter writes to a descriptor that the caller closes.
type fdWriter int

func (w fdWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		m, err := unix.Write(int(w), p[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}

// link makes a hard link to another file below the destination.
func (u *unpacker) link(parent int, base, to string) error {
	full, err := u.inside(to)
	if err != nil {
		return invalid("invalid hardlink %q -> %q", to, base)
	}
	dir, name := path.Split(full)
	from, err := kmount.OpenIn(u.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	return unix.Linkat(from, name, parent, base, 0)
}

// finish gives the entry its owner, attributes, mode and time.
func (u *unpacker) finish(parent int, base string, fd int, h *tar.Header) error {
	if err := unix.Fchownat(fd, "", h.Uid, h.Gid, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	times := []unix.Timespec{stamp(h.ModTime), stamp(h.ModTime)}
	if h.Typeflag == tar.TypeSymlink {
		return unix.UtimesNanoAt(parent, base, times, unix.AT_SYMLINK_NOFOLLOW)
	}
	at := byFD(fd)
	if err := unix.Chmod(at, uint32(h.Mode)&0o7777); err != nil {
		return err
	}
	for k, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, "SCHILY.xattr.")
		if !ok || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		err := unix.Setxattr(at, name, []byte(value), 0)
		if err != nil && err != unix.ENOTSUP && err != unix.EPERM {
			return fmt.Errorf("set attribute %s: %w", name, err)
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, at, times, 0)
}

// setTime gives a directory its time. It may have been moved away meanwhile.
func (u *unpacker) setTime(d dirTime) {
	fd, err := kmount.OpenIn(u.root, d.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	t := stamp(d.at)
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, byFD(fd), []unix.Timespec{t, t}, 0) // only its looks
}

func stamp(t time.Time) unix.Timespec {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return unix.NsecToTimespec(0)
	}
	return ts
}
