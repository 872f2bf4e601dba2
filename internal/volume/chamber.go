package volume

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
)

// chamber is a mount namespace of the engine's own, empty but for the trees
// that were attached in it. A thread that does nothing else keeps it alive;
// containers' init programs take their mounts out of it by the thread's id. It
// comes into being with the first attachment and goes with the engine; what
// containers took lives on with them.
type chamber struct {
	mu   sync.Mutex
	tid  int // 0 when there is none
	work chan func()
	next int
}

// root is the path of what was attached as place, for a bind mount's source:
// a mount namespace by the id of a thread in it.
func (c *chamber) source(place string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return "/proc/" + strconv.Itoa(c.tid) + "/root/" + place
}

// attach puts a detached tree into the chamber. The tree stays the caller's.
func (c *chamber) attach(tree int) (place string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tid == 0 {
		if err := c.open(); err != nil {
			return "", fmt.Errorf("make a mount namespace for volumes: %w", err)
		}
	}
	return c.put(func() (int, error) { return unix.FcntlInt(uintptr(tree), unix.F_DUPFD_CLOEXEC, 0) })
}

// attachPart attaches once more what is at sub below a place; of is what users
// know the place as.
func (c *chamber) attachPart(place, sub, of string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.put(func() (int, error) {
		root, err := unix.Open("/"+place, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		defer unix.Close(root)
		return part(root, sub, of)
	})
}

// put attaches the tree that get makes at a place of its own; c.mu is held.
func (c *chamber) put(get func() (int, error)) (place string, err error) {
	c.next++
	place = strconv.Itoa(c.next)
	done := make(chan error)
	c.work <- func() {
		tree, err := get()
		if err == nil {
			err = put(tree, "/"+place)
			unix.Close(tree)
		}
		done <- err
	}
	return place, <-done
}

func put(tree int, path string) error {
	var st unix.Stat_t
	err := unix.Fstat(tree, &st)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = unix.Mkdir(path, 0o700)
	} else if err == nil {
		err = unix.Mknod(path, unix.S_IFREG|0o600, 0)
	}
	if err != nil {
		return err
	}
	target, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return mount.Attach(tree, target)
}

// detach takes a tree away again.
func (c *chamber) detach(place string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tid == 0 || place == "" {
		return
	}
	done := make(chan struct{})
	c.work <- func() {
		// It fails only where nothing is mounted, and then nothing is to be done.
		_ = unix.Unmount("/"+place, unix.MNT_DETACH)
		_ = unix.Rmdir("/" + place)
		_ = unix.Unlink("/" + place)
		close(done)
	}
	<-done
}

// take opens a clone of what was attached as place.
func (c *chamber) take(place string) (tree int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tid == 0 {
		return -1, errors.New("not mounted")
	}
	done := make(chan struct{})
	c.work <- func() {
		tree, err = mount.Clone(unix.AT_FDCWD, "/"+place, true)
		close(done)
	}
	<-done
	return tree, err
}

// device tells the number of the file system at a place.
func (c *chamber) device(place string) (uint64, error) {
	fd, err := c.take(place)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	return st.Dev, err
}

// open starts the thread; c.mu is held.
func (c *chamber) open() error {
	ready := make(chan error)
	work := make(chan func())
	go onThread(func() {
		err := furnish()
		c.tid = unix.Gettid()
		ready <- err
		if err != nil {
			return
		}
		for f := range work {
			f()
		}
	})
	if err := <-ready; err != nil {
		c.tid = 0
		return err
	}
	c.work = work
	return nil
}

// furnish gives the calling thread a mount namespace with nothing in it: the
// host's mounts would be kept busy otherwise.
func furnish() error {
	if err := leaveHost(); err != nil {
		return err
	}
	tree, err := mount.New("tmpfs", "wherry-volumes", []string{"mode=0700", "size=1m"}, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	here, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(here)
	if err := mount.Attach(tree, here); err != nil {
		return err
	}
	return mount.Pivot(tree)
}

// leaveHost gives the calling thread mounts of its own that the host does not see.
func leaveHost() error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return err
	}
	return mount.Isolate(unix.MS_PRIVATE)
}

// close ends the namespace.
func (c *chamber) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tid != 0 {
		close(c.work)
		c.tid = 0
	}
}

// apart runs f on a thread with a mount namespace of its own, which is gone
// afterwards.
func apart(f func() error) error {
	done := make(chan error)
	go onThread(func() {
		err := leaveHost()
		if err == nil {
			err = f()
		}
		done <- err
	})
	return <-done
}

// onThread runs f on a thread that ends with it. It is never the first thread,
// which does not end and whose mounts are what others take for the process's.
func onThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return // with the thread locked, so that it ends
	}
	started := make(chan struct{})
	go func() {
		runtime.LockOSThread() // another one, for the first is held
		close(started)
		f()
	}()
	<-started
	runtime.UnlockOSThread()
}
