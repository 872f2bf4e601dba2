package firewall

import (
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/wherry-engine/wherry/internal/linux/nft"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// way is a map from the bridges to a chain of each: what a packet costs does not
// grow with the number of networks, and it meets the rules of its own alone.
type way struct{ name, verdict string }

var (
	from = way{"from", "goto"} // what its containers send
	into = way{"into", "goto"} // the first packet of a connection to it
	onto = way{"onto", "jump"} // the same, when the source may be rewritten
	ways = []way{from, into, onto}
)

// chainOf names a chain of a bridge in the words that nft's language has.
func chainOf(way, bridge string) string {
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r) {
			return r
		}
		return -1
	}, bridge)
	if plain != bridge {
		plain += fmt.Sprintf("/%08x", crc32.ChecksumIEEE([]byte(bridge)))
	}
	return way + "_" + plain
}

const linkLocal = "fe80::/10"

// from lets pass what has a source of the network.
func (n Network) from() nft.Chain {
	c := nft.Chain{Name: chainOf(from.name, n.Bridge)}
	if st := n.Stacks[0]; st.Subnet.IsValid() {
		c.Rules = append(c.Rules, nft.R(nft.Is(nft.Source(), st.Subnet.Masked().String()), nft.Not(nft.Dest(), loopback), nft.Accept()).
			Because("route_localnet must not open the host's loopback"))
	}
	if st := n.Stacks[1]; st.Subnet.IsValid() {
		// Neighbour discovery and what else stays on the link have the others.
		for _, s := range []string{st.Subnet.Masked().String(), linkLocal, "::"} {
			c.Rules = append(c.Rules, nft.R(nft.Is(nft.Source6(), s), nft.Accept()))
		}
	}
	c.Rules = append(c.Rules, nft.R(nft.Drop()).Because("sources that are not of the network"))
	return c
}

// into is what may pass to the network.
func (n Network) into(s State) nft.Chain {
	c := nft.Chain{Name: chainOf(into.name, n.Bridge)}
	rule := func(e ...nft.Expr) { c.Rules = append(c.Rules, nft.R(e...)) }
	if n.ICC {
		rule(nft.Is(nft.In(), n.Bridge), nft.Accept())
	}
	if n.Internal {
		rule(nft.Drop())
		return c
	}
	rule(nft.Among("internal", nft.In()), nft.Drop())
	c.Rules = append(c.Rules, nft.R(nft.Translated(), nft.Accept()).Because("published ports"))
	if !n.ICC {
		rule(nft.Is(nft.In(), n.Bridge), nft.Among(setLinked, nft.Source(), nft.Dest(), nft.L4Proto(), nft.DestPort()), nft.Accept())
		rule(nft.Is(nft.In(), n.Bridge), nft.Drop())
	}
	if s.Accept.Mask != 0 {
		c.Rules = append(c.Rules, nft.R(nft.Marked(s.Accept), nft.Accept()).Because("--bridge-accept-fwmark"))
	}
	for f, family := range []string{"ipv4", "ipv6"} {
		st := n.Stacks[f]
		direct := st.Mode == spec.Routed || s.DirectRouting
		open := nft.Among(setOpen[f], dest[f](), nft.L4Proto(), nft.DestPort())
		if st.Subnet.IsValid() && !direct && st.Mode == spec.Unprotected {
			rule(nft.OfFamily(family), nft.Accept())
		}
		if st.Subnet.IsValid() && direct {
			c.Rules = append(c.Rules, nft.R(open, nft.Accept()).Because("published ports at the containers' own addresses"))
			rule(nft.OfFamily(family), nft.Ping(f == 1), nft.Accept())
		}
		for _, link := range n.Trusted {
			rule(nft.Is(nft.In(), link), open, nft.Accept())
		}
	}
	rule(nft.Drop())
	return c
}

// onto rewrites sources where answers must come back through the host.
func (n Network) onto() nft.Chain {
	c := nft.Chain{Name: chainOf(onto.name, n.Bridge)}
	rule := func(e ...nft.Expr) { c.Rules = append(c.Rules, nft.R(e...)) }
	rule(nft.Is(nft.Source(), loopback), nft.Masquerade())
	for f, st := range n.Stacks {
		if !st.Subnet.IsValid() {
			continue
		}
		own := []string{st.Subnet.Masked().String()}
		if f == 1 {
			own = append(own, linkLocal)
		}
		for _, s := range own {
			c.Rules = append(c.Rules, nft.R(nft.Is(source[f](), s), nft.Translated(), nft.Masquerade()).Because("a neighbour's"))
			rule(nft.Is(source[f](), s), nft.Accept())
		}
	}
	return c
}
