package network

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/nft"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
)

func ports(pairs ...string) network.PortMap {
	out := network.PortMap{}
	for i := 0; i < len(pairs); i += 2 {
		var b network.PortBinding
		host := pairs[i+1]
		if at := strings.LastIndex(host, ":"); at >= 0 {
			b.HostIP = netip.MustParseAddr(strings.Trim(host[:at], "[]"))
			host = host[at+1:]
		}
		b.HostPort = host
		p := network.MustParsePort(pairs[i])
		out[p] = append(out[p], b)
	}
	return out
}

func proxied(t testing.TB) Config {
	cfg := testConfig(t)
	cfg.UserlandProxy = true
	return cfg
}

func TestPublish(t *testing.T) { fresh(t, func() { publish(t) }) }

func publish(t *testing.T) {
	l := newLAN(t)
	m := open(t, proxied(t))
	sb := attach(t, m, Request{ContainerID: "web", ContainerName: "web", Ports: ports("80/tcp", "8080", "80/udp", "8080", "80/tcp", "127.0.0.1:9090", "80/tcp", "192.0.2.1:9191")})
	web := sb.Endpoints["bridge"].IPAddress.String()
	other := attach(t, m, Request{})
	echo(t, m.home, sb.NS, 80)
	if got := sb.Ports[network.MustParsePort("80/udp")]; len(got) != 2 || got[0].HostIP.String() != "0.0.0.0" || got[1].HostIP.String() != "::" || got[1].HostPort != "8080" {
		t.Errorf("ports %+v", sb.Ports)
	}
	for _, proto := range []string{"tcp", "udp"} {
		reaches(t, "LAN", m.home, l.ns, proto, "192.0.2.1:8080", "192.0.2.2") // source address kept
		reaches(t, "host by LAN address", m.home, nil, proto, "192.0.2.1:8080", "")
		reaches(t, "host by loopback", m.home, nil, proto, "127.0.0.1:8080", "")
		reaches(t, "host by IPv6", m.home, nil, proto, "[::1]:8080", "")
		reaches(t, "neighbour by LAN address", m.home, other.NS, proto, "192.0.2.1:8080", "")
		reaches(t, "neighbour by gateway", m.home, other.NS, proto, "172.17.0.1:8080", "")
		reaches(t, "itself by LAN address", m.home, sb.NS, proto, "192.0.2.1:8080", "")
		reaches(t, "neighbour directly", m.home, other.NS, proto, web+":80", other.Endpoints["bridge"].IPAddress.String())
	}
	reaches(t, "loopback port from the host", m.home, nil, "tcp", "127.0.0.1:9090", "")
	reaches(t, "bound port", m.home, l.ns, "tcp", "192.0.2.1:9191", "192.0.2.2")
	refused(t, "bound port elsewhere", m.home, nil, "tcp", "127.0.0.1:9191")
	refused(t, "loopback port from LAN", m.home, l.ns, "tcp", "192.0.2.1:9090")
	inNS(t, m, l.ns, func(c *rtnl.Conn) {
		var b rtnl.Batch
		b.AddRoute(l.link, netip.MustParsePrefix("172.17.0.0/16"), l.host)
		if err := c.Do(&b); err != nil {
			t.Fatal(err)
		}
	})
	refused(t, "container's port from LAN", m.home, l.ns, "tcp", web+":80")
	refused(t, "host's loopback from a container", m.home, other.NS, "tcp", "127.0.0.1:9090")

	if err := m.Release(context.Background(), "web"); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"192.0.2.1:8080", "127.0.0.1:8080", "127.0.0.1:9090"} {
		refused(t, "after release", m.home, nil, "tcp", a)
	}
	if n := len(m.ports.all()); n != 0 {
		t.Errorf("%d publications left", n)
	}
	// The port is free again.
	again := attach(t, m, Request{ContainerID: "web2", Ports: ports("80/tcp", "8080")})
	echo(t, m.home, again.NS, 80)
	reaches(t, "again", m.home, l.ns, "tcp", "192.0.2.1:8080", "192.0.2.2")
	// A flushed table comes back with the next change, whole, even unnoticed.
	m.watch.Close()
	if err := m.nf.Delete("wherry"); err != nil {
		t.Fatal(err)
	}
	third := attach(t, m, Request{ContainerID: "web3", Ports: ports("80/tcp", "8081")})
	echo(t, m.home, third.NS, 80)
	reaches(t, "after flush", m.home, l.ns, "tcp", "192.0.2.1:8080", "192.0.2.2")
	reaches(t, "after flush", m.home, l.ns, "tcp", "192.0.2.1:8081", "192.0.2.2")
}

