package rtnl

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
)

// uses is how often one instance of proc serves. The kernel keeps what was
// looked up of every namespace's settings in one list for each instance, and
// goes through all of it at each look: with the host's /proc, the thousandth
// namespace would cost several times what the first does.
const uses = 64

// proc is an instance of the proc file system of our own, out of sight.
type proc struct {
	root   *os.File
	left   int
	users  int
	closed bool
}

var instances struct {
	mu   sync.Mutex
	now  *proc // nil before the first use
	none bool  // there can be none: the host's /proc serves
}

// borrow gives the directory whose sys/net is the calling thread's namespace's.
func borrow() (root *os.File, done func()) {
	i := &instances
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.none {
		return nil, func() {}
	}
	if i.now == nil || i.now.left == 0 {
		fd, err := mount.New("proc", "proc", nil, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
		if err != nil {
			i.none = true
			return nil, func() {}
		}
		if old := i.now; old != nil {
			old.closed = true
			if old.users == 0 {
				old.root.Close()
			}
		}
		i.now = &proc{root: os.NewFile(uintptr(fd), "proc"), left: uses}
	}
	p := i.now
	p.left--
	p.users++
	return p.root, func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		if p.users--; p.users == 0 && p.closed {
			p.root.Close()
		}
	}
}

// openSysctl opens sys/<path> as the calling thread sees it.
func openSysctl(path string, flags int) (*os.File, error) {
	root, done := borrow()
	defer done()
	if root == nil {
		return os.OpenFile("/proc/sys/"+path, flags, 0)
	}
	fd, err := unix.Openat(int(root.Fd()), filepath.Join("sys", path), flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/proc/sys/" + path, Err: err}
	}
	return os.NewFile(uintptr(fd), "/proc/sys/"+path), nil
}

// ReadSysctl reads /proc/sys/<path> as the calling thread sees it.
func ReadSysctl(path string) (string, error) {
	f, err := openSysctl(path, os.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var b [4096]byte
	n, err := unix.Read(int(f.Fd()), b[:])
	if err != nil {
		return "", &os.PathError{Op: "read", Path: f.Name(), Err: err}
	}
	return strings.TrimSpace(string(b[:n])), nil
}

// WriteSysctl sets /proc/sys/<path> as the calling thread sees it.
func WriteSysctl(path, value string) error {
	f, err := openSysctl(path, os.O_WRONLY)
	if err != nil {
		return err
	}
	if _, err = unix.Write(int(f.Fd()), []byte(value)); err != nil {
		err = &os.PathError{Op: "write", Path: f.Name(), Err: err}
	}
	return errors.Join(err, f.Close())
}
