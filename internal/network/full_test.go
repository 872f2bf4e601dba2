package network

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
)

// TestFullBridge: a container more than a bridge has ports is refused by name,
// and can be started when another has gone.
func TestFullBridge(t *testing.T) { fresh(t, func() { fullBridge(t) }) }

func fullBridge(t *testing.T) {
	m := open(t, testConfig(t))
	create(t, m, network.CreateRequest{Name: "one"})
	m.mu.Lock()
	bridge := m.reg.ByName("one").Link
	m.mu.Unlock()
	var names []string
	for i := range 1100 {
		name := fmt.Sprint("p", i)
		var b rtnl.Batch
		b.AddVeth(rtnl.Veth{Name: name, Master: bridge, Peer: "q" + fmt.Sprint(i), PeerNS: int(m.home.Fd())})
		if err := m.rt.Do(&b); err != nil {
			break // full
		}
		names = append(names, name)
	}
	if len(names) < 1000 || len(names) > 1023 {
		t.Fatalf("the bridge took %d ports", len(names))
	}
	_, err := m.Attach(t.Context(), Request{ContainerID: "c", Network: "one"})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "is full: the kernel gives a bridge 1,023 ports") {
		t.Error(err)
	}
	last, err := m.rt.LinkByName(names[0])
	if err != nil {
		t.Fatal(err)
	}
	var b rtnl.Batch
	b.DelLink(last.Index)
	if err := m.rt.Do(&b); err != nil {
		t.Fatal(err)
	}
	attach(t, m, Request{Network: "one"})
}