func TestPublishConflicts(t *testing.T) { fresh(t, func() { publishConflicts(t) }) }

func publishConflicts(t *testing.T) {
	m := open(t, proxied(t))
	attach(t, m, Request{ContainerID: "one", Ports: ports("80/tcp", "8080")})
	foreign, err := net.Listen("tcp4", "0.0.0.0:8081")
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	fails := func(want string, p network.PortMap) {
		t.Helper()
		used := m.reg.ByName("bridge").Stacks[v4].Addrs.Used()
		_, err := m.Attach(context.Background(), Request{ContainerID: "two", ContainerName: "two", Ports: p})
		if err == nil || !strings.HasPrefix(err.Error(), "driver failed programming external connectivity on endpoint two (") || !strings.HasSuffix(err.Error(), "): "+want) {
			t.Errorf("%v, want %s", err, want)
		}
		if n := m.reg.ByName("bridge").Stacks[v4].Addrs.Used(); n != used {
			t.Errorf("%d addresses used, %d before", n, used)
		}
	}
	fails("Bind for 0.0.0.0:8080 failed: port is already allocated", ports("80/tcp", "8080"))
	fails("Bind for 127.0.0.1:8080 failed: port is already allocated", ports("80/tcp", "127.0.0.1:8080"))
	fails("failed to bind host port 0.0.0.0:8081/tcp: address already in use", ports("80/tcp", "8081"))
	fails("failed to bind host port 9.9.9.9:1/tcp: cannot assign requested address", ports("80/tcp", "9.9.9.9:1"))
	// What came before a conflict is given back.
	fails("Bind for 0.0.0.0:8080 failed: port is already allocated", ports("70/tcp", "7070", "80/tcp", "8080"))
	sb := attach(t, m, Request{ContainerID: "three", Ports: ports("70/tcp", "7070", "80/tcp", "8080-8090"), Exposed: network.PortSet{network.MustParsePort("99/tcp"): {}}})
	if b := sb.Ports[network.MustParsePort("80/tcp")]; len(b) != 2 || b[0].HostPort != "8082" {
		t.Errorf("first free of a range: %+v", b)
	}
	if b, ok := sb.Ports[network.MustParsePort("99/tcp")]; !ok || b != nil {
		t.Errorf("exposed: %+v", sb.Ports)
	}
	fails("all ports are allocated", ports("80/tcp", "8080-8082"))
	all := attach(t, m, Request{ContainerID: "four", PublishAll: true, Exposed: network.PortSet{network.MustParsePort("99/tcp"): {}, network.MustParsePort("98/udp"): {}}})
	for _, p := range []string{"99/tcp", "98/udp"} {
		if b := all.Ports[network.MustParsePort(p)]; len(b) != 2 || b[0].HostPort < "32768" || b[0].HostPort != b[1].HostPort {
			t.Errorf("%s: %+v", p, b)
		}
	}
	// Without the proxy there is nothing for IPv6.
	m.cfg.UserlandProxy = false
	sb = attach(t, m, Request{ContainerID: "five", Ports: ports("80/tcp", "")})
	if b := sb.Ports[network.MustParsePort("80/tcp")]; len(b) != 1 {
		t.Errorf("%+v", b)
	}
}

// TestAdoptPorts: a published port answers while no engine runs and while the
// next one starts, and is that one's afterwards.
func TestAdoptPorts(t *testing.T) { fresh(t, func() { adoptPorts(t) }) }

