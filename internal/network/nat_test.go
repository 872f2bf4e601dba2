package network

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/test/promise"
)

// lan is a neighbour of the host: another namespace behind a link of the host
// with 192.0.2.1 here and 192.0.2.2 there.
type lan struct {
	t    testing.TB
	ns   *os.File
	home *os.File
	host netip.Addr
	peer netip.Addr
	link int
}

func newLAN(t testing.TB) *lan { return newLANAt(t, "lan0", "192.0.2.1/24", "192.0.2.2/24") }

func newLANAt(t testing.TB, name, host, peer string) *lan {
	t.Helper()
	home, err := rtnl.Current()
	if err != nil {
		t.Fatal(err)
	}
	hp, pp := netip.MustParsePrefix(host), netip.MustParsePrefix(peer)
	l := &lan{t: t, home: home, host: hp.Addr(), peer: pp.Addr()}
	rt, err := rtnl.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	l.ns, err = rtnl.Spawn(home, func(ns *os.File, in *rtnl.Conn) error {
		var b rtnl.Batch
		b.AddVeth(rtnl.Veth{Name: name, Peer: "eth0", PeerNS: int(ns.Fd())})
		if err := rt.Do(&b); err != nil {
			return err
		}
		links, err := in.Links()
		if err != nil {
			return err
		}
		var c rtnl.Batch
		c.SetUp(rtnl.LoopbackIndex)
		for _, x := range links {
			if x.Name == "eth0" {
				c.SetUp(x.Index)
				c.AddAddr(x.Index, pp)
				c.Sync("eth0")
				l.link = x.Index
			}
		}
		return in.Do(&c)
	})
	if err != nil {
		t.Fatal(err)
	}
	link, err := rt.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	var b rtnl.Batch
	b.AddAddr(link.Index, hp)
	b.Sync(name)
	if err := rt.Do(&b); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.ns.Close(); home.Close() })
	return l
}

// echo serves "who are you": it answers each TCP connection and each UDP
// datagram with the address it comes from, in the namespace ns (nil: here).
func echo(t testing.TB, home, ns *os.File, port int) {
	t.Helper()
	var l net.Listener
	var u net.PacketConn
	err := within(home, ns, func() (err error) {
		if l, err = net.Listen("tcp4", fmt.Sprintf(":%d", port)); err != nil {
			return err
		}
		u, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); u.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String())
			c.Close()
		}
	}()
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			u.WriteTo([]byte(from.(*net.UDPAddr).IP.String()), from)
		}
	}()
}

func within(home, ns *os.File, fn func() error) error {
	if ns == nil {
		return fn()
	}
	return rtnl.Enter(home, ns, func(*rtnl.Conn) error { return fn() })
}

// How long an answer is waited for: one that must not come, and one that must,
// also when the first packet is lost while a link comes up.
const (
	short = 400 * time.Millisecond
	long  = 5 * time.Second
)

// call asks an echo server who the caller is.
func call(home, ns *os.File, proto, addr string) (answer string, err error) {
	return callFor(short, home, ns, proto, addr)
}

func callFor(patience time.Duration, home, ns *os.File, proto, addr string) (answer string, err error) {
	err = within(home, ns, func() error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		c, err := net.DialTimeout(proto, addr, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		buf := make([]byte, 64)
		for begin := time.Now(); ; {
			if proto == "udp" {
				if _, err := c.Write([]byte("?")); err != nil {
					return err
				}
			}
			c.SetReadDeadline(time.Now().Add(time.Second))
			n, err := c.Read(buf)
			answer = string(buf[:n])
			if err == nil || proto == "tcp" || time.Since(begin) > patience {
				return err
			}
		}
	})
	return answer, err
}

// dialHere connects on the calling thread: to an address that is not a name,
// the dialler makes its socket on the calling goroutine.
func dialHere(proto, addr string) (net.Conn, error) {
	return net.DialTimeout(proto, addr, long)
}

func reaches(t testing.TB, what string, home, ns *os.File, proto, addr, as string) {
	t.Helper()
	got, err := callFor(long, home, ns, proto, addr)
	if err != nil {
		t.Errorf("%s: %s %s: %v", what, proto, addr, err)
	} else if as != "" && got != as {
		t.Errorf("%s: %s %s: arrives from %s, want %s", what, proto, addr, got, as)
	}
}

