package ipam

import (
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestRoundRobin(t *testing.T) {
	p, err := NewPool(pfx("10.0.0.0/29"), netip.Prefix{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Take(netip.MustParseAddr("10.0.0.1")); err != nil {
		t.Fatal(err)
	}
	get := func(want string) {
		t.Helper()
		a, err := p.Get()
		if err != nil || a.String() != want {
			t.Fatalf("got %s %v, want %s", a, err, want)
		}
	}
	if n := p.Available(); n != 5 {
		t.Errorf("%d available, want 5", n)
	}
	get("10.0.0.2")
	p.Free(netip.MustParseAddr("10.0.0.2"))
	get("10.0.0.3") // not the one just freed
	get("10.0.0.4")
	get("10.0.0.5")
	get("10.0.0.6")
	get("10.0.0.2")
	if _, err := p.Get(); !errdefs.IsResourceExhausted(err) || err.Error() != "no available IPv4 addresses on this network's address pools: 10.0.0.0/29" {
		t.Errorf("%v", err)
	}
	p.Free(netip.MustParseAddr("10.0.0.4"))
	p.Free(netip.MustParseAddr("10.0.0.4"))
	get("10.0.0.4")
	if n := p.Available(); n != 0 {
		t.Errorf("%d available", n)
	}
}

func TestTake(t *testing.T) {
	p, _ := NewPool(pfx("10.0.0.0/24"), pfx("10.0.0.128/25"))
	for a, ok := range map[string]bool{"10.0.0.5": true, "10.0.0.0": false, "10.0.0.255": false, "10.0.1.1": false} {
		if err := p.Take(netip.MustParseAddr(a)); (err == nil) != ok {
			t.Errorf("%s: %v", a, err)
		}
	}
	if err := p.Take(netip.MustParseAddr("10.0.0.5")); !errdefs.IsAlreadyExists(err) {
		t.Errorf("%v", err)
	}
	if a, _ := p.Get(); a.String() != "10.0.0.128" {
		t.Errorf("%s is not the first of the range", a)
	}
	if _, err := NewPool(pfx("10.0.0.0/24"), pfx("10.0.1.0/25")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("range outside: %v", err)
	}
	six, _ := NewPool(pfx("fd00::/64"), netip.Prefix{})
	if a, _ := six.Get(); a.String() != "fd00::1" {
		t.Errorf("first of IPv6 %s", a)
	}
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		taken []string
		want  string
	}{
		{nil, "172.17.0.0/16"},
		{[]string{"0.0.0.0/0"}, "172.17.0.0/16"}, // a default route is no reason
		{[]string{"172.17.4.0/24"}, "172.18.0.0/16"},
		{[]string{"172.16.0.0/12"}, "192.168.0.0/20"},
		{[]string{"172.16.0.0/12", "192.168.0.0/24", "192.168.16.1/32"}, "192.168.32.0/20"},
		{[]string{"172.17.0.0/16", "172.18.0.0/16", "172.19.0.0/16", "172.21.0.0/16"}, "172.20.0.0/16"},
		{[]string{"172.17.0.0/16", "172.18.0.0/16", "172.19.0.0/16", "172.20.0.0/15"}, "172.22.0.0/16"},
		{[]string{"fd00::/8"}, "172.17.0.0/16"},
		{[]string{"172.16.0.0/12", "192.168.0.0/16"}, ""},
	} {
		var taken []netip.Prefix
		for _, s := range c.taken {
			taken = append(taken, pfx(s))
		}
		got, err := Choose(DefaultRanges(), taken)
		if c.want == "" {
			if err == nil || err.Error() != "all predefined address pools have been fully subnetted" {
				t.Errorf("%v: %s %v", c.taken, got, err)
			}
		} else if err != nil || got.String() != c.want {
			t.Errorf("%v: %s %v, want %s", c.taken, got, err, c.want)
		}
	}
}
