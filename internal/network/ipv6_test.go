package network

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/forwarding"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// echo6 is echo over IPv6.
func echo6(t testing.TB, m *Manager, sb *Sandbox, port int) {
	t.Helper()
	var l net.Listener
	var u net.PacketConn
	if err := within(m.home, sb.NS, func() (err error) {
		if l, err = net.Listen("tcp6", fmt.Sprintf("[::]:%d", port)); err != nil {
			return err
		}
		u, err = net.ListenPacket("udp6", fmt.Sprintf("[::]:%d", port))
		return err
	}); err != nil {
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

// lan6 gives the LAN and the host IPv6 addresses: 2001:db8::2 and ::1.
func (l *lan) six(m *Manager, routes ...string) {
	l.t.Helper()
	link, err := m.rt.LinkByName("lan0")
	if err != nil {
		l.t.Fatal(err)
	}
	var b rtnl.Batch
	b.AddAddr(link.Index, netip.MustParsePrefix("2001:db8::1/64"))
	if err := m.rt.Do(&b); err != nil {
		l.t.Fatal(err)
	}
	inNS(l.t, m, l.ns, func(c *rtnl.Conn) {
		var b rtnl.Batch
		b.AddAddr(l.link, netip.MustParsePrefix("2001:db8::2/64"))
		for _, r := range routes {
			b.AddRoute(l.link, netip.MustParsePrefix(r), netip.MustParseAddr("2001:db8::1"))
		}
		if err := c.Do(&b); err != nil {
			l.t.Fatal(err)
		}
	})
}

func TestDualStack(t *testing.T) { fresh(t, func() { dualStack(t) }) }

func dualStack(t *testing.T) {
	l := newLAN(t)
	cfg := proxied(t)
	cfg.IPv6, cfg.FixedCIDR6 = true, netip.MustParsePrefix("fd00:17::/64")
	m := open(t, cfg)
	l.six(m, "fd00:17::/64")
	yes, no := true, false
	create(t, m, network.CreateRequest{Name: "six", EnableIPv4: &no, EnableIPv6: &yes})
	create(t, m, network.CreateRequest{Name: "both", EnableIPv6: &yes, IPAM: &network.IPAM{Config: []network.IPAMConfig{
		{Subnet: netip.MustParsePrefix("fd00:9::/64"), IPRange: netip.MustParsePrefix("fd00:9::100/120"), Gateway: netip.MustParseAddr("fd00:9::ff")},
	}}})
	if v, _ := rtnl.ReadSysctl(forwarding.Path6); v != "1" {
		t.Errorf("IPv6 forwarding is %s", v)
	}
	web := attach(t, m, Request{ContainerID: id.New(), ContainerName: "web", Ports: ports("80/tcp", "8080", "80/udp", "8080")})
	ep := web.Endpoints["bridge"]
	if ep.GlobalIPv6Address.String() != "fd00:17::2" || ep.GlobalIPv6PrefixLen != 64 || ep.IPv6Gateway.String() != "fd00:17::1" {
		t.Errorf("%+v", ep)
	}
	echo6(t, m, web, 80)
	other := attach(t, m, Request{})
	both := attach(t, m, Request{ContainerID: id.New(), ContainerName: "b", Network: "both", Endpoints: map[string]*network.EndpointSettings{"both": {
		IPAMConfig: &network.EndpointIPAMConfig{IPv6Address: netip.MustParseAddr("fd00:9::9")}}}})
	six := attach(t, m, Request{ContainerID: id.New(), ContainerName: "s", Network: "six", Ports: ports("80/tcp", "8081")})
	echo6(t, m, six, 80)
	echo6(t, m, both, 80)
	if e := six.Endpoints["six"]; e.IPAddress.IsValid() || e.GlobalIPv6Address.As16()[0] != 0xfd || six.Ports[network.MustParsePort("80/tcp")][0].HostIP.String() != "::" {
		t.Errorf("%+v %+v", e, six.Ports)
	}
	if e := both.Endpoints["both"]; !e.IPAddress.IsValid() || e.GlobalIPv6Address.String() != "fd00:9::9" || e.IPv6Gateway.String() != "fd00:9::ff" {
		t.Errorf("%+v", e)
	}
	// The LAN of the test has an IPv6 echo as well.
	lan := &Sandbox{NS: l.ns}
	echo6(t, m, lan, 7000)
	// Each container's first neighbour solicitation may fall into the moment in
	// which its link comes up; the next is due a second later.
	for _, sb := range []*Sandbox{web, other, both, six} {
		waitFor(t, "the way out", func() bool { _, err := call(m.home, sb.NS, "udp", "[2001:db8::2]:7000"); return err == nil })
	}
	for _, proto := range []string{"tcp", "udp"} {
		reaches(t, "LAN", m.home, l.ns, proto, "[2001:db8::1]:8080", "2001:db8::2") // source kept
		reaches(t, "host", m.home, nil, proto, "[2001:db8::1]:8080", "")
		reaches(t, "host by loopback", m.home, nil, proto, "[::1]:8080", "")
		reaches(t, "neighbour", m.home, other.NS, proto, "[2001:db8::1]:8080", "")
		reaches(t, "itself", m.home, web.NS, proto, "[2001:db8::1]:8080", "")
		reaches(t, "neighbour directly", m.home, other.NS, proto, "[fd00:17::2]:80", other.Endpoints["bridge"].GlobalIPv6Address.String())
		reaches(t, "outside", m.home, other.NS, proto, "[2001:db8::2]:7000", "2001:db8::1")
		refused(t, "LAN directly", m.home, l.ns, proto, "[fd00:17::2]:80")
		refused(t, "other network", m.home, both.NS, proto, "[fd00:17::2]:80")
		refused(t, "other network", m.home, web.NS, proto, "[fd00:9::9]:80")
	}
	// As dockerd: an address of the family that a container lacks is passed by, and said in the log.
	log := logged(t)
	mixed := attach(t, m, Request{ContainerID: id.New(), ContainerName: "m", Network: "six", Ports: ports("80/tcp", "127.0.0.1:8082", "80/udp", "[::1]:8082")})
	if p := mixed.Ports; len(p) != 2 || len(p[network.MustParsePort("80/tcp")]) != 0 || len(p[network.MustParsePort("80/udp")]) != 1 {
		t.Errorf("%+v", p)
	}
	refused(t, "a port without its family", m.home, nil, "tcp", "127.0.0.1:8082")
	if text := log(); strings.Count(text, "a port is not published") != 1 || !strings.Contains(text, "container=m port=80/tcp address=127.0.0.1") {
		t.Errorf("logged %q", text)
	}
	reaches(t, "IPv6 alone", m.home, l.ns, "tcp", "[2001:db8::1]:8081", "2001:db8::2")
	reaches(t, "IPv6 alone from another network", m.home, other.NS, "tcp", "[2001:db8::1]:8081", "")
	if err := m.Release(context.Background(), m.box(t, web)); err != nil {
		t.Fatal(err)
	}
	refused(t, "after release", m.home, l.ns, "tcp", "[2001:db8::1]:8080")
	if err := m.Close(true); err != nil {
		t.Fatal(err)
	}
	if v, _ := rtnl.ReadSysctl(forwarding.Path6); v != "0" {
		t.Errorf("IPv6 forwarding stays %s", v)
	}
}

// logged collects what is logged from now on.
func logged(t testing.TB) (read func() string) {
	var mu sync.Mutex
	var b bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return b.Write(p)
	}), nil)))
	t.Cleanup(func() { slog.SetDefault(old) })
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return b.String()
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// box finds the id of a container by its sandbox.
func (m *Manager) box(t testing.TB, sb *Sandbox) string {
	t.Helper()
	for id, b := range m.boxes {
		if b.id == sb.ID {
			return id
		}
	}
	t.Fatal("no such sandbox")
	return ""
}

