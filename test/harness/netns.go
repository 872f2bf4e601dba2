package harness

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// newNetNS makes a network namespace with loopback up. It lives as long as
// the file or a process in it.
func newNetNS() (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result, 1)
	onThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		// A new namespace inherits from the host whether it forwards packets; a
		// host on which no engine ever ran does not.
		for _, path := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			err := os.WriteFile("/proc/sys/net/"+path, []byte("0"), 0)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				done <- result{nil, err}
				return
			}
		}
		if err := loopbackUp(); err != nil {
			done <- result{nil, err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		done <- result{f, err}
	})
	r := <-done
	return r.f, r.err
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req)
}

// onThread calls f on a thread of its own, which ends with it. It is never the
// main thread: what that is in, /proc/self shows of the whole process.
func onThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		done := make(chan struct{})
		go func() { // not here: this goroutine keeps the main thread busy meanwhile
			runtime.LockOSThread()
			defer close(done)
			f()
		}()
		<-done
		runtime.UnlockOSThread()
	}()
}

// inNetNS calls f on a thread of the namespace; nil is the one we are in.
// A process that f starts is born there.
func inNetNS(ns *os.File, f func() error) error {
	if ns == nil {
		return f()
	}
	done := make(chan error, 1)
	onThread(func() {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	})
	return <-done
}

// Dial connects from the network namespace that the engine lives in.
func (e *Engine) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = inNetNS(e.netns, func() error {
		// To an address that is not a name, the socket is made on this thread.
		c, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return c, err
}
