package mount

import (
	"errors"

	"golang.org/x/sys/unix"
)

// maxLinks is how many dangling links MkdirAll follows, as the kernel's own limit.
const maxLinks = 40

// OpenIn opens path inside the directory root: absolute links and ".." stay
// inside, magic links of /proc are refused.
func OpenIn(root int, path string, flags uint64) (int, error) {
	return openat2(root, path, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// OpenBelow opens path under dir without following any link or crossing into
// another mount: for the files of a file system that was just made.
func OpenBelow(dir int, path string, flags uint64) (int, error) {
	return openat2(dir, path, flags, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
}

// OpenStrict is OpenIn that refuses every link on the way.
func OpenStrict(root int, path string, flags uint64) (int, error) {
	return openat2(root, path, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
}

func openat2(dir int, path string, flags, resolve uint64) (int, error) {
	if path == "" {
		path = "."
	}
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	for {
		fd, err := unix.Openat2(dir, path, &how)
		// EAGAIN: a rename raced with the walk, the kernel could not vouch for it.
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return -1, &Error{"open", path, err}
		}
		return fd, nil
	}
}

// MkdirAll makes the directory path inside root with all its parents and opens
// it (O_PATH). Links are followed inside root, also those that point to
// nothing yet.
func MkdirAll(root int, path string, mode uint32) (int, error) {
	fd, _, err := makeIn(root, path, mode, false, maxLinks)
	return fd, err
}

// CreateFile is MkdirAll for an empty regular file; an existing file of any
// kind is opened as it is.
func CreateFile(root int, path string, mode uint32) (int, error) {
	fd, _, err := makeIn(root, path, mode, true, maxLinks)
	return fd, err
}

// MkdirAllMode is MkdirAll that also tells whether the last directory is new.
func MkdirAllMode(root int, path string, mode uint32) (fd int, made bool, err error) {
	return makeIn(root, path, mode, false, maxLinks)
}

func makeIn(root int, path string, mode uint32, file bool, links int) (int, bool, error) {
	flags := uint64(unix.O_PATH)
	if !file {
		flags |= unix.O_DIRECTORY
	}
	fd, err := OpenIn(root, path, flags)
	if err == nil {
		return fd, false, nil
	}
	if !errors.Is(err, unix.ENOENT) {
		return -1, false, err
	}
	if links == 0 {
		return -1, false, &Error{"create", path, unix.ELOOP}
	}
	dir, base := split(path)
	if base == "" || base == "." || base == ".." {
		return -1, false, &Error{"create", path, unix.ENOENT}
	}
	parent, _, err := makeIn(root, dir, 0o755, false, links-1)
	if err != nil {
		return -1, false, err
	}
	defer unix.Close(parent)
	if file {
		err = unix.Mknodat(parent, base, unix.S_IFREG|mode, 0)
	} else {
		err = unix.Mkdirat(parent, base, mode)
	}
	if errors.Is(err, unix.EEXIST) {
		if to, ok := readlink(parent, base); ok {
			if to != "" && to[0] != '/' {
				to = dir + "/" + to
			}
			return makeIn(root, to, mode, file, links-1)
		}
	} else if err != nil {
		return -1, false, &Error{"create", path, err}
	}
	// Not OpenIn: what was made is opened through its parent, whatever happened to the path.
	fd, err = unix.Openat(parent, base, int(flags)|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, false, &Error{"open", path, err}
	}
	return fd, true, nil
}

func readlink(dir int, name string) (string, bool) {
	var buf [4096]byte
	n, err := unix.Readlinkat(dir, name, buf[:])
	if err != nil {
		return "", false
	}
	return string(buf[:n]), true
}

// split cuts path at its last slash, ignoring slashes at the end.
func split(path string) (dir, base string) {
	for len(path) > 0 && path[len(path)-1] == '/' {
		path = path[:len(path)-1]
	}
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[:i], path[i+1:]
		}
	}
	return "", path
}

// FSType gives the magic number of the file system that fd is on.
func FSType(fd int) (int64, error) {
	var s unix.Statfs_t
	for {
		err := unix.Fstatfs(fd, &s)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, &Error{"fstatfs", "", err}
		}
		return int64(s.Type), nil //nolint:unconvert // 32 bits on some architectures
	}
}
