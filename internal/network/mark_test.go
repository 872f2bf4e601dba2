package network

import (
	"net/netip"
	"testing"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/linux/nft"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/test/promise"
)

// TestAcceptMark: what the host has marked passes to containers, but for those
// of internal networks, and nothing else does.
func TestAcceptMark(t *testing.T) { fresh(t, func() { acceptMark(t) }) }

func acceptMark(t *testing.T) {
	promise.Program(t, "nft")
	l := newLAN(t)
	cfg := testConfig(t)
	cfg.AcceptMark = nft.Mark{Value: 0x5, Mask: 0xf}
	m := open(t, cfg)
	create(t, m, network.CreateRequest{Name: "inner", Internal: true, IPAM: subnet("172.30.0.0/24")})
	sb, inner := attach(t, m, Request{}), attach(t, m, Request{Network: "inner"})
	own, hidden := sb.Endpoints["bridge"].IPAddress.String()+":7000", inner.Endpoints["inner"].IPAddress.String()+":7000"
	echo(t, m.home, sb.NS, 7000)
	echo(t, m.home, inner.NS, 7000)
	inNS(t, m, l.ns, func(c *rtnl.Conn) {
		var b rtnl.Batch
		for _, net := range []string{"172.17.0.0/16", "172.30.0.0/24"} {
			b.AddRoute(l.link, netip.MustParsePrefix(net), l.host)
		}
		if err := c.Do(&b); err != nil {
			t.Fatal(err)
		}
	})
	refused(t, "without a mark", m.home, l.ns, "tcp", own)
	const marking = "table inet marks { chain c { type filter hook prerouting priority mangle; iifname lan0 meta mark set "
	nftRun(t, marking+"0x16; }; }")
	refused(t, "another mark", m.home, l.ns, "tcp", own)
	nftRun(t, "delete table inet marks; "+marking+"0x15; }; }")
	reaches(t, "marked", m.home, l.ns, "tcp", own, "192.0.2.2")
	refused(t, "marked, internal network", m.home, l.ns, "tcp", hidden)
	nftRun(t, "delete table inet marks")
}
