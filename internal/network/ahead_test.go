package network

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// TestAhead: links that were made ahead are as those made for the occasion,
// whatever they are called and however many wait.
func TestAhead(t *testing.T) { fresh(t, func() { madeAhead(t) }) }

func testNets(eps ...*network.EndpointSettings) (out map[string]*network.EndpointSettings) {
	out = map[string]*network.EndpointSettings{}
	for i, ep := range eps {
		out[[]string{"one", "two", "three"}[i]] = ep
	}
	return out
}

func aheadNamed(name string) *network.EndpointSettings {
	return &network.EndpointSettings{DriverOpts: map[string]string{spec.OptIfName: name}}
}

func madeAhead(t *testing.T) {
	cfg := testConfig(t)
	cfg.PoolSize = 2
	m := open(t, cfg)
	create(t, m, network.CreateRequest{Name: "one", Options: map[string]string{"com.docker.network.driver.mtu": "1400"}})
	create(t, m, network.CreateRequest{Name: "two"})
	create(t, m, network.CreateRequest{Name: "three", EnableIPv6: new(true)})
	mac, err := net.ParseMAC("02:00:00:00:00:77")
	if err != nil {
		t.Fatal(err)
	}
	plain := &network.EndpointSettings{}
	cases := []struct {
		what  string
		eps   map[string]*network.EndpointSettings
		links []string // by network's turn: one, three, two
	}{
		{"one network", testNets(plain), []string{"eth0"}},
		{"three by one pair", testNets(plain, plain, plain), []string{"eth0", "eth1", "eth2"}},
		{"three by three pairs", testNets(plain, plain, plain), []string{"eth0", "eth1", "eth2"}},
		{"two where one and three wait", testNets(plain, plain), []string{"eth0", "eth1"}},
		{"another name", testNets(aheadNamed("lan")), []string{"lan"}},
		{"names exchanged", testNets(aheadNamed("eth1"), plain), []string{"eth1", "eth0"}},
		{"own hardware address", testNets(&network.EndpointSettings{MacAddress: network.HardwareAddr(mac)}), []string{"eth0"}},
	}
	for _, c := range cases {
		waitFor(t, "pool", full(m, 2))
		cid := id.New()
		sb := attach(t, m, Request{ContainerID: cid, Network: "one", Endpoints: c.eps})
		inNS(t, m, sb.NS, func(in *rtnl.Conn) {
			links, err := in.Links()
			if err != nil || len(links) != 1+len(c.links) {
				t.Errorf("%s: links %+v %v", c.what, links, err)
			}
			addrs, err := in.Addrs()
			if err != nil {
				t.Error(err)
			}
			for i, name := range slices.Sorted(maps.Keys(c.eps)) {
				ep := sb.Endpoints[name]
				at := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == c.links[i] })
				if at < 0 {
					t.Errorf("%s: no link %s for network %s among %+v", c.what, c.links[i], name, links)
					continue
				}
				l := links[at]
				if mtu := map[string]int{"one": 1400}[name]; !l.Up || mtu != 0 && l.MTU != mtu || !slices.Equal(l.MAC, net.HardwareAddr(ep.MacAddress)) {
					t.Errorf("%s: link %+v of network %s, endpoint %+v", c.what, l, name, ep)
				}
				for _, want := range []netip.Addr{ep.IPAddress, ep.GlobalIPv6Address} {
					if want.IsValid() && !slices.ContainsFunc(addrs, func(a rtnl.Addr) bool { return a.Prefix.Addr() == want && a.Link == l.Index }) {
						t.Errorf("%s: %s has not %s: %+v", c.what, l.Name, want, addrs)
					}
				}
				if err := ping(ep.Gateway); err != nil {
					t.Errorf("%s: %s: %v", c.what, name, err)
				}
			}
		})
		if err := m.Release(t.Context(), cid); err != nil {
			t.Error(err)
		}
		sb.NS.Close()
		m.Refill()
	}
	if err := m.Close(true); err != nil {
		t.Error(err)
	}
	waitFor(t, "links to go", func() bool { return len(veths(t)) == 0 })
}
