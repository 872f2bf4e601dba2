package network

import (
	"net/netip"
	"testing"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/network/segment"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// TestReachWords: what ps and inspect say of who reaches a port, in both
// firewall modes.
func TestReachWords(t *testing.T) {
	four, six := netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd00::2")
	for _, tt := range []struct {
		ip, port string
		cfg      Config
		options  map[string]string
		want     string
	}{
		{ip: "0.0.0.0", port: "8080", want: "everyone who reaches this host"},
		{ip: "::", port: "8080", want: "everyone who reaches this host"},
		{ip: "127.0.0.1", port: "8080", want: "this host"},
		{ip: "::1", port: "8080", want: "this host"},
		{ip: "192.0.2.1", port: "8080", want: "everyone who reaches 192.0.2.1"},
		{ip: "0.0.0.0", port: "8080", cfg: Config{HostPolicy: true}, want: "whom the host's input rules accept"},
		{ip: "::", port: "8080", cfg: Config{HostPolicy: true}, want: "whom the host's input rules accept"},
		{ip: "192.0.2.1", port: "8080", cfg: Config{HostPolicy: true}, want: "whom the host's input rules accept at 192.0.2.1"},
		{ip: "127.0.0.1", port: "8080", cfg: Config{HostPolicy: true}, want: "this host"},
		{ip: "0.0.0.0", port: "8080", cfg: Config{DirectRouting: true}, want: "everyone who reaches this host; everyone with a route to 10.1.0.2"},
		{ip: "0.0.0.0", port: "8080", options: map[string]string{spec.OptMode4: "nat-unprotected"}, want: "everyone who reaches this host; everyone with a route to 10.1.0.2"},
		{ip: "::", port: "8080", options: map[string]string{spec.OptMode4: "nat-unprotected"}, want: "everyone who reaches this host"},
		{ip: "127.0.0.1", port: "8080", options: map[string]string{spec.OptTrusted: "eth1:wg0"}, want: "this host; eth1, wg0 at 10.1.0.2"},
		{ip: "0.0.0.0", options: map[string]string{spec.OptMode4: "routed"}, want: "everyone with a route to 10.1.0.2"},
		{ip: "::", options: map[string]string{spec.OptMode6: "routed"}, want: "everyone with a route to fd00::2"},
	} {
		seg := &segment.Segment{Network: spec.Network{Driver: spec.Bridge, Options: tt.options}}
		s := Sight{&Manager{cfg: tt.cfg}}
		got := s.from(door{seg: [2]*segment.Segment{seg, seg}, addr: [2]netip.Addr{four, six}}, network.PortBinding{HostIP: netip.MustParseAddr(tt.ip), HostPort: tt.port})
		if got != tt.want {
			t.Errorf("%s:%s %v: %q, want %q", tt.ip, tt.port, tt.options, got, tt.want)
		}
	}
}