func adoptPorts(t *testing.T) {
	l := newLAN(t)
	cfg := proxied(t)
	m, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	live, dead := id.New(), id.New()
	sb, err := m.Attach(context.Background(), Request{ContainerID: live, Ports: ports("80/tcp", "8080", "81/tcp", "127.0.0.1:9090")})
	if err != nil {
		t.Fatal(err)
	}
	defer sb.NS.Close()
	gone, err := m.Attach(context.Background(), Request{ContainerID: dead, Ports: ports("80/tcp", "8081")})
	if err != nil {
		t.Fatal(err)
	}
	gone.NS.Close()
	home := m.home
	echo(t, home, sb.NS, 80)
	if err := m.Close(false); err != nil {
		t.Fatal(err)
	}
	m = open(t, cfg)
	reaches(t, "between", m.home, l.ns, "tcp", "192.0.2.1:8080", "192.0.2.2")
	if err := m.Adopt(live, sb.Endpoints, 0, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.AdoptPorts(live, sb.Ports); err != nil {
		t.Fatal(err)
	}
	if n := len(m.ports.rules[""]); n != 1 {
		t.Errorf("%d ports of the earlier engine unclaimed, want the dead container's one: %+v", n, m.ports.rules)
	}
	reaches(t, "after", m.home, l.ns, "tcp", "192.0.2.1:8080", "192.0.2.2")
	if _, err := m.Attach(context.Background(), Request{ContainerID: "x", ContainerName: "x", Ports: ports("80/tcp", "8080")}); err == nil || !strings.Contains(err.Error(), "port is already allocated") {
		t.Errorf("%v", err)
	}
	attach(t, m, Request{ContainerID: "y", Ports: ports("80/tcp", "8081")})
	if n := len(m.ports.rules[""]); n != 0 {
		t.Errorf("the dead container's port is left: %+v", m.ports.rules)
	}
	if err := m.Release(context.Background(), live); err != nil {
		t.Fatal(err)
	}
	refused(t, "after release", m.home, l.ns, "tcp", "192.0.2.1:8080")
}

// TestProxyAlone: without rules the sockets carry everything.
func TestProxyAlone(t *testing.T) { fresh(t, func() { proxyAlone(t) }) }

func proxyAlone(t *testing.T) {
	l := newLAN(t)
	cfg := proxied(t)
	cfg.Firewall = false
	m := open(t, cfg)
	sb := attach(t, m, Request{Ports: ports("80/tcp", "8080", "80/udp", "8080")})
	echo(t, m.home, sb.NS, 80)
	for _, proto := range []string{"tcp", "udp"} {
		reaches(t, "LAN", m.home, l.ns, proto, "192.0.2.1:8080", "172.17.0.1")
		reaches(t, "host", m.home, nil, proto, "127.0.0.1:8080", "172.17.0.1")
	}
}

// TestFlushed: a host that reloads its rules with a flush before them gets
// ours back, ports included.
func TestFlushed(t *testing.T) { fresh(t, func() { flushed(t) }) }

func flushed(t *testing.T) {
	l := newLAN(t)
	m := open(t, proxied(t))
	sb := attach(t, m, Request{Ports: ports("80/tcp", "8080")})
	echo(t, m.home, sb.NS, 80)
	other, err := nft.Dial(m.home)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for range 3 {
		if m.nf.Owns() {
			// Nobody else can take the rules away for a moment.
			if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			reaches(t, "after a flush", m.home, l.ns, "tcp", "192.0.2.1:8080", "192.0.2.2")
		}
		if err := m.nf.Delete("wherry"); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "rules", func() bool { there, err := other.Exists("wherry"); return err == nil && there })
		// The kernel is still putting its hooks back: the first packets may miss them.
		waitFor(t, "translation", func() bool {
			from, err := call(m.home, l.ns, "tcp", "192.0.2.1:8080")
			return err == nil && from == "192.0.2.2"
		})
	}
}

// TestUDPFlow: a client that never pauses, from before the container was
// there, finds it, and the next one after it.
func TestUDPFlow(t *testing.T) { fresh(t, func() { udpFlow(t) }) }

func udpFlow(t *testing.T) {
	l := newLAN(t)
	cfg := testConfig(t)
	cfg.UserlandProxy, cfg.IPv6 = false, true
	m := open(t, cfg)
	l.six(m)
	ask := map[string]func() bool{}
	for _, addr := range []string{"192.0.2.1:5353", "[2001:db8::1]:5353"} {
		var c net.Conn
		if err := within(m.home, l.ns, func() (err error) { c, err = dialHere("udp", addr); return err }); err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ask[addr] = func() bool {
			c.Write([]byte("?"))
			c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			n, err := c.Read(make([]byte, 64))
			return err == nil && n > 0
		}
		if ask[addr]() {
			t.Error("answered by nobody")
		}
	}
	for range 2 {
		sb := attach(t, m, Request{ContainerID: "dns", Ports: ports("53/udp", "5353")})
		echo(t, m.home, sb.NS, 53)
		echo6(t, m, sb, 53)
		for addr, ask := range ask {
			// The first may meet an ICMP error of before.
			waitFor(t, "an answer by "+addr, ask)
		}
		sb.NS.Close()
	}
}
