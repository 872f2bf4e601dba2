// Package firewall owns the rules of the host for containers: it turns the
// wanted state into one nftables table. It is a pure function; applying the
// table is the caller's business.
//
// The table only ever widens what other tables allow by nothing: an accept here
// ends this table, and every other table at the same hook still has its say. A
// host whose own forward chain has the policy drop keeps dropping; see
// Manager.Warnings.
package firewall

import (
	"cmp"
	"net/netip"
	"strconv"

	"github.com/wherry-engine/wherry/internal/linux/nft"
)

// TableName is the name of the only table of a host's only engine.
const TableName = "wherry"

// Network is one bridge with what may pass.
type Network struct {
	Bridge     string
	Subnet     netip.Prefix // IPv4
	ICC        bool         // containers reach each other
	Masquerade bool         // sources are rewritten on the way to other links
	Internal   bool         // nothing from or to other links
}

// Publication sends what arrives at a port of the host to a container.
type Publication struct {
	Proto    string     // tcp, udp, sctp
	HostIP   netip.Addr // unspecified: every address of the host
	HostPort uint16
	IP       netip.Addr
	Port     uint16
}

// State is what the rules are made from.
type State struct {
	Table        string // "" is TableName
	Networks     []Network
	Publications []Publication
	// LocalPublish makes published ports reachable from the host through
	// 127.0.0.0/8 too.
	LocalPublish bool
	// CloseForward drops what is forwarded between two links of which neither
	// is a bridge: this host was no router before the engine made it one.
	CloseForward bool
}

// Names of the maps that change while containers start and stop.
const (
	mapAny   = "published"    // protocol . port
	mapBound = "published_at" // address . protocol . port
)

// Plan is the whole table for a state.
func Plan(s State) *nft.Table {
	return &nft.Table{Name: cmp.Or(s.Table, TableName), Sets: sets(s), Chains: chains(s)}
}

func sets(s State) []nft.Set {
	bridges := nft.Set{Name: "bridges", Key: []nft.Type{nft.IfName}}
	sources := nft.Set{Name: "sources", Key: []nft.Type{nft.IfName, nft.IPv4}, Interval: true}
	peers := nft.Set{Name: "peers", Key: []nft.Type{nft.IfName, nft.IfName}}
	masqueraded := nft.Set{Name: "masqueraded", Key: []nft.Type{nft.IPv4}, Interval: true}
	internal := nft.Set{Name: "internal", Key: []nft.Type{nft.IfName}}
	for _, n := range s.Networks {
		subnet := n.Subnet.Masked().String()
		add(&bridges, n.Bridge)
		add(&sources, n.Bridge, subnet)
		if n.ICC {
			add(&peers, n.Bridge, n.Bridge)
		}
		if n.Masquerade && !n.Internal {
			add(&masqueraded, subnet)
		}
		if n.Internal {
			add(&internal, n.Bridge)
		}
	}
	target := []nft.Type{nft.IPv4, nft.Service}
	published := nft.Set{Name: mapAny, Key: []nft.Type{nft.Proto, nft.Service}, Value: target}
	bound := nft.Set{Name: mapBound, Key: []nft.Type{nft.IPv4, nft.Proto, nft.Service}, Value: target}
	for _, p := range s.Publications {
		name, e := p.element()
		if name == mapAny {
			published.Elements = append(published.Elements, e)
		} else {
			bound.Elements = append(bound.Elements, e)
		}
	}
	return []nft.Set{bridges, sources, peers, masqueraded, internal, published, bound}
}

func add(s *nft.Set, key ...string) { s.Elements = append(s.Elements, nft.Element{Key: key}) }

// element says which map the publication is an element of, and the element.
func (p Publication) element() (string, nft.Element) {
	port := strconv.Itoa(int(p.HostPort))
	value := []string{p.IP.String(), strconv.Itoa(int(p.Port))}
	if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
		return mapBound, nft.Element{Key: []string{p.HostIP.String(), p.Proto, port}, Value: value}
	}
	return mapAny, nft.Element{Key: []string{p.Proto, port}, Value: value}
}

// Publish is the change of the table that adds and removes publications.
func Publish(add, remove []Publication) []nft.Change {
	changes := map[string]*nft.Change{mapAny: {Set: mapAny}, mapBound: {Set: mapBound}}
	for _, p := range remove {
		name, e := p.element()
		changes[name].Remove = append(changes[name].Remove, e)
	}
	for _, p := range add {
		name, e := p.element()
		changes[name].Add = append(changes[name].Add, e)
	}
	var out []nft.Change
	for _, name := range []string{mapAny, mapBound} {
		if c := changes[name]; len(c.Add)+len(c.Remove) > 0 {
			out = append(out, *c)
		}
	}
	return out
}

