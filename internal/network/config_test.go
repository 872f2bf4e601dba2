package network

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/forwarding"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

func TestConfigErrors(t *testing.T) {
	for want, change := range map[string]func(c *Config){
		"You specified -b & --bip, mutually exclusive options. Please specify only one":                                                func(c *Config) { c.BridgeName, c.BIP = "br9", netip.MustParsePrefix("10.0.0.1/24") },
		`You specified "iptables=false" with "icc=false". ICC=false uses iptables to function. Please set --icc or --iptables to true`: func(c *Config) { c.Firewall, c.ICC = false, false },
		"invalid default MTU: -5": func(c *Config) { c.MTU = -5 },
		"invalid --bip 10.0.0.0/24: must be the bridge's own IPv4 address with the prefix length of its network": func(c *Config) { c.BIP = netip.MustParsePrefix("10.0.0.0/24") },
	} {
		c := Config{Firewall: true, ICC: true}
		change(&c)
		if err := c.Check(); err == nil || err.Error() != want || !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestBridgeOptions(t *testing.T) { fresh(t, func() { bridgeOptions(t) }) }

func bridgeOptions(t *testing.T) {
	rt, err := rtnl.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	// The host uses 172.17/16 already: the next one is taken.
	l := newLANAt(t, "lan0", "172.17.3.1/24", "172.17.3.2/24")
	_ = l
	try := func(what string, change func(*Config), address, gateway, first string, mtu int) {
		t.Helper()
		cfg := testConfig(t)
		change(&cfg)
		m, err := Open(context.Background(), cfg)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		defer func() {
			if err := m.Close(true); err != nil {
				t.Error(err)
			}
		}()
		sb := attach(t, m, Request{})
		ep := sb.Endpoints["bridge"]
		if ep.IPAddress.String() != first || ep.Gateway.String() != gateway {
			t.Errorf("%s: endpoint %s via %s", what, ep.IPAddress, ep.Gateway)
		}
		addrs, _ := m.rt.Addrs()
		found := false
		for _, a := range addrs {
			found = found || a.Prefix.String() == address && a.Link == m.reg.ByName("bridge").Link
		}
		if !found {
			t.Errorf("%s: no address %s", what, address)
		}
		inNS(t, m, sb.NS, func(c *rtnl.Conn) {
			if err := ping(netip.MustParsePrefix(address).Addr()); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			links, _ := c.Links()
			for _, x := range links {
				if x.Name == "eth0" && x.MTU != mtu {
					t.Errorf("%s: MTU %d", what, x.MTU)
				}
			}
		})
		sb.NS.Close()
	}
	try("overlap", func(c *Config) {}, "172.18.0.1/16", "172.18.0.1", "172.18.0.2", 1500)
	try("bip", func(c *Config) { c.BIP = netip.MustParsePrefix("10.1.2.3/24"); c.MTU = 1400 }, "10.1.2.3/24", "10.1.2.3", "10.1.2.1", 1400)
	try("fixed", func(c *Config) {
		c.BIP, c.FixedCIDR, c.DefaultGateway = netip.MustParsePrefix("10.1.2.1/24"), netip.MustParsePrefix("10.1.2.64/26"), netip.MustParseAddr("10.1.2.254")
	}, "10.1.2.1/24", "10.1.2.254", "10.1.2.64", 1500)

	var b rtnl.Batch
	b.AddBridge(rtnl.Bridge{Name: "mine0"})
	if err := rt.Do(&b); err != nil {
		t.Fatal(err)
	}
	link, err := rt.LinkByName("mine0")
	if err != nil {
		t.Fatal(err)
	}
	b = rtnl.Batch{}
	b.AddAddr(link.Index, netip.MustParsePrefix("10.7.0.1/24"))
	b.SetUp(link.Index)
	if err := rt.Do(&b); err != nil {
		t.Fatal(err)
	}
	try("existing", func(c *Config) { c.BridgeName = "mine0" }, "10.7.0.1/24", "10.7.0.1", "10.7.0.2", 1500)
	if _, err := rt.LinkByName("mine0"); err != nil {
		t.Error("the administrator's bridge was removed")
	}
	cfg := testConfig(t)
	cfg.BridgeName = "nope0"
	if _, err := Open(context.Background(), cfg); err == nil || !strings.HasSuffix(err.Error(), "bridge device with non default name nope0 must be created manually") {
		t.Errorf("%v", err)
	}
	cfg.BridgeName = "none"
	m := open(t, cfg)
	sb := attach(t, m, Request{})
	if _, ok := sb.Endpoints["none"]; !ok {
		t.Errorf("without bridge: %+v", sb.Endpoints)
	}
	if _, err := m.Inspect("bridge", false); !errdefs.IsNotFound(err) {
		t.Errorf("%v", err)
	}
}

func TestFirewallOff(t *testing.T) { fresh(t, func() { firewallOff(t) }) }

func firewallOff(t *testing.T) {
	cfg := testConfig(t)
	cfg.Firewall, cfg.IPForward = false, false
	m := open(t, cfg)
	if m.nf != nil {
		t.Error("rules are written")
	}
	if v, _ := rtnl.ReadSysctl(forwarding.Path); v != "0" {
		t.Errorf("forwarding %s", v)
	}
	sb := attach(t, m, Request{})
	inNS(t, m, sb.NS, func(*rtnl.Conn) {
		if err := ping(netip.MustParseAddr("172.17.0.1")); err != nil {
			t.Error(err)
		}
	})
}

func TestLookups(t *testing.T) { fresh(t, func() { lookups(t) }) }

func lookups(t *testing.T) {
	m := open(t, testConfig(t))
	list, err := m.List(filter.Args{})
	if err != nil || len(list) != 3 || list[0].Name != "bridge" || list[1].Name != "host" || list[2].Name != "none" {
		t.Fatalf("%+v %v", list, err)
	}
	for ref, want := range map[string]string{"bridge": "bridge", list[1].ID: "host", list[2].ID[:8]: "none"} {
		if n, err := m.Inspect(ref, false); err != nil || n.Name != want {
			t.Errorf("%s: %+v %v", ref, n, err)
		}
	}
	for ref, want := range map[string]string{"x": "network x not found", "": "network  not found"} {
		if _, err := m.Inspect(ref, false); err == nil || err.Error() != want || !errdefs.IsNotFound(err) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	if _, err := m.Attach(context.Background(), Request{ContainerID: "c", Network: "x"}); err == nil || err.Error() != "network x not found" {
		t.Errorf("%v", err)
	}
	b, _ := m.Inspect("bridge", false)
	if b.Driver != "bridge" || b.Scope != "local" || b.Options[spec.OptBridgeName] != "wherry0" || b.Options[spec.OptDefaultBridge] != "true" || b.IPAM.Config[0].Gateway.String() != "172.17.0.1" || b.IPAM.Config[0].Subnet.String() != "172.17.0.0/16" {
		t.Errorf("%+v", b)
	}
	for _, c := range []struct {
		f    filter.Args
		want int
	}{{filter.Args{"driver": {"null"}}, 1}, {filter.Args{"name": {"o"}}, 2}, {filter.Args{"type": {"custom"}}, 0}, {filter.Args{"dangling": {"true"}}, 0}, {filter.Args{"id": {list[0].ID[:12]}}, 1}, {filter.Args{"name": {"^host$", "^non"}}, 2}, {filter.Args{"name": {"^ost"}}, 0}} {
		if got, err := m.List(c.f); err != nil || len(got) != c.want {
			t.Errorf("%v: %d %v", c.f, len(got), err)
		}
	}
	if _, err := m.List(filter.Args{"dangling": {"maybe"}}); err == nil || !strings.HasPrefix(err.Error(), "invalid value for filter 'dangling', must be") {
		t.Errorf("%v", err)
	}
	if _, err := m.List(filter.Args{"colour": {"red"}}); err == nil || err.Error() != "invalid filter 'colour'" {
		t.Errorf("%v", err)
	}
	_, err = m.Attach(context.Background(), Request{ContainerID: "c", Endpoints: map[string]*network.EndpointSettings{"bridge": {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("172.17.0.9")}}}})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("own address on the default network: %v", err)
	}
	sb := attach(t, m, Request{MAC: network.HardwareAddr{2, 0, 0, 0, 0, 9}})
	inNS(t, m, sb.NS, func(c *rtnl.Conn) {
		links, _ := c.Links()
		for _, l := range links {
			if l.Name == "eth0" && l.MAC.String() != "02:00:00:00:00:09" {
				t.Errorf("MAC %s", l.MAC)
			}
		}
	})
}
