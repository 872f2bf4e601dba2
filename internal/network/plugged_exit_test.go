package network

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
)

// leavesBy checks where the default route of a namespace leads.
func leavesBy(t *testing.T, m *Manager, ns *os.File, gateway string) {
	t.Helper()
	inNS(t, m, ns, func(c *rtnl.Conn) {
		routes, err := c.Routes()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range routes {
			if r.Dst.Bits() == 0 && r.Dst.Addr().Is4() && r.Gateway.IsValid() {
				got = append(got, r.Gateway.String())
			}
		}
		if !slices.Equal(got, []string{gateway}) {
			t.Errorf("it leaves by %q, want %s", got, gateway)
		}
	})
}

// TestPluggedExit: drivers hear by which of its links a container leaves.
func TestPluggedExit(t *testing.T) { fresh(t, func() { testPluggedExit(t) }) }

func testPluggedExit(t *testing.T) {
	m, d, cfg := beside(t, nil)
	create(t, m, ours("net"))
	create(t, m, ours("before"))
	var asked, bodies []string
	d.Listen(func(method string, body []byte) {
		if strings.Contains(method, "External") {
			asked = append(asked, strings.TrimPrefix(method, "NetworkDriver."))
			bodies = append(bodies, string(body))
		}
	})
	cid := id.New()
	port := network.MustParsePort("80/tcp")
	sb := attach(t, m, Request{ContainerID: cid, Network: "net", Exposed: network.PortSet{network.MustParsePort("443/tcp"): {}},
		Ports: network.PortMap{port: {{HostPort: "8080"}}}})
	leaves := func(by string, want ...string) {
		t.Helper()
		leavesBy(t, m, sb.NS, by)
		if !slices.Equal(asked, want) {
			t.Errorf("asked %q, want %q", asked, want)
		}
		for i, method := range asked {
			if strings.HasPrefix(method, "Program") && !strings.Contains(bodies[i], `"HostPort":8080`) {
				t.Errorf("it does not hear of the port: %s", bodies[i])
			}
		}
		asked, bodies = nil, nil
	}
	leaves("10.99.0.1", "ProgramExternalConnectivity")
	pid := resident(t, m, sb.NS)
	join := func() error {
		_, err := m.Connect(context.Background(), Connection{ContainerID: cid, Network: "before", PID: pid})
		return err
	}
	part := func() {
		t.Helper()
		if _, err := m.Disconnect(context.Background(), cid, "before", pid, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := join(); err != nil {
		t.Fatal(err)
	}
	leaves("10.99.1.1", "RevokeExternalConnectivity", "ProgramExternalConnectivity")
	part()
	leaves("10.99.0.1", "RevokeExternalConnectivity", "ProgramExternalConnectivity")

	// The next engine tells of the same ports.
	if err := join(); err != nil {
		t.Fatal(err)
	}
	asked, bodies = nil, nil
	eps := map[string]*network.EndpointSettings{}
	for nid, ep := range m.boxes[cid].endpoints {
		eps[m.reg.Nets[nid].Name] = ep.Copy()
	}
	if err := m.Close(false); err != nil {
		t.Fatal(err)
	}
	m = open(t, cfg)
	if err := m.Adopt(cid, eps, pid, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.AdoptPorts(cid, network.PortMap{port: {{HostPort: "8080"}}}); err != nil {
		t.Fatal(err)
	}
	part()
	leaves("10.99.0.1", "RevokeExternalConnectivity", "ProgramExternalConnectivity")

	// A connection that comes to nothing leaves all as it was.
	refusing := told(map[string]string{"fail": "ProgramExternalConnectivity"}, nil)
	refusing.Name = "afar"
	create(t, m, refusing)
	held := d.Held()
	if _, err := m.Connect(context.Background(), Connection{ContainerID: cid, Network: "afar", PID: pid}); err == nil || !strings.Contains(err.Error(), "plugin ours: NetworkDriver.ProgramExternalConnectivity: told to fail") {
		t.Error(err)
	}
	leaves("10.99.0.1", "RevokeExternalConnectivity", "ProgramExternalConnectivity", "RevokeExternalConnectivity", "ProgramExternalConnectivity")
	if got := d.Held(); !slices.Equal(got, held) {
		t.Errorf("held %q, before %q", got, held)
	}
	inNS(t, m, sb.NS, func(c *rtnl.Conn) {
		if got := names(t, c); !slices.Equal(got, []string{"ours0"}) {
			t.Errorf("links %q", got)
		}
		if err := ping(netip.MustParseAddr("10.99.0.1")); err != nil {
			t.Error(err)
		}
	})
}

// TestPluggedExitStuck: a driver that does not answer when it is told that a
// container leaves by its link no more is told so when the container has gone.
func TestPluggedExitStuck(t *testing.T) { fresh(t, func() { testPluggedExitStuck(t) }) }

func testPluggedExitStuck(t *testing.T) {
	m, d, cfg := beside(t, nil)
	create(t, m, told(map[string]string{"hang": "RevokeExternalConnectivity"}, nil))
	create(t, m, ours("before"))
	cid := id.New()
	sb := attach(t, m, Request{ContainerID: cid, Network: "net"})
	d.Listen(func(method string, _ []byte) {
		if strings.HasSuffix(method, "RevokeExternalConnectivity") {
			m.plugs.Stop()
		}
	})
	if _, err := m.Connect(context.Background(), Connection{ContainerID: cid, Network: "before", PID: resident(t, m, sb.NS)}); err != nil {
		t.Fatal(err)
	}
	leavesBy(t, m, sb.NS, "10.99.1.1")
	if err := m.Close(false); err != nil {
		t.Fatal(err)
	}
	d.Heal()
	revoked := make(chan string, 2)
	d.Listen(func(method string, body []byte) {
		if strings.HasSuffix(method, "RevokeExternalConnectivity") {
			revoked <- string(body)
		}
	})
	m = open(t, cfg)
	Plugged{m}.Adopted()
	waitFor(t, "the plugin to hear of both", func() bool { return len(revoked) == 2 })
}