// Priorities of the kernel's hooks.
const (
	raw    = -300
	dstnat = -100
	filter = 0
	srcnat = 100
)

func chains(s State) []nft.Chain {
	loopback := "127.0.0.0/8"
	guard := nft.Chain{Name: "guard", Hook: &nft.Hook{Type: "filter", Point: "prerouting", Priority: raw}, Rules: []nft.Rule{
		nft.R(nft.Among("bridges", nft.In()), nft.Is(nft.Dest(), loopback), nft.Drop()).
			Because("route_localnet must not open the host's loopback"),
		nft.R(nft.Among("bridges", nft.In()), nft.NotAmong("sources", nft.In(), nft.Source()), nft.Drop()).
			Because("sources that are not of the network"),
	}}
	forward := nft.Chain{Name: "forward", Hook: &nft.Hook{Type: "filter", Point: "forward", Priority: filter}, Rules: []nft.Rule{
		nft.R(nft.Among("peers", nft.In(), nft.Out()), nft.Accept()),
		nft.R(nft.Among("internal", nft.In()), nft.Drop()),
		nft.R(nft.Among("internal", nft.Out()), nft.Drop()),
		nft.R(nft.Among("bridges", nft.Out()), nft.Jump("inward")),
		nft.R(nft.Among("bridges", nft.In()), nft.Accept()),
	}}
	if s.CloseForward {
		forward.Rules = append(forward.Rules, nft.R(nft.NotFromKind("bridge"), nft.NotToKind("bridge"), nft.Drop()).
			Because("forwarding was off before the engine"))
	}
	inward := nft.Chain{Name: "inward", Rules: []nft.Rule{
		nft.R(nft.Established(), nft.Accept()),
		nft.R(nft.Translated(), nft.Accept()).Because("published ports"),
		nft.R(nft.Drop()),
	}}
	publish := nft.Chain{Name: "publish", Rules: []nft.Rule{
		nft.R(nft.DNAT(mapBound, nft.Dest(), nft.L4Proto(), nft.DestPort())),
		nft.R(nft.DNAT(mapAny, nft.L4Proto(), nft.DestPort())),
	}}
	arriving := nft.Chain{Name: "arriving", Hook: &nft.Hook{Type: "nat", Point: "prerouting", Priority: dstnat}, Rules: []nft.Rule{
		nft.R(nft.Is(nft.Dest(), loopback), nft.Return()).Because("ports of the loopback are for the host alone"),
		nft.R(nft.ToLocal(), nft.Jump("publish")),
	}}
	local := nft.Chain{Name: "local", Hook: &nft.Hook{Type: "nat", Point: "output", Priority: dstnat}}
	if !s.LocalPublish {
		local.Rules = append(local.Rules, nft.R(nft.Is(nft.Dest(), loopback), nft.Return()))
	}
	local.Rules = append(local.Rules, nft.R(nft.ToLocal(), nft.Jump("publish")))
	leaving := nft.Chain{Name: "leaving", Hook: &nft.Hook{Type: "nat", Point: "postrouting", Priority: srcnat}, Rules: []nft.Rule{
		nft.R(nft.Translated(), nft.Among("sources", nft.Out(), nft.Source()), nft.Masquerade()).
			Because("answers to neighbours must come back through the host"),
		nft.R(nft.Among("bridges", nft.Out()), nft.Is(nft.Source(), loopback), nft.Masquerade()),
		nft.R(nft.Among("masqueraded", nft.Source()), nft.NotAmong("sources", nft.Out(), nft.Source()), nft.Masquerade()),
	}}
	return []nft.Chain{guard, inward, forward, publish, arriving, local, leaving}
}

// Read returns the publications that the kernel has, as far as they are ours.
func Read(elements func(set string) ([]nft.Element, error)) ([]Publication, error) {
	var out []Publication
	for _, name := range []string{mapAny, mapBound} {
		found, err := elements(name)
		if err != nil {
			return nil, err
		}
		for _, e := range found {
			if p, ok := publication(name, e); ok {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// publication is the reverse of element.
func publication(set string, e nft.Element) (Publication, bool) {
	p := Publication{HostIP: netip.IPv4Unspecified()}
	k := e.Key
	var err error
	if set == mapBound && len(k) == 3 {
		if p.HostIP, err = netip.ParseAddr(k[0]); err != nil {
			return p, false
		}
		k = k[1:]
	}
	if len(k) != 2 || len(e.Value) != 2 {
		return p, false
	}
	host, err1 := strconv.ParseUint(k[1], 10, 16)
	port, err2 := strconv.ParseUint(e.Value[1], 10, 16)
	ip, err3 := netip.ParseAddr(e.Value[0])
	p.Proto, p.HostPort, p.IP, p.Port = k[0], uint16(host), ip, uint16(port)
	return p, err1 == nil && err2 == nil && err3 == nil
}
