package network

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"
)

// TestSubnets: a macvlan network with several subnets of both families.
func TestSubnets(t *testing.T) { fresh(t, func() { subnets(t) }) }

func subnets(t *testing.T) {
	cfg := testConfig(t)
	m, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	six := true
	var configs []network.IPAMConfig
	for _, s := range []string{"10.77.1.0/30", "10.77.2.0/24", "fd00:1::/64", "fd00:2::/64"} {
		configs = append(configs, network.IPAMConfig{Subnet: netip.MustParsePrefix(s)})
	}
	create(t, m, network.CreateRequest{Name: "wide", Driver: "macvlan", EnableIPv6: &six, IPAM: &network.IPAM{Config: configs}})
	at := func(v4, v6 string) Request {
		c := &network.EndpointIPAMConfig{}
		if v4 != "" {
			c.IPv4Address, c.IPv6Address = netip.MustParseAddr(v4), netip.MustParseAddr(v6)
		}
		return Request{Network: "wide", Endpoints: map[string]*network.EndpointSettings{"wide": {IPAMConfig: c}}}
	}
	check := func(sb *Sandbox, addr, gateway, addr6, gateway6 string) {
		t.Helper()
		ep := sb.Endpoints["wide"]
		got := []string{ep.IPAddress.String(), ep.Gateway.String(), ep.GlobalIPv6Address.String(), ep.IPv6Gateway.String()}
		if strings.Join(got, " ") != strings.Join([]string{addr, gateway, addr6, gateway6}, " ") {
			t.Errorf("has %v", got)
		}
	}
	a := attach(t, m, at("", ""))
	check(a, "10.77.1.2", "10.77.1.1", "fd00:1::2", "fd00:1::1")
	b := attach(t, m, at("", "")) // the first has none left
	check(b, "10.77.2.2", "10.77.2.1", "fd00:1::3", "fd00:1::1")
	given := at("10.77.2.9", "fd00:2::9")
	given.ContainerID = strings.Repeat("c", 64)
	c := attach(t, m, given)
	check(c, "10.77.2.9", "10.77.2.1", "fd00:2::9", "fd00:2::1")
	echo(t, m.home, c.NS, 80)
	reaches(t, "in the second subnet", m.home, b.NS, "tcp", "10.77.2.9:80", "10.77.2.2")
	in, err := m.Inspect("wide", false)
	if err != nil {
		t.Fatal(err)
	}
	for subnet, want := range map[string]uint64{"10.77.1.0/30": 4, "10.77.2.0/24": 5, "fd00:2::/64": 3} { // with what is nobody's
		if got := in.Status.IPAM.Subnets[netip.MustParsePrefix(subnet)].IPsInUse; got != want {
			t.Errorf("%s: %d addresses in use, want %d", subnet, got, want)
		}
	}
	for addr, want := range map[string]string{"10.77.2.9": "Address already in use", "10.77.3.9": "no configured subnet contains IP address 10.77.3.9"} {
		if _, err := m.Attach(context.Background(), Request{ContainerID: "x", Network: "wide", Endpoints: map[string]*network.EndpointSettings{"wide": {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr(addr)}}}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	// The next engine knows who has what; what is given back can be had again.
	if err := m.Close(false); err != nil {
		t.Fatal(err)
	}
	m = open(t, cfg)
	if err := m.Adopt(given.ContainerID, c.Endpoints, sleeper(t, m, c.NS), nil); err != nil {
		t.Fatal(err)
	}
	taken := at("10.77.2.9", "fd00:2::8")
	taken.ContainerID = "y"
	if _, err := m.Attach(context.Background(), taken); err == nil || !strings.Contains(err.Error(), "Address already in use") {
		t.Errorf("an adopted container's address: %v", err)
	}
	if err := m.Release(context.Background(), given.ContainerID); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"10.77.2.9", "fd00:2::9"} {
		if err := m.reg.ByName("wide").At(netip.MustParseAddr(a)).Addrs.Take(netip.MustParseAddr(a)); err != nil {
			t.Errorf("%s was not given back: %v", a, err)
		}
	}
	// A subnet twice in one network, or in two, is refused.
	for _, s := range []string{"10.77.2.0/25", "10.78.0.128/25"} {
		_, err := m.Create(context.Background(), network.CreateRequest{Name: "other", Driver: "macvlan", IPAM: &network.IPAM{Config: []network.IPAMConfig{
			{Subnet: netip.MustParsePrefix("10.78.0.0/24")}, {Subnet: netip.MustParsePrefix(s)}}}})
		if err == nil || !strings.Contains(err.Error(), "Pool overlaps with other one on this address space") {
			t.Errorf("%s: %v", s, err)
		}
	}
}