func refused(t testing.TB, what string, home, ns *os.File, proto, addr string) {
	t.Helper()
	if got, err := call(home, ns, proto, addr); err == nil {
		t.Errorf("%s: %s %s is reachable (from %s)", what, proto, addr, got)
	}
}

func TestOutside(t *testing.T) { fresh(t, func() { outside(t) }) }

func outside(t *testing.T) {
	l := newLAN(t)
	m := open(t, testConfig(t))
	sb := attach(t, m, Request{})
	own := sb.Endpoints["bridge"].IPAddress.String()
	echo(t, m.home, l.ns, 7000)
	echo(t, m.home, nil, 7001)
	echo(t, m.home, sb.NS, 7002)
	for _, proto := range []string{"tcp", "udp"} {
		reaches(t, "container to LAN", m.home, sb.NS, proto, "192.0.2.2:7000", "192.0.2.1")
		reaches(t, "container to host", m.home, sb.NS, proto, "172.17.0.1:7001", own)
		reaches(t, "host to container", m.home, nil, proto, own+":7002", "172.17.0.1")
	}
	// A neighbour with a route to the containers does not get in.
	inNS(t, m, l.ns, func(c *rtnl.Conn) {
		var b rtnl.Batch
		b.AddRoute(l.link, netip.MustParsePrefix("172.17.0.0/16"), l.host)
		if err := c.Do(&b); err != nil {
			t.Fatal(err)
		}
	})
	refused(t, "LAN to container", m.home, l.ns, "tcp", own+":7002")
	refused(t, "LAN to container", m.home, l.ns, "udp", own+":7002")
	// A container's packets with a foreign source do not leave the bridge.
	var seen net.PacketConn
	if err := within(m.home, l.ns, func() (err error) { seen, err = net.ListenPacket("udp4", ":7005"); return err }); err != nil {
		t.Fatal(err)
	}
	defer seen.Close()
	arrives := func() bool {
		inNS(t, m, sb.NS, func(*rtnl.Conn) { spoof(t, "192.0.2.77", "192.0.2.2:7005") })
		seen.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, _, err := seen.ReadFrom(make([]byte, 16))
		return err == nil
	}
	if arrives() {
		t.Error("a spoofed packet got out")
	}
	m.watch.Close()
	// The same without rules shows that the test can see them.
	if err := m.nf.Delete("wherry"); err != nil {
		t.Fatal(err)
	}
	if !arrives() {
		t.Error("a spoofed packet does not even get out without rules")
	}
	reaches(t, "without rules", m.home, sb.NS, "udp", "192.0.2.2:7000", own)
	if err := m.assertRules(); err != nil {
		t.Fatal(err)
	}
	reaches(t, "rules again", m.home, sb.NS, "tcp", "192.0.2.2:7000", "192.0.2.1")
}

// spoof sends a UDP packet with any source, from the calling thread's namespace.
func spoof(t testing.TB, from, to string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	dst := netip.MustParseAddrPort(to)
	p := make([]byte, 29) // IPv4 header, UDP header, one byte; the kernel fills length and sum
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	copy(p[12:], netip.MustParseAddr(from).AsSlice())
	copy(p[16:], dst.Addr().AsSlice())
	p[20], p[21], p[22], p[23], p[25] = 4, 0, byte(dst.Port()>>8), byte(dst.Port()), 9
	if err := unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Addr: dst.Addr().As4()}); err != nil {
		t.Fatal(err)
	}
}

func TestNoRouterByAccident(t *testing.T) { fresh(t, func() { noRouterByAccident(t) }) }

func noRouterByAccident(t *testing.T) {
	a := newLANAt(t, "lan0", "192.0.2.1/24", "192.0.2.2/24")
	b := newLANAt(t, "lan1", "198.51.100.1/24", "198.51.100.2/24")
	m := open(t, testConfig(t))
	echo(t, m.home, b.ns, 7000)
	for _, l := range []*lan{a, b} {
		inNS(t, m, l.ns, func(c *rtnl.Conn) {
			var batch rtnl.Batch
			batch.AddRoute(l.link, netip.Prefix{}, l.host)
			if err := c.Do(&batch); err != nil {
				t.Fatal(err)
			}
		})
	}
	reaches(t, "host", m.home, nil, "tcp", "198.51.100.2:7000", "198.51.100.1")
	refused(t, "through the host", m.home, a.ns, "tcp", "198.51.100.2:7000")
	m.mu.Lock()
	m.cfg.IPForwardOpen = true
	m.mu.Unlock()
	if err := m.assertRules(); err != nil {
		t.Fatal(err)
	}
	reaches(t, "with --ip-forward-no-drop", m.home, a.ns, "tcp", "198.51.100.2:7000", "192.0.2.2")
}

