package main

import (
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// turns is both ends of connections, on one thread of one processor: so nothing
// waits for anybody, and what is measured is the kernel's time alone. The client's
// namespace is file descriptor 3, the server's 4. A turn is a connection (connect),
// a byte there and one back (exchange), or 64 KiB there (pour). It prints what one
// takes, in µs, in the fastest tenth of the time.
func turns(kind, addr, port string, d time.Duration) (err error) {
	runtime.LockOSThread()
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		return err
	}
	for i, last := 0, cpus.Count()-1; last > 0; i++ { // the last of them
		if cpus.IsSet(i) {
			cpus.Clear(i)
			last--
		}
	}
	if err := unix.SchedSetaffinity(0, &cpus); err != nil {
		return err
	}
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	at, err := netip.ParseAddrPort("0.0.0.0:" + port)
	if err != nil {
		return err
	}
	if err := unix.Setns(4, unix.CLONE_NEWNET); err != nil {
		return err
	}
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(listener, &unix.SockaddrInet4{Port: int(at.Port())}); err != nil {
		return err
	}
	if err := unix.Listen(listener, 16); err != nil {
		return err
	}
	if err := unix.Setns(3, unix.CLONE_NEWNET); err != nil {
		return err
	}
	buf := make([]byte, 16)
	say := func(from, to int) error {
		if _, err := unix.Write(from, buf[:1]); err != nil {
			return err
		}
		_, err := unix.Read(to, buf)
		return err
	}
	open := func() (client, server int, err error) {
		if client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err != nil {
			return 0, 0, err
		}
		if err = unix.Connect(client, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
			return 0, 0, err
		}
		server, _, err = unix.Accept(listener)
		return client, server, err
	}
	client, server, err := open()
	if err != nil {
		return err
	}
	for _, fd := range []int{client, server} {
		// Who waits here waits for itself: better an error.
		for _, way := range []int{unix.SO_SNDTIMEO, unix.SO_RCVTIMEO} {
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, way, &unix.Timeval{Sec: 10}); err != nil {
				return err
			}
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return err
		}
	}
	var turn func() error
	times := 50
	switch kind {
	case "exchange":
		turn = func() error {
			if err := say(client, server); err != nil {
				return err
			}
			return say(server, client)
		}
	case "pour":
		much := make([]byte, 64<<10)
		turn = func() error {
			sent, err := unix.Write(client, much)
			for sent > 0 && err == nil {
				var n int
				if n, err = unix.Read(server, much); n == 0 && err == nil {
					err = io.ErrUnexpectedEOF
				}
				sent -= n
			}
			return err
		}
	case "connect":
		times = 10
		turn = func() error {
			client, server, err := open()
			if err != nil {
				return err
			}
			if err := say(server, client); err != nil {
				return err
			}
			if err := unix.Close(server); err != nil {
				return err
			}
			if _, err := unix.Read(client, buf); err != nil {
				return err
			}
			return unix.Close(client)
		}
	default:
		return fmt.Errorf("no turn is called %q", kind)
	}
	var took []float64
	for end := time.Now().Add(d); time.Now().Before(end); {
		begin := time.Now()
		for range times {
			if err := turn(); err != nil {
				return err
			}
		}
		took = append(took, float64(time.Since(begin).Nanoseconds())/1000/float64(times))
	}
	slices.Sort(took)
	fmt.Println(took[len(took)/10])
	return nil
}
