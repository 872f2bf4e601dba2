package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
)

// copier copies a tree by descriptors only: the target may be a volume that a
// running container writes to, whose links must not lead anywhere.
type copier struct {
	ctx   context.Context
	root  int                  // of the target
	links map[[2]uint64]string // device and inode of the source -> path below root
}

// copyInto copies the content of the directory source into the directory root
// and gives root the attributes of source.
func copyInto(ctx context.Context, source, root int) error {
	c := &copier{ctx: ctx, root: root, links: map[[2]uint64]string{}}
	return c.directory(source, root, ".")
}

// directory copies what is in src, and src's own attributes, to dst.
func (c *copier) directory(src, dst int, path string) error {
	again, err := unix.Openat(src, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &mount.Error{Op: "open", Path: path, Err: err}
	}
	list := os.NewFile(uintptr(again), path)
	defer list.Close()
	for {
		names, err := list.Readdirnames(256)
		for _, name := range names {
			if err := c.entry(src, dst, name, path+"/"+name); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return c.attributesOf(src, dst, path)
		case err != nil:
			return err
		case c.ctx.Err() != nil:
			return c.ctx.Err()
		}
	}
}

func (c *copier) attributesOf(src, dst int, path string) error {
	var st unix.Stat_t
	err := unix.Fstat(src, &st)
	if err == nil {
		err = attributes(src, dst, &st)
	}
	if err != nil {
		return &mount.Error{Op: "set attributes of", Path: path, Err: err}
	}
	return nil
}

// entry copies one name.
func (c *copier) entry(src, dst int, name, path string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(src, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &mount.Error{Op: "stat", Path: path, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFCHR && st.Rdev == 0 {
		return nil // what an overlay calls removed
	}
	key := [2]uint64{st.Dev, st.Ino}
	if first, ok := c.links[key]; ok && kind != unix.S_IFDIR {
		return c.link(first, dst, name)
	}
	var err error
	switch kind {
	case unix.S_IFDIR:
		err = c.subdirectory(src, dst, name, path)
	case unix.S_IFREG:
		err = c.file(src, dst, name, &st)
	case unix.S_IFLNK:
		err = c.symlink(src, dst, name, &st)
	default:
		if err = unix.Mknodat(dst, name, st.Mode, int(st.Rdev)); err == nil {
			err = named(dst, name, &st, true)
		}
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	if st.Nlink > 1 && kind != unix.S_IFDIR {
		c.links[key] = path
	}
	return nil
}

// link makes name another name of what was copied to first.
func (c *copier) link(first string, dst int, name string) error {
	fd, err := mount.OpenBelow(c.root, first, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Linkat(fd, "", dst, name, unix.AT_EMPTY_PATH); err != nil {
		return &mount.Error{Op: "link", Path: first, Err: err}
	}
	return nil
}

func (c *copier) subdirectory(src, dst int, name, path string) error {
	from, err := unix.Openat(src, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	if err := unix.Mkdirat(dst, name, 0o700); err != nil {
		return err
	}
	to, err := unix.Openat(dst, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	return c.directory(from, to, path)
}

func (c *copier) file(src, dst int, name string, st *unix.Stat_t) error {
	fd, err := unix.Openat(src, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	from := os.NewFile(uintptr(fd), name)
	defer from.Close()
	fd, err = unix.Openat(dst, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	to := os.NewFile(uintptr(fd), name)
	defer to.Close()
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) != nil { // shares the blocks where the file system can
		if _, err := io.Copy(to, from); err != nil {
			return err
		}
	}
	return attributes(int(from.Fd()), int(to.Fd()), st)
}

func (c *copier) symlink(src, dst int, name string, st *unix.Stat_t) error {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(src, name, buf[:])
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(string(buf[:n]), dst, name); err != nil {
		return err
	}
	return named(dst, name, st, false)
}

// named sets owner, mode and times of what cannot be opened.
func named(dir int, name string, st *unix.Stat_t, mode bool) error {
	err := unix.Fchownat(dir, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && mode {
		err = chmodAt(dir, name, st.Mode&0o7777)
	}
	if err == nil {
		err = unix.UtimesNanoAt(dir, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	}
	return err
}

// chmodAt changes the mode of what is no link; before Linux 6.6 no system call
// does that by name.
func chmodAt(dir int, name string, mode uint32) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return unix.ELOOP // exchanged meanwhile
	}
	return unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode)
}

// attributes gives the file dst those of src: owner before mode and
// capabilities, which a change of owner takes away, and times last. The
// target may be open for its path only.
func attributes(src, dst int, st *unix.Stat_t) error {
	if err := unix.Fchownat(dst, "", int(st.Uid), int(st.Gid), unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	self := "/proc/self/fd/" + strconv.Itoa(dst)
	if err := extended(src, self); err != nil {
		return err
	}
	if err := unix.Chmod(self, st.Mode&0o7777); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, self, []unix.Timespec{st.Atim, st.Mtim}, 0)
}

// extended copies the extended attributes, but not the overlay's own, and
// passes over those that the target's file system has no place for.
func extended(src int, target string) error {
	n, err := unix.Flistxattr(src, nil)
	if err != nil || n == 0 {
		return ignore(err)
	}
	names := make([]byte, n+1024)
	if n, err = unix.Flistxattr(src, names); err != nil {
		return ignore(err)
	}
	for _, name := range bytes.Split(bytes.TrimRight(names[:n], "\x00"), []byte{0}) {
		key := string(name)
		if key == "" || strings.HasPrefix(key, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 64<<10) // the most that Linux allows
		n, err := unix.Fgetxattr(src, key, value)
		if err == nil {
			err = unix.Setxattr(target, key, value[:n], 0)
		}
		if ignore(err) != nil {
			return &mount.Error{Op: "set " + key + " of", Path: target, Err: err}
		}
	}
	return nil
}

func ignore(err error) error {
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EPERM) {
		return nil
	}
	return err
}
