package main

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/runtime/initproto"
)

// procFile opens a file of /proc: below our own instance when there is one,
// else through the root, and then only if it really is a proc file system.
func (s *state) procFile(path string, flags uint64) (int, error) {
	if s.proc >= 0 {
		return mount.OpenBelow(s.proc, path, flags)
	}
	fd, err := mount.OpenStrict(s.root, "/proc/"+path, flags)
	if err != nil {
		return -1, err
	}
	if magic, err := mount.FSType(fd); err != nil || magic != unix.PROC_SUPER_MAGIC {
		unix.Close(fd)
		return -1, &mount.Error{Op: "open", Path: "/proc/" + path, Err: unix.EXDEV}
	}
	return fd, nil
}

// path opens something to protect, through our own /proc for what is in it.
func (s *state) path(p string) (int, error) {
	const proc = "/proc/"
	if s.proc >= 0 && len(p) > len(proc) && p[:len(proc)] == proc {
		return s.procFile(p[len(proc):], unix.O_PATH)
	}
	return mount.OpenIn(s.root, p, unix.O_PATH)
}

func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}

func (s *state) readonly(paths []string) *initproto.Failure {
	for _, p := range paths {
		fd, err := s.path(p)
		if missing(err) {
			continue
		}
		if err == nil {
			err = sealPath(fd)
			unix.Close(fd)
		}
		if err != nil {
			return fail("read-only path "+p, err)
		}
	}
	return nil
}

func sealPath(fd int) error {
	tree, err := mount.Clone(fd, "", true)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := mount.Change(tree, unix.MOUNT_ATTR_RDONLY, 0, 0, false); err != nil {
		return err
	}
	return mount.Attach(tree, fd)
}

// mask hides directories behind one empty read-only tmpfs and files behind
// /dev/null.
func (s *state) mask(paths []string) *initproto.Failure {
	empty := -1
	for _, p := range paths {
		fd, err := s.path(p)
		if missing(err) {
			continue
		}
		if err == nil {
			var st unix.Stat_t
			if err = unix.Fstat(fd, &st); err == nil {
				if st.Mode&unix.S_IFMT == unix.S_IFDIR {
					err = maskDir(fd, &empty)
				} else {
					err = s.maskFile(fd)
				}
			}
			unix.Close(fd)
		}
		if err != nil {
			return fail("mask "+p, err)
		}
	}
	return nil
}

// maskDir puts the shared empty tmpfs over fd. The first use makes and
// attaches it, later ones clone it: a detached one cannot be cloned on older kernels.
func maskDir(fd int, empty *int) error {
	if *empty >= 0 {
		tree, err := mount.Clone(*empty, "", false)
		if err != nil {
			return err
		}
		defer unix.Close(tree)
		return mount.Attach(tree, fd)
	}
	const attr = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	tree, err := mount.New("tmpfs", "tmpfs", []string{"size=4k", "nr_inodes=2"}, attr)
	if err != nil {
		return err
	}
	*empty = tree
	return mount.Attach(tree, fd)
}

func (s *state) maskFile(fd int) error {
	if s.null < 0 {
		null, err := mount.OpenIn(s.root, "/dev/null", unix.O_PATH)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstat(null, &st); err != nil {
			return err
		}
		// What hides a file must be the real null device, not something of the image's.
		if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
			return &mount.Error{Op: "check", Path: "/dev/null", Err: unix.ENODEV}
		}
		s.null = null
	}
	tree, err := mount.Clone(s.null, "", false)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return mount.Attach(tree, fd)
}

// reason is what the kernel said, without the path that was asked for.
func reason(err error) string {
	var e *mount.Error
	if errors.As(err, &e) {
		err = e.Err
	}
	return err.Error()
}

func (s *state) sysctl(pairs []string) *initproto.Failure {
	for i := 0; i+1 < len(pairs); i += 2 {
		fd, err := s.procFile("sys/"+pairs[i], unix.O_WRONLY)
		if err == nil {
			_, err = unix.Write(fd, []byte(pairs[i+1]))
			unix.Close(fd)
		}
		if err != nil {
			what := "write"
			if fd < 0 {
				what = "open"
			}
			return failText("sysctl", what+" /proc/sys/"+pairs[i]+": "+reason(err), err)
		}
	}
	return nil
}
