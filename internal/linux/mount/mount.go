// Package mount owns mounting by descriptor: detached trees, their attributes,
// and targets resolved inside a root that may be hostile. It never needs
// /proc, and it links nothing heavy, because a program of a few hundred
// kilobytes uses it between fork and exec.
package mount

import (
	"golang.org/x/sys/unix"
)

// Error says which system call on what failed.
type Error struct {
	Op, Path string
	Err      error
}

func (e *Error) Error() string {
	if e.Path == "" {
		return e.Op + ": " + e.Err.Error()
	}
	return e.Op + " " + e.Path + ": " + e.Err.Error()
}

// Unwrap gives the errno.
func (e *Error) Unwrap() error { return e.Err }

// New makes a detached instance of the file system fstype. options are
// "key=value" or flags; attr are MOUNT_ATTR_* of the mount. The caller closes
// the descriptor; the tree goes with it when it was not attached.
func New(fstype, source string, options []string, attr uint64) (int, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, &Error{"fsopen", fstype, err}
	}
	defer unix.Close(fs)
	if source != "" {
		if err := unix.FsconfigSetString(fs, "source", source); err != nil {
			return -1, &Error{"fsconfig source", source, err}
		}
	}
	for _, o := range options {
		key, value, has := cut(o, '=')
		if has {
			err = unix.FsconfigSetString(fs, key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return -1, &Error{"mount " + fstype + ": option", o, explained(fs, err)}
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, &Error{"create file system", fstype, explained(fs, err)}
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(attr))
	if err != nil {
		return -1, &Error{"fsmount", fstype, err}
	}
	return fd, nil
}

// said is an errno with what the kernel said to it.
type said struct {
	errno error
	text  string
}

func (s *said) Error() string { return s.errno.Error() + " (" + s.text + ")" }
func (s *said) Unwrap() error { return s.errno }

// explained adds the errors that the kernel noted for the file system that is
// being made, if it noted any: the errno alone does not say what is wrong.
func explained(fs int, errno error) error {
	var text string
	var buf [1024]byte
	for {
		n, err := unix.Read(fs, buf[:]) // a message each, ENODATA after the last
		if err == unix.EINTR {
			continue
		}
		if err != nil || n < 2 {
			break
		}
		if s := string(buf[2:n]); buf[0] == 'e' { // "e" error, "w" warning, "i" information
			for s != "" && s[len(s)-1] == '\n' {
				s = s[:len(s)-1]
			}
			if text != "" {
				text += "; "
			}
			text += s
		}
	}
	if text == "" {
		return errno
	}
	return &said{errno, text}
}

func cut(s string, sep byte) (before, after string, found bool) {
	for i := range len(s) {
		if s[i] == sep {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// Clone copies the tree at path, relative to dir (unix.AT_FDCWD for the usual
// meaning), as a detached one. An empty path means dir itself.
func Clone(dir int, path string, recursive bool) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	fd, err := unix.OpenTree(dir, path, flags)
	if err != nil {
		return -1, &Error{"open tree", path, err}
	}
	return fd, nil
}

// Attach moves the detached tree onto target, both given as descriptors.
func Attach(tree, target int) error {
	err := unix.MoveMount(tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return &Error{"move mount", "", err}
	}
	return nil
}

// Change sets and clears attributes of the mount fd, and of all below it with
// recursive. spread is MS_PRIVATE, MS_SLAVE, MS_SHARED or 0.
func Change(fd int, set, clear, spread uint64, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if set&unix.MOUNT_ATTR__ATIME != 0 || set&unix.MOUNT_ATTR_STRICTATIME != 0 || set&unix.MOUNT_ATTR_NOATIME != 0 {
		clear |= unix.MOUNT_ATTR__ATIME
	}
	attr := unix.MountAttr{Attr_set: set, Attr_clr: clear, Propagation: spread}
	if err := unix.MountSetattr(fd, "", flags, &attr); err != nil {
		return &Error{"set mount attributes", "", err}
	}
	return nil
}

// Map makes the detached tree fd show the owners of its files as the user
// namespace userns maps them. The tree must not have been attached yet.
func Map(fd, userns int, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns)}
	if err := unix.MountSetattr(fd, "", flags, &attr); err != nil {
		return &Error{"map the owners of a mount", "", err}
	}
	return nil
}

// Isolate gives all mounts of this mount namespace the propagation flag
// (MS_PRIVATE or MS_SLAVE).
func Isolate(flag uintptr) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|flag, ""); err != nil {
		return &Error{"change propagation of", "/", err}
	}
	return nil
}

// Pivot makes root, a mount of this namespace, the root directory and drops
// everything else of the old one. The working directory is the new root after it.
func Pivot(root int) error {
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &Error{"open", "/", err}
	}
	defer unix.Close(old)
	if err := unix.Fchdir(root); err != nil {
		return &Error{"enter", "new root", err}
	}
	// The old root ends up stacked on the new one, so no directory is needed for it.
	if err := unix.PivotRoot(".", "."); err != nil {
		return &Error{"pivot_root", "", err}
	}
	if err := unix.Fchdir(old); err != nil {
		return &Error{"enter", "old root", err}
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return &Error{"unmount", "old root", err}
	}
	if err := unix.Chdir("/"); err != nil {
		return &Error{"chdir", "/", err}
	}
	return nil
}
