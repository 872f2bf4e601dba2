package network

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
)

// TestMacvlan: containers in the LAN of a link of the host, which itself they
// do not meet.
func TestMacvlan(t *testing.T) { fresh(t, func() { macvlan(t) }) }

func macvlan(t *testing.T) {
	l := newLAN(t)
	newLANAt(t, "lan1", "198.51.100.1/24", "198.51.100.2/24") // for ipvlan, which does not go with macvlan
	cfg := proxied(t)
	m, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	lan := func(name, mode, from string) {
		create(t, m, network.CreateRequest{Name: name, Driver: "macvlan", Options: map[string]string{"parent": "lan0", "macvlan_mode": mode}, IPAM: &network.IPAM{Config: []network.IPAMConfig{{
			Subnet: netip.MustParsePrefix("192.0.2.0/24"), IPRange: netip.MustParsePrefix(from), Gateway: netip.MustParseAddr("192.0.2.2"), AuxAddress: map[string]netip.Addr{"host": netip.MustParseAddr("192.0.2.1")},
		}}}})
	}
	echo(t, m.home, l.ns, 7000)
	for mode, together := range map[string]bool{"bridge": true, "private": false} {
		// Their echoes keep the namespaces, and the kernel their hardware addresses.
		lan("mv-"+mode, mode, map[bool]string{true: "192.0.2.64/27", false: "192.0.2.96/27"}[together])
		a := attach(t, m, Request{ContainerName: "a", Network: "mv-" + mode, Ports: ports("80/tcp", "8080")})
		b := attach(t, m, Request{ContainerName: "b", Network: "mv-" + mode})
		echo(t, m.home, a.NS, 80)
		addr := a.Endpoints["mv-"+mode].IPAddress.String()
		reaches(t, mode+" to the LAN", m.home, a.NS, "tcp", "192.0.2.2:7000", addr)
		reaches(t, "LAN to "+mode, m.home, l.ns, "tcp", addr+":80", "192.0.2.2")
		if _, err := call(m.home, b.NS, "tcp", addr+":80"); (err == nil) != together {
			t.Errorf("%s: from container to container: %v", mode, err)
		}
		refused(t, "host to "+mode, m.home, nil, "tcp", addr+":80")
		for id := range m.boxes {
			if err := m.Release(context.Background(), id); err != nil {
				t.Fatal(err)
			}
		}
		a.NS.Close()
		b.NS.Close()
		if _, err := m.Remove(context.Background(), "mv-"+mode); err != nil {
			t.Fatal(err)
		}
	}
	lan("through", "passthru", "192.0.2.128/27")
	_, err = m.Create(context.Background(), network.CreateRequest{Name: "second", Driver: "macvlan", Options: map[string]string{"parent": "lan0"}, IPAM: subnet("192.0.3.0/24")})
	if err == nil || !strings.Contains(err.Error(), "cannot use mode passthru, macvlan network through already uses parent interface lan0") {
		t.Errorf("%v", err)
	}
	create(t, m, network.CreateRequest{Name: "alone", Driver: "macvlan", IPAM: subnet("10.77.0.0/24")})
	a, b := attach(t, m, Request{Network: "alone"}), attach(t, m, Request{Network: "alone"})
	echo(t, m.home, a.NS, 80)
	reaches(t, "without a parent", m.home, b.NS, "tcp", a.Endpoints["alone"].IPAddress.String()+":80", "")
	// Either the kernel has them, or it is said by name; nothing is left of what failed.
	for want, r := range map[string]network.CreateRequest{
		"this kernel has no ipvlan links (modprobe ipvlan)":        {Name: "ip", Driver: "ipvlan", Options: map[string]string{"parent": "lan1"}, IPAM: subnet("10.78.0.0/24")},
		"this kernel has no 802.1q subinterfaces (modprobe 8021q)": {Name: "tag", Driver: "macvlan", Options: map[string]string{"parent": "lan0.10"}, IPAM: subnet("10.79.0.0/24")},
	} {
		if _, err := m.Remove(context.Background(), "through"); err != nil && !errdefs.IsNotFound(err) {
			t.Fatal(err)
		}
		_, err := m.Create(context.Background(), r)
		if err != nil && (!errdefs.IsNotImplemented(err) || err.Error() != want) {
			t.Errorf("%v, want %s", err, want)
		}
		if err == nil {
			c := attach(t, m, Request{Network: r.Name})
			inNS(t, m, c.NS, func(in *rtnl.Conn) {
				if links, err := in.Links(); err != nil || len(links) != 2 {
					t.Errorf("%s: %v %v", r.Name, links, err)
				}
			})
		}
	}
	if err := m.Close(true); err != nil {
		t.Fatal(err)
	}
	rt, err := rtnl.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	links, err := rt.Links()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range links {
		if x.Name != "lo" && !strings.HasPrefix(x.Name, "lan") {
			t.Errorf("link %s is left", x.Name)
		}
	}
}
