package network

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/forwarding"
	"github.com/wherry-engine/wherry/internal/network/settings"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

func testConfig(t testing.TB) Config {
	return Config{Root: t.TempDir(), ExecRoot: t.TempDir(), IPForward: true, Firewall: true, IPMasq: true, ICC: true, PoolSize: -1}
}

func open(t testing.TB, cfg Config) *Manager {
	t.Helper()
	m, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(true); err != nil {
			t.Error(err)
		}
	})
	return m
}

func attach(t testing.TB, m *Manager, r Request) *Sandbox {
	t.Helper()
	if r.ContainerID == "" {
		r.ContainerID = id.New()
	}
	sb, err := m.Attach(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sb.NS.Close() })
	return sb
}

// inNS runs fn on a thread inside the namespace.
func inNS(t testing.TB, m *Manager, ns *os.File, fn func(c *rtnl.Conn)) {
	t.Helper()
	if err := rtnl.Enter(m.home, ns, func(c *rtnl.Conn) error { fn(c); return nil }); err != nil {
		t.Fatal(err)
	}
}

// ping sends one ICMP echo request from the calling thread's namespace.
func ping(to netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		return err
	}
	msg := []byte{8, 0, 0, 0, 0x12, 0x34, 0, 1}
	sum := uint32(0)
	for i := 0; i < len(msg); i += 2 {
		sum += uint32(msg[i])<<8 | uint32(msg[i+1])
	}
	sum = sum>>16 + sum&0xffff
	msg[2], msg[3] = byte(^sum>>8), byte(^sum)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
		return err
	}
	buf := make([]byte, 256)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return err
		}
		if sa, ok := from.(*unix.SockaddrInet4); ok && n >= 28 && buf[20] == 0 && sa.Addr == to.As4() {
			return nil
		}
	}
}

func TestDefaultBridge(t *testing.T) { fresh(t, func() { defaultBridge(t) }) }

func defaultBridge(t *testing.T) {
	m := open(t, testConfig(t))
	sb := attach(t, m, Request{ContainerName: "one"})
	ep := sb.Endpoints["bridge"]
	if ep == nil || ep.IPAddress.String() != "172.17.0.2" || ep.IPPrefixLen != 16 || ep.Gateway.String() != "172.17.0.1" || ep.MacAddress.String() != "02:42:ac:11:00:02" || ep.NetworkID == "" || ep.EndpointID == "" {
		t.Fatalf("endpoint %+v", ep)
	}
	inNS(t, m, sb.NS, func(c *rtnl.Conn) {
		links, err := c.Links()
		if err != nil {
			t.Fatal(err)
		}
		up := map[string]bool{}
		for _, l := range links {
			up[l.Name] = l.Up
		}
		if !up["lo"] || !up["eth0"] {
			t.Errorf("links %+v", links)
		}
		routes, err := c.Routes()
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, r := range routes {
			found = found || r.Dst.Bits() == 0 && r.Gateway.String() == "172.17.0.1"
		}
		if !found {
			t.Errorf("no default route in %+v", routes)
		}
		if err := ping(netip.MustParseAddr("172.17.0.1")); err != nil {
			t.Errorf("gateway: %v", err)
		}
		if err := ping(netip.MustParseAddr("127.0.0.1")); err != nil {
			t.Errorf("loopback: %v", err)
		}
		addrs, err := c.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			if a.Prefix.Addr().Is6() && !a.Prefix.Addr().IsLoopback() {
				t.Errorf("stray IPv6 address %s", a.Prefix)
			}
		}
	})
	two := attach(t, m, Request{})
	inNS(t, m, two.NS, func(*rtnl.Conn) {
		if err := ping(ep.IPAddress); err != nil {
			t.Errorf("neighbour: %v", err)
		}
	})
}

func TestCloseLeavesNothing(t *testing.T) { fresh(t, func() { closeLeavesNothing(t) }) }

func closeLeavesNothing(t *testing.T) {
	cfg := testConfig(t)
	cfg.PoolSize = 4
	m, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "pool", func() bool { wired, _ := m.pool.Waiting(); return wired == 4 })
	sb, err := m.Attach(context.Background(), Request{ContainerID: id.New()})
	if err != nil {
		t.Fatal(err)
	}
	if v, _ := rtnl.ReadSysctl(forwarding.Path); v != "1" {
		t.Errorf("forwarding %s", v)
	}
	sb.NS.Close()
	if err := m.Close(true); err != nil {
		t.Fatal(err)
	}
	if v, _ := rtnl.ReadSysctl(forwarding.Path); v != "0" {
		t.Errorf("forwarding %s after close", v)
	}
	c, err := rtnl.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	waitFor(t, "links to go", func() bool {
		links, err := c.Links()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if l.Name == settings.DefaultBridge || strings.HasPrefix(l.Name, "veth") {
				return false
			}
		}
		return true
	})
}

// waitFor polls what the kernel does in its own time.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestTwoEngines: engines with data roots of their own share a host.
func TestTwoEngines(t *testing.T) { fresh(t, func() { twoEngines(t) }) }

func twoEngines(t *testing.T) {
	l := newLAN(t)
	echo(t, l.home, l.ns, 7000)
	var engines [3]*Manager
	var wg sync.WaitGroup
	cfgs := [3]Config{testConfig(t), testConfig(t), testConfig(t)}
	for i := range engines {
		wg.Go(func() {
			m, err := Open(context.Background(), cfgs[i])
			if err != nil {
				t.Error(err)
				return
			}
			engines[i] = m
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	seen := map[string]bool{}
	boxes := map[int]*Sandbox{}
	for i, m := range engines {
		sb := attach(t, m, Request{})
		boxes[i] = sb
		n, _ := m.Inspect("bridge", false)
		key := n.Options[spec.OptBridgeName]
		if seen[key] || seen[sb.Endpoints["bridge"].IPAddress.String()] || seen[m.cfg.Table()] {
			t.Errorf("engine %d shares %s, %s or %s", i, key, sb.Endpoints["bridge"].IPAddress, m.cfg.Table())
		}
		seen[key], seen[sb.Endpoints["bridge"].IPAddress.String()], seen[m.cfg.Table()] = true, true, true
		reaches(t, key, m.home, sb.NS, "tcp", "192.0.2.2:7000", "192.0.2.1")
	}
	if !seen["wherry0"] || !seen["wherry1"] || !seen["wherry2"] || !seen["wherry"] {
		t.Errorf("names %v", seen)
	}
	// One goes; the others keep working, forwarding included.
	if err := engines[0].Close(true); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{1, 2} {
		reaches(t, "after another's end", l.home, boxes[i].NS, "tcp", "192.0.2.2:7000", "192.0.2.1")
	}
	// One comes back to its own bridge.
	name := engines[2].cfg.Bridge()
	if err := engines[2].Close(false); err != nil {
		t.Fatal(err)
	}
	again, err := Open(context.Background(), cfgs[2])
	if err != nil {
		t.Fatal(err)
	}
	if got := again.cfg.Bridge(); got != name {
		t.Errorf("%s, was %s", got, name)
	}
	// One dies and its data root with it: its bridge is taken over.
	orphan := engines[1].cfg.Bridge()
	if err := engines[1].Close(false); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(cfgs[1].Root); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for range 2 {
		m := open(t, testConfig(t))
		names[m.cfg.Bridge()] = true
	}
	if !names[orphan] {
		t.Errorf("%v, want %s among them", names, orphan)
	}
	if err := again.Close(true); err != nil {
		t.Error(err)
	}
}