// TestModes: what is open at the containers' own addresses.
func TestModes(t *testing.T) { fresh(t, func() { modes(t) }) }

func modes(t *testing.T) {
	l := newLAN(t)
	m := open(t, proxied(t))
	l.six(m, "fd00::/16")
	inNS(t, m, l.ns, func(c *rtnl.Conn) {
		var b rtnl.Batch
		b.AddRoute(l.link, netip.MustParsePrefix("10.0.0.0/8"), l.host)
		if err := c.Do(&b); err != nil {
			t.Fatal(err)
		}
	})
	yes := true
	boxes := map[string]*Sandbox{}
	for i, mode := range []spec.Mode{spec.NAT, spec.Unprotected, spec.Routed, "trusted", spec.Isolated} {
		name := string(mode)
		o := map[string]string{spec.OptMode4: name, spec.OptMode6: name}
		if mode == "trusted" {
			o = map[string]string{spec.OptTrusted: "eth9:lan0"}
		}
		create(t, m, network.CreateRequest{Name: name, Options: o, EnableIPv6: &yes, Internal: mode == spec.Isolated, IPAM: &network.IPAM{Config: []network.IPAMConfig{
			{Subnet: netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/24", i))}, {Subnet: netip.MustParsePrefix(fmt.Sprintf("fd00:0:0:%d::/64", i))},
		}}})
		sb := attach(t, m, Request{ContainerName: name, Network: name, Ports: ports("80/tcp", fmt.Sprint(8080+i))})
		echo(t, m.home, sb.NS, 80)
		echo6(t, m, sb, 79) // not published
		echo6(t, m, sb, 81) // neither
		boxes[name] = sb
	}
	addr := func(name string, port int) (string, string) {
		ep := boxes[name].Endpoints[name]
		return fmt.Sprintf("%s:%d", ep.IPAddress, port), fmt.Sprintf("[%s]:%d", ep.GlobalIPv6Address, port)
	}
	for name, want := range map[string][2]bool{"nat": {false, false}, "nat-unprotected": {true, true}, "routed": {true, false}, "trusted": {true, false}, "isolated": {false, false}} {
		published, _ := addr(name, 80)
		_, unpublished := addr(name, 81)
		for i, a := range []string{published, unpublished} {
			_, err := call(m.home, l.ns, "tcp", a)
			if (err == nil) != want[i] {
				t.Errorf("%s: %s from the LAN: %v", name, a, err)
			}
		}
	}
	echo(t, m.home, l.ns, 7000)
	for name, source := range map[string]string{"nat": "192.0.2.1", "nat-unprotected": "192.0.2.1", "trusted": "192.0.2.1", "routed": boxes["routed"].Endpoints["routed"].IPAddress.String()} {
		reaches(t, name, m.home, boxes[name].NS, "tcp", "192.0.2.2:7000", source)
	}
	refused(t, "isolated", m.home, boxes["isolated"].NS, "tcp", "192.0.2.2:7000")
	refused(t, "routed has no port of the host", m.home, l.ns, "tcp", "192.0.2.1:8082")
	reaches(t, "nat", m.home, l.ns, "tcp", "192.0.2.1:8080", "192.0.2.2")
	if p := boxes["routed"].Ports[network.MustParsePort("80/tcp")]; len(p) != 2 || p[0].HostPort != "" || p[0].HostIP.String() != "0.0.0.0" {
		t.Errorf("routed: %+v", p)
	}
	// The isolated network's bridge is not the host's door.
	addrs, err := m.rt.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if netip.MustParsePrefix("10.0.4.0/24").Contains(a.Prefix.Addr()) {
			t.Errorf("the bridge has %s", a.Prefix)
		}
	}
	// Other bridge networks reach what is routed, and nothing else.
	published, _ := addr("routed", 80)
	reaches(t, "routed from another network", m.home, boxes["nat"].NS, "tcp", published, "")
	published, _ = addr("nat", 80)
	refused(t, "nat from another network", m.home, boxes["routed"].NS, "tcp", published)
}

