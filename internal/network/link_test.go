package network

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
)

func TestLinked(t *testing.T) { fresh(t, func() { linked(t) }) }

// linked: on a network that keeps containers apart one that is linked reaches
// the other's exposed ports, and nothing else; nobody gains by an address that
// changes hands.
func linked(t *testing.T) {
	home, err := rtnl.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	cfg := testConfig(t)
	cfg.ICC = false
	m, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{id.New(), id.New(), id.New()}
	var boxes []*Sandbox
	for _, id := range ids {
		sb := attach(t, m, Request{ContainerID: id})
		echo(t, home, sb.NS, 7000)
		echo(t, home, sb.NS, 7001)
		boxes = append(boxes, sb)
	}
	address := func(i, port int) string {
		return netip.AddrPortFrom(boxes[i].Endpoints["bridge"].IPAddress, uint16(port)).String()
	}
	exposed := network.PortSet{network.MustParsePort("7000/tcp"): {}, network.MustParsePort("7000/udp"): {}}
	for range 2 { // idempotent
		if err := (Links{m}).Link(ids[0], ids[1], exposed); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		t.Helper()
		reaches(t, when+": exposed port", home, boxes[0].NS, "tcp", address(1, 7000), boxes[0].Endpoints["bridge"].IPAddress.String())
		reaches(t, when+": exposed port", home, boxes[0].NS, "udp", address(1, 7000), "")
		refused(t, when+": another port", home, boxes[0].NS, "tcp", address(1, 7001))
		refused(t, when+": the way back", home, boxes[1].NS, "tcp", address(0, 7000))
		refused(t, when+": a stranger", home, boxes[2].NS, "tcp", address(1, 7000))
	}
	check("linked")
	// The next engine takes it over, and what nobody claims goes.
	if err := m.Close(false); err != nil {
		t.Fatal(err)
	}
	check("without an engine")
	m = open(t, cfg)
	for i, id := range ids {
		if err := m.Adopt(id, boxes[i].Endpoints, 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := (Links{m}).Link(ids[0], ids[1], exposed); err != nil {
		t.Fatal(err)
	}
	attach(t, m, Request{})
	check("the next engine")
	// The other's address becomes a stranger's.
	if err := m.Release(context.Background(), ids[1]); err != nil {
		t.Fatal(err)
	}
	if got := m.ports.all(); len(got) != 0 {
		t.Errorf("left of the link: %v", got)
	}
	if err := (Links{m}).Link(ids[0], ids[1], exposed); err != nil || len(m.ports.all()) != 0 {
		t.Errorf("link with one that has ended: %v, %v", err, m.ports.all())
	}
	if err := (Links{m}).Link(ids[0], ids[2], exposed); err != nil {
		t.Fatal(err)
	}
	reaches(t, "another link", home, boxes[0].NS, "tcp", address(2, 7000), "")
	if err := errors.Join((Links{m}).Unlink(ids[0], ids[2]), (Links{m}).Unlink(ids[0], ids[2])); err != nil {
		t.Fatal(err)
	}
	refused(t, "unlinked", home, boxes[0].NS, "tcp", address(2, 7000))
	if len(m.ports.links) != 0 {
		t.Errorf("links %v are kept", m.ports.links)
	}
}