func TestICCOff(t *testing.T) { fresh(t, func() { iccOff(t) }) }

func iccOff(t *testing.T) {
	l := newLAN(t)
	cfg := testConfig(t)
	cfg.ICC = false
	m := open(t, cfg)
	one, two := attach(t, m, Request{}), attach(t, m, Request{})
	echo(t, m.home, one.NS, 7000)
	echo(t, m.home, l.ns, 7000)
	refused(t, "container to container", m.home, two.NS, "tcp", one.Endpoints["bridge"].IPAddress.String()+":7000")
	reaches(t, "container to LAN", m.home, two.NS, "tcp", "192.0.2.2:7000", "192.0.2.1")
	reaches(t, "host to container", m.home, nil, "tcp", one.Endpoints["bridge"].IPAddress.String()+":7000", "")
}

func TestForwardPolicyDrop(t *testing.T) { fresh(t, func() { forwardPolicyDrop(t) }) }

func nftRun(t testing.TB, script string) {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func forwardPolicyDrop(t *testing.T) {
	promise.Program(t, "nft")
	const gate = "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }"
	nftRun(t, gate)
	l := newLAN(t)
	cfg := proxied(t)
	m, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	sb := attach(t, m, Request{Ports: ports("80/tcp", "8080")})
	echo(t, m.home, l.ns, 7000)
	echo(t, m.home, sb.NS, 80)
	// As docker: containers and their ports pass the gate, also after a reload of the host's rules.
	for range 2 {
		waitFor(t, "the way out", func() bool { _, err := call(m.home, sb.NS, "tcp", "192.0.2.2:7000"); return err == nil })
		reaches(t, "published port", m.home, l.ns, "tcp", "192.0.2.1:8080", "192.0.2.2")
		refused(t, "port that is not published", m.home, l.ns, "tcp", sb.Endpoints["bridge"].IPAddress.String()+":80")
		if w := m.Warnings(); len(w) != 0 {
			t.Errorf("warnings %q", w)
		}
		nftRun(t, "table ip filter {}; flush table ip filter; "+gate)
	}
	// A table of the administrator's own is left alone.
	nftRun(t, "table inet mine { chain f { type filter hook forward priority 0; policy drop; }; }")
	waitFor(t, "warning", func() bool { return len(m.Warnings()) == 1 })
	if w := m.Warnings(); w[0] != "nftables chain inet mine f drops forwarded packets by policy; containers reach other hosts only as far as its rules accept them" {
		t.Errorf("warnings %q", w)
	}
	refused(t, "policy of the host", m.home, sb.NS, "tcp", "192.0.2.2:7000")
	nftRun(t, "delete table inet mine")
	if err := m.Close(true); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("nft", "list", "ruleset").Output(); err != nil || strings.Contains(string(out), "wherry") {
		t.Errorf("left in the host's tables: %v\n%s", err, out)
	}
	// The host decides.
	cfg = proxied(t)
	cfg.HostPolicy = true
	m = open(t, cfg)
	nftRun(t, "table ip filter { chain INPUT { type filter hook input priority 0; policy drop; ct state established,related accept; iifname lo accept; }; }")
	sb = attach(t, m, Request{Ports: ports("80/tcp", "8080", "80/udp", "8080")})
	echo(t, m.home, sb.NS, 80)
	if w := m.Warnings(); len(w) != 1 {
		t.Errorf("warnings %q", w)
	}
	refused(t, "the way out", m.home, sb.NS, "tcp", "192.0.2.2:7000")
	refused(t, "published port", m.home, l.ns, "tcp", "192.0.2.1:8080")
	reaches(t, "host", m.home, nil, "tcp", "127.0.0.1:8080", "")
	nftRun(t, "add rule ip filter INPUT tcp dport 8080 accept; add rule ip filter FORWARD iifname wherry0 accept; add rule ip filter FORWARD oifname wherry0 accept")
	reaches(t, "published port that the host accepts", m.home, l.ns, "tcp", "192.0.2.1:8080", "")
	refused(t, "published port that the host does not accept", m.home, l.ns, "udp", "192.0.2.1:8080")
	reaches(t, "once the host accepts", m.home, sb.NS, "tcp", "192.0.2.2:7000", "192.0.2.1")
}
