package rtnl

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Current opens the network namespace of the calling thread.
func Current() (*os.File, error) {
	// thread-self, not self: the process's main thread may be elsewhere.
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return f, nil
}

// Lock keeps others who call it out until unlock; it is a lock of the network
// namespace, held by no file system's name and ending with its holder.
func Lock(ns *os.File) (unlock func(), err error) {
	// A description of its own: a lock belongs to one.
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()))
	if err != nil {
		return nil, fmt.Errorf("lock network namespace: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock network namespace: %w", err)
	}
	return func() { f.Close() }, nil
}

// Spawn makes a new network namespace and runs fn inside it with a socket
// there. The namespace lives as long as the returned descriptor or anything in
// it; it has no name. home is where the thread goes back to.
func Spawn(home *os.File, fn func(ns *os.File, in *Conn) error) (*os.File, error) {
	var ns *os.File
	err := inside(home, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		f, err := Current()
		if err != nil {
			return err
		}
		c, err := Dial()
		if err != nil {
			f.Close()
			return err
		}
		defer c.Close()
		if fn != nil {
			if err := fn(f, c); err != nil {
				f.Close()
				return err
			}
		}
		ns = f
		return nil
	})
	if err != nil && ns != nil {
		ns.Close()
		ns = nil
	}
	return ns, err
}

// Enter runs fn inside an existing network namespace with a socket there.
func Enter(home, ns *os.File, fn func(in *Conn) error) error {
	return inside(home, func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		c, err := Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		return fn(c)
	})
}

// inside runs fn on a thread that may change its network namespace, and takes
// the thread back to home. A thread that cannot be taken back dies with its
// goroutine. It is never the process's first thread: that cannot die, and
// /proc/PID/ns/net shows where it is to whoever enters our namespace.
func inside(home *os.File, fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread() // locked here meanwhile, so that fn gets another
			result <- inside(home, fn)
			return
		}
		err := fn()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		} else if err == nil {
			err = fmt.Errorf("return to the network namespace: %w", back)
		}
		result <- err
	}()
	return <-result
}
