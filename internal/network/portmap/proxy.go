package portmap

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dialTimeout = 10 * time.Second
	// udpIdle ends the flow of a client that is silent.
	udpIdle = 90 * time.Second
	// udpFlows bounds the clients of one port that are served at a time.
	udpFlows = 1024
)

// hold binds a socket to the address; nil when the kernel has no such protocol,
// and so nobody can take the port.
func hold(w Want, at netip.AddrPort) (closer, error) {
	family := "4"
	if at.Addr().Is6() {
		family = "6"
	}
	switch w.Proto {
	case "tcp":
		l, err := net.ListenTCP("tcp"+family, net.TCPAddrFromAddrPort(at))
		if err != nil {
			return nil, err
		}
		go serveTCP(l, w.Proxy, w.target(at.Addr()))
		return l, nil
	case "udp":
		c, err := net.ListenUDP("udp"+family, net.UDPAddrFromAddrPort(at))
		if err != nil {
			return nil, err
		}
		go serveUDP(c, w.Proxy, w.target(at.Addr()))
		return c, nil
	}
	return holdSCTP(at)
}

func holdSCTP(at netip.AddrPort) (closer, error) {
	domain, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(at.Port())})
	if at.Addr().Is6() {
		domain, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	} else {
		sa.(*unix.SockaddrInet4).Addr = at.Addr().As4()
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "sctp")
	if domain == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			f.Close()
			return nil, err
		}
	}
	if err := unix.Bind(fd, sa); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func serveTCP(l *net.TCPListener, proxy bool, to netip.AddrPort) {
	for {
		c, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors: the client waits in the backlog meanwhile.
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if !proxy {
			c.SetLinger(0)
			c.Close()
			continue
		}
		go carry(c, to)
	}
}

func carry(c *net.TCPConn, to netip.AddrPort) {
	defer c.Close()
	d, err := net.DialTimeout("tcp", to.String(), dialTimeout)
	if err != nil {
		c.SetLinger(0) // refuse, as the target did
		return
	}
	t := d.(*net.TCPConn)
	defer t.Close()
	done := make(chan struct{})
	go func() {
		io.Copy(t, c) // splice(2)
		t.CloseWrite()
		close(done)
	}()
	io.Copy(c, t)
	c.CloseWrite()
	<-done
}

// flows are the clients of one UDP port.
type flows struct {
	mu sync.Mutex
	m  map[netip.AddrPort]*net.UDPConn
}

func serveUDP(c *net.UDPConn, proxy bool, to netip.AddrPort) {
	f := flows{m: map[netip.AddrPort]*net.UDPConn{}}
	defer f.close()
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || !proxy {
			continue // an ICMP error of an earlier answer
		}
		out := f.get(c, from, to)
		if out != nil {
			out.SetReadDeadline(time.Now().Add(udpIdle))
			out.Write(buf[:n])
		}
	}
}

func (f *flows) get(c *net.UDPConn, from, to netip.AddrPort) *net.UDPConn {
	f.mu.Lock()
	defer f.mu.Unlock()
	if out := f.m[from]; out != nil {
		return out
	}
	if len(f.m) >= udpFlows {
		return nil
	}
	out, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return nil
	}
	f.m[from] = out
	go func() {
		defer f.drop(from, out)
		buf := make([]byte, 64<<10)
		for {
			n, err := out.Read(buf)
			if errors.Is(err, unix.ECONNREFUSED) {
				continue
			}
			if err != nil {
				return
			}
			if _, err := c.WriteToUDPAddrPort(buf[:n], from); err != nil {
				return
			}
		}
	}()
	return out
}

func (f *flows) drop(from netip.AddrPort, out *net.UDPConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.m, from)
	out.Close()
}

func (f *flows) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, out := range f.m {
		out.Close()
	}
}
