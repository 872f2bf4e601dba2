package network

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/remote/remotetest"
	"github.com/wherry-engine/wherry/internal/plugin"
	"github.com/wherry-engine/wherry/internal/plugin/plugintest"
)

// plugIn makes the plugin "ours" for engines of this configuration.
func plugIn(t *testing.T, cfg *Config) (*remotetest.Driver, *plugintest.Server) {
	t.Helper()
	dir, err := os.MkdirTemp("", "plug") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d, err := remotetest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	s := d.Server()
	if err := s.Listen(filepath.Join(dir, "ours.sock")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	cfg.Plugins = plugin.New([]string{dir}, nil)
	return d, s
}

// beside opens a manager beside a plugin, which is made what set makes of it.
func beside(t *testing.T, set func(*remotetest.Driver)) (*Manager, *remotetest.Driver, Config) {
	t.Helper()
	cfg := testConfig(t)
	d, _ := plugIn(t, &cfg)
	if set != nil {
		set(d)
	}
	return open(t, cfg), d, cfg
}

func ours(name string) network.CreateRequest {
	return network.CreateRequest{Name: name, Driver: "ours", IPAM: &network.IPAM{Driver: "ours"}}
}

// names lists the links of a namespace but lo.
func names(t *testing.T, c *rtnl.Conn) []string {
	t.Helper()
	links, err := c.Links()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range links {
		if l.Index != rtnl.LoopbackIndex {
			out = append(out, l.Name)
		}
	}
	slices.Sort(out)
	return out
}

// resident is a process in a namespace, by its id.
func resident(t *testing.T, m *Manager, ns *os.File) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	inNS(t, m, ns, func(*rtnl.Conn) {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	return cmd.Process.Pid
}

// TestPlugged: a plugin's network with a plugin's addresses, from its making to
// its end, an engine's start in between.
func TestPlugged(t *testing.T) { fresh(t, func() { testPlugged(t) }) }

func testPlugged(t *testing.T) {
	cfg := testConfig(t)
	d, s := plugIn(t, &cfg)
	m := open(t, cfg)
	before := names(t, m.rt)
	create(t, m, ours("net"))
	a := attach(t, m, Request{Network: "net", ContainerName: "a"})
	bID := id.New()
	b := attach(t, m, Request{ContainerID: bID, Network: "net", ContainerName: "b"})
	ep := b.Endpoints["net"]
	if ep.IPAddress != netip.MustParseAddr("10.99.0.3") || ep.IPPrefixLen != 24 || ep.Gateway != netip.MustParseAddr("10.99.0.1") || len(ep.MacAddress) != 6 {
		t.Errorf("endpoint %+v", ep)
	}
	inNS(t, m, a.NS, func(c *rtnl.Conn) {
		if got := names(t, c); !slices.Equal(got, []string{"ours0"}) {
			t.Errorf("links %q", got)
		}
		for _, to := range []string{"10.99.0.3", "10.99.0.1"} {
			if err := ping(netip.MustParseAddr(to)); err != nil {
				t.Errorf("%s: %v", to, err)
			}
		}
	})
	in, err := m.Inspect("net", false)
	if err != nil || in.Driver != "ours" || in.IPAM.Driver != "ours" || in.IPAM.Config[0].Subnet.String() != "10.99.0.0/24" || in.IPAM.Config[0].Gateway.String() != "10.99.0.1" || len(in.Containers) != 2 {
		t.Errorf("%+v %v", in, err)
	}
	drivers := func() {
		t.Helper()
		if got := (Plugged{m}).Drivers(); !slices.Equal(got, []string{"bridge", "host", "ipvlan", "macvlan", "null", "ours"}) {
			t.Errorf("drivers %q", got)
		}
	}
	drivers()
	if _, err := m.Remove(context.Background(), "net"); err == nil || !strings.Contains(err.Error(), "active endpoints") {
		t.Error(err)
	}

	// Another engine: b runs on, a has gone meanwhile.
	if err := m.Close(false); err != nil {
		t.Fatal(err)
	}
	a.NS.Close()
	m = open(t, cfg)
	drivers()
	if err := m.Adopt(bID, b.Endpoints, resident(t, m, b.NS), nil); err != nil {
		t.Fatal(err)
	}
	Plugged{m}.Adopted()
	waitFor(t, "a to have left", func() bool { return len(d.Held()) == 5 }) // network, pool, gateway, b and its address
	again := attach(t, m, Request{Network: "net"})
	if got := again.Endpoints["net"].IPAddress.String(); got != "10.99.0.2" {
		t.Errorf("after the other has gone the next has %s", got)
	}
	inNS(t, m, b.NS, func(*rtnl.Conn) {
		if err := ping(again.Endpoints["net"].IPAddress); err != nil {
			t.Error(err)
		}
	})
	for cid := range m.boxes {
		if err := m.Release(context.Background(), cid); err != nil {
			t.Error(err)
		}
	}
	if _, err := m.Remove(context.Background(), "net"); err != nil {
		t.Error(err)
	}
	if got := d.Held(); len(got) > 0 {
		t.Errorf("the plugin still holds %q", got)
	}
	if got := names(t, m.rt); !slices.Equal(got, before) {
		t.Errorf("links %q, before %q", got, before)
	}
	left, err := os.ReadDir(filepath.Join(cfg.Root, "network", "endpoints"))
	if err != nil || len(left) > 0 {
		t.Errorf("left %v %v", left, err)
	}
	for method := range s.Handlers {
		if !slices.Contains(s.Asked(), method) && !strings.Contains(method, "Discover") && !strings.HasSuffix(method, ".GwAllocCheck") {
			t.Errorf("never asked: %s", method)
		}
	}
}