// TestPortsFollow: published ports lead where the container's default routes
// go, and to nobody who has its old address.
func TestPortsFollow(t *testing.T) { fresh(t, func() { portsFollow(t) }) }

func portsFollow(t *testing.T) {
	l := newLAN(t)
	m := open(t, proxied(t))
	ctx := context.Background()
	yes := true
	create(t, m, network.CreateRequest{Name: "one"})
	create(t, m, network.CreateRequest{Name: "two", EnableIPv6: &yes})
	web := id.New()
	sb := attach(t, m, Request{ContainerID: web, ContainerName: "web", Network: "one", Ports: ports("80/tcp", "", "81/udp", "5353")})
	pid := sleeper(t, m, sb.NS)
	echo(t, m.home, sb.NS, 80)
	echo6(t, m, sb, 81)
	port := sb.Ports[network.MustParsePort("80/tcp")][0].HostPort
	at := func(want netip.Addr) {
		t.Helper()
		for _, r := range m.ports.rules[web] {
			if r.IP.Is4() && r.IP != want {
				t.Errorf("port %d leads to %s, want %s", r.HostPort, r.IP, want)
			}
		}
		reaches(t, "published", m.home, l.ns, "tcp", "192.0.2.1:"+port, "192.0.2.2")
	}
	at(sb.Endpoints["one"].IPAddress)
	done, err := m.Connect(ctx, Connection{ContainerID: web, Network: "two", PID: pid, Settings: &network.EndpointSettings{GwPriority: 3}})
	if err != nil {
		t.Fatal(err)
	}
	at(done.Endpoint.IPAddress)
	if got := done.Ports[network.MustParsePort("80/tcp")]; len(got) != 2 || got[0].HostPort != port {
		t.Errorf("%+v", got)
	}
	for _, name := range []string{"two", "one"} {
		if done, err = m.Disconnect(ctx, web, name, pid, false); err != nil {
			t.Fatal(err)
		}
		if name == "two" {
			at(sb.Endpoints["one"].IPAddress)
		}
	}
	if len(m.ports.all()) != 0 || done.Ports[network.MustParsePort("80/tcp")] != nil {
		t.Errorf("published without a network: %+v, %+v", m.ports.all(), done.Ports)
	}
	refused(t, "without a network", m.home, l.ns, "tcp", "192.0.2.1:"+port)
	done, err = m.Connect(ctx, Connection{ContainerID: web, Network: "bridge", PID: pid})
	if err != nil {
		t.Fatal(err)
	}
	at(done.Endpoint.IPAddress)
}
