package cp

import (
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	kmount "github.com/wherry-engine/wherry/internal/linux/mount"
)

// maxLinks is how many symbolic links target follows, as the kernel does.
const maxLinks = 40

// absolute is p from the root, without dots; a slash or "/." at its end stays,
// for it says that a directory is meant.
func absolute(p string) string {
	abs := path.Join("/", p)
	slash := strings.HasSuffix(abs, "/")
	switch {
	case p == "." || strings.HasSuffix(p, "/."):
		if !slash {
			abs += "/"
		}
		return abs + "."
	case strings.HasSuffix(p, "/") && !slash:
		return abs + "/"
	}
	return abs
}

// locate opens (O_PATH) what abs names: links on the way are followed inside
// the root, one at the end is not, unless a slash follows it.
func (v *view) locate(abs string) (int, error) {
	dir, base := path.Split(abs)
	parent, err := kmount.OpenIn(v.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil || base == "" || base == "." {
		return parent, err
	}
	defer unix.Close(parent)
	return child(parent, base)
}

// child opens (O_PATH) one entry of a directory, whatever it is.
func child(dir int, name string) (int, error) {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &kmount.Error{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// follow opens (O_PATH) what p leads to, all links followed inside the root.
func (v *view) follow(p string) (int, error) {
	return kmount.OpenIn(v.root, p, unix.O_PATH)
}

// target says where p leads when all its links are followed inside the root.
// It is a text for people and clients: what does not exist is taken as it
// stands, and nothing relies on it.
func (v *view) target(p string) string {
	at, left := "/", strings.Split(p, "/")
	for links := 0; len(left) > 0; {
		name := left[0]
		left = left[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		to, ok := "", false
		if dir, err := kmount.OpenIn(v.root, at, unix.O_PATH|unix.O_DIRECTORY); err == nil {
			to, ok = readlink(dir, name)
			unix.Close(dir)
		}
		if !ok || links == maxLinks {
			at = path.Join(at, name)
			continue
		}
		links++
		if path.IsAbs(to) {
			at = "/"
		}
		left = append(strings.Split(to, "/"), left...)
	}
	return at
}

func readlink(dir int, name string) (string, bool) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", false
	}
	return string(buf[:n]), true
}

// byFD is a path of the host's /proc that leads to exactly what fd has open.
func byFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// names lists a directory that is open in any way, sorted.
func names(dir int) ([]string, error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &kmount.Error{Op: "open", Path: "directory", Err: err}
	}
	d := os.NewFile(uintptr(fd), "directory")
	defer d.Close()
	list, err := d.Readdirnames(-1)
	slices.Sort(list)
	return list, err
}

func isDir(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

// fileMode is a kernel's mode as os.FileMode.
func fileMode(mode uint32) os.FileMode {
	m := os.FileMode(mode & 0o777)
	for _, b := range []struct {
		bit uint32
		to  os.FileMode
	}{{unix.S_ISUID, os.ModeSetuid}, {unix.S_ISGID, os.ModeSetgid}, {unix.S_ISVTX, os.ModeSticky}} {
		if mode&b.bit != 0 {
			m |= b.to
		}
	}
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		m |= os.ModeDir
	case unix.S_IFLNK:
		m |= os.ModeSymlink
	case unix.S_IFIFO:
		m |= os.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= os.ModeSocket
	case unix.S_IFBLK:
		m |= os.ModeDevice
	case unix.S_IFCHR:
		m |= os.ModeDevice | os.ModeCharDevice
	}
	return m
}
