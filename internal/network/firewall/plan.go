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
	"slices"
	"strconv"

	"github.com/wherry-engine/wherry/internal/linux/nft"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// TableName is the name of the only table of a host's only engine.
const TableName = "wherry"

// Network is one bridge with what may pass.
type Network struct {
	Bridge   string
	ICC      bool     // containers reach each other
	Internal bool     // nothing from or to other links
	Trusted  []string // links from which published ports are open at the containers' own addresses
	Stacks   [2]Stack // IPv4 and IPv6
}

// Stack is one address family of a network.
type Stack struct {
	Subnet     netip.Prefix // invalid: the network has none of this family
	Mode       spec.Mode
	Masquerade bool       // sources are rewritten on the way to other links
	Source     netip.Addr // to this address; invalid for that of the link they leave by
}

// Publication sends what arrives at a port of the host to a container.
type Publication struct {
	Proto    string     // tcp, udp, sctp
	HostIP   netip.Addr // unspecified: every address of the host
	HostPort uint16     // 0: the port is open at the container's own address
	From     netip.Addr // valid: the port is open for this neighbour alone, which is linked to the container
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
	// DirectRouting opens published ports at the containers' own addresses.
	DirectRouting bool
	// Accept is the mark of packets that may pass to all containers but those of
	// internal networks; without a mask there is none.
	Accept nft.Mark
	// CloseForward drops, for IPv4 and IPv6, what is forwarded between two links
	// of which neither is a bridge: this host was no router before the engine
	// made it one.
	CloseForward [2]bool
}

// Names of the sets and maps that change while containers start and stop, for
// IPv4 and IPv6.
var (
	mapAny   = [2]string{"published", "published6"}       // protocol . port
	mapBound = [2]string{"published_at", "published_at6"} // address . protocol . port
	setOpen  = [2]string{"open", "open6"}                 // the container's address . protocol . port
)

// setLinked changes likewise; links are IPv4's.
const setLinked = "linked" // who . the container's address . protocol . port

// live lists them.
func live() []string {
	var out []string
	for f := range 2 {
		out = append(out, mapAny[f], mapBound[f], setOpen[f])
	}
	return append(out, setLinked)
}

// The words of the families.
var (
	address = [2]nft.Type{nft.IPv4, nft.IPv6}
	source  = [2]func() nft.Field{nft.Source, nft.Source6}
	dest    = [2]func() nft.Field{nft.Dest, nft.Dest6}
	suffix  = [2]string{"", "6"}
)

// Plan is the whole table for a state.
func Plan(s State) *nft.Table {
	seen := map[string]bool{}
	s.Networks = slices.DeleteFunc(slices.Clone(s.Networks), func(n Network) bool { // a bridge belongs to the first that names it
		had := seen[n.Bridge]
		seen[n.Bridge] = true
		return had
	})
	return &nft.Table{Name: cmp.Or(s.Table, TableName), Sets: sets(s), Chains: chains(s)}
}

func sets(s State) []nft.Set {
	bridges := nft.Set{Name: "bridges", Key: []nft.Type{nft.IfName}}
	internal := nft.Set{Name: "internal", Key: []nft.Type{nft.IfName}}
	for _, n := range s.Networks {
		add(&bridges, n.Bridge)
		if n.Internal {
			add(&internal, n.Bridge)
		}
	}
	out := []nft.Set{bridges, internal}
	for _, w := range ways {
		turn := nft.Set{Name: w.name, Key: []nft.Type{nft.IfName}, Value: []nft.Type{nft.Verdict}}
		for _, n := range s.Networks {
			turn.Elements = append(turn.Elements, nft.Element{Key: []string{n.Bridge}, Value: []string{w.verdict + " " + chainOf(w.name, n.Bridge)}})
		}
		out = append(out, turn)
	}
	for f := range 2 {
		out = append(out, family(s, f)...)
	}
	linked := nft.Set{Name: setLinked, Key: []nft.Type{nft.IPv4, nft.IPv4, nft.Proto, nft.Service}}
	for _, p := range s.Publications {
		if name, e := p.element(); name == setLinked {
			linked.Elements = append(linked.Elements, e)
		}
	}
	return append(out, linked)
}

// family has the sets of an address family.
func family(s State, f int) []nft.Set {
	masqueraded := nft.Set{Name: "masqueraded" + suffix[f], Key: []nft.Type{address[f]}, Interval: true}
	for _, n := range s.Networks {
		if st := n.Stacks[f]; st.Subnet.IsValid() && st.Masquerade && !st.Source.IsValid() {
			add(&masqueraded, st.Subnet.Masked().String())
		}
	}
	target := []nft.Type{address[f], nft.Service}
	changing := map[string]*nft.Set{
		mapAny[f]:   {Name: mapAny[f], Key: []nft.Type{nft.Proto, nft.Service}, Value: target},
		mapBound[f]: {Name: mapBound[f], Key: []nft.Type{address[f], nft.Proto, nft.Service}, Value: target},
		setOpen[f]:  {Name: setOpen[f], Key: []nft.Type{address[f], nft.Proto, nft.Service}},
	}
	for _, p := range s.Publications {
		name, e := p.element()
		if set := changing[name]; set != nil {
			set.Elements = append(set.Elements, e)
		}
	}
	return []nft.Set{masqueraded, *changing[mapAny[f]], *changing[mapBound[f]], *changing[setOpen[f]]}
}

func add(s *nft.Set, key ...string) { s.Elements = append(s.Elements, nft.Element{Key: key}) }

// element says which set or map the publication is an element of, and the
// element.
func (p Publication) element() (string, nft.Element) {
	f := 0
	if p.IP.Is6() {
		f = 1
	}
	own := strconv.Itoa(int(p.Port))
	if p.From.IsValid() {
		return setLinked, nft.Element{Key: []string{p.From.String(), p.IP.String(), p.Proto, own}}
	}
	if p.HostPort == 0 {
		return setOpen[f], nft.Element{Key: []string{p.IP.String(), p.Proto, own}}
	}
	port := strconv.Itoa(int(p.HostPort))
	value := []string{p.IP.String(), own}
	if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
		return mapBound[f], nft.Element{Key: []string{p.HostIP.WithZone("").String(), p.Proto, port}, Value: value}
	}
	return mapAny[f], nft.Element{Key: []string{p.Proto, port}, Value: value}
}

// Publish is the change of the table that adds and removes publications.
func Publish(add, remove []Publication) []nft.Change {
	changes := map[string]*nft.Change{}
	change := func(name string) *nft.Change {
		if changes[name] == nil {
			changes[name] = &nft.Change{Set: name}
		}
		return changes[name]
	}
	for _, p := range remove {
		name, e := p.element()
		c := change(name)
		c.Remove = append(c.Remove, e)
	}
	for _, p := range add {
		name, e := p.element()
		c := change(name)
		c.Add = append(c.Add, e)
	}
	var out []nft.Change
	for _, name := range live() {
		if c := changes[name]; c != nil {
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

const loopback = "127.0.0.0/8"

func chains(s State) []nft.Chain {
	// Every packet of every connection passes guard and the first rule of forward:
	// one look at the name of its link, for those of containers one at its source.
	guard := nft.Chain{Name: "guard", Hook: &nft.Hook{Type: "filter", Point: "prerouting", Priority: raw}, Rules: []nft.Rule{
		nft.R(nft.Turn(from.name, nft.In())),
	}}
	forward := nft.Chain{Name: "forward", Hook: &nft.Hook{Type: "filter", Point: "forward", Priority: filter}, Rules: []nft.Rule{
		nft.R(nft.Established(), nft.Accept()).Because("whose first packet was let through below"),
		nft.R(nft.Turn(into.name, nft.Out())),
		nft.R(nft.Among("internal", nft.In()), nft.Drop()),
		nft.R(nft.Among("bridges", nft.In()), nft.Accept()),
	}}
	for f, proto := range []string{"ipv4", "ipv6"} {
		if s.CloseForward[f] {
			forward.Rules = append(forward.Rules, nft.R(nft.OfFamily(proto), nft.NotFromKind("bridge"), nft.NotToKind("bridge"), nft.Drop()).
				Because("forwarding was off before the engine"))
		}
	}
	publish := nft.Chain{Name: "publish"}
	for f := range 2 {
		to := []func(string, ...nft.Field) nft.Expr{nft.DNAT, nft.DNAT6}[f]
		publish.Rules = append(publish.Rules,
			nft.R(to(mapBound[f], dest[f](), nft.L4Proto(), nft.DestPort())),
			nft.R(to(mapAny[f], nft.L4Proto(), nft.DestPort())))
	}
	arriving := nft.Chain{Name: "arriving", Hook: &nft.Hook{Type: "nat", Point: "prerouting", Priority: dstnat}, Rules: []nft.Rule{
		nft.R(nft.Is(nft.Dest(), loopback), nft.Return()).Because("ports of the loopback are for the host alone"),
		nft.R(nft.Is(nft.Dest6(), "fe80::/10"), nft.Return()).Because("what is sent to the link is not forwarded"),
		nft.R(nft.ToLocal(), nft.Jump("publish")),
	}}
	local := nft.Chain{Name: "local", Hook: &nft.Hook{Type: "nat", Point: "output", Priority: dstnat}}
	if !s.LocalPublish {
		local.Rules = append(local.Rules, nft.R(nft.Is(nft.Dest(), loopback), nft.Return()))
	}
	local.Rules = append(local.Rules,
		nft.R(nft.Is(nft.Dest6(), "::1"), nft.Return()).Because("has no way off the loopback"),
		nft.R(nft.Is(nft.Dest6(), "fe80::/10"), nft.Return()),
		nft.R(nft.ToLocal(), nft.Jump("publish")))
	var out []nft.Chain
	for _, n := range s.Networks {
		out = append(out, n.from(), n.into(s), n.onto())
	}
	return append(out, guard, forward, publish, arriving, local, leaving(s))
}

// leaving rewrites sources.
func leaving(s State) nft.Chain {
	c := nft.Chain{Name: "leaving", Hook: &nft.Hook{Type: "nat", Point: "postrouting", Priority: srcnat}, Rules: []nft.Rule{
		nft.R(nft.Turn(onto.name, nft.Out())),
	}}
	for f := range 2 {
		for _, n := range s.Networks {
			if st := n.Stacks[f]; st.Masquerade && st.Source.IsValid() && st.Subnet.IsValid() {
				c.Rules = append(c.Rules, nft.R(nft.Is(source[f](), st.Subnet.Masked().String()), nft.Not(nft.Out(), n.Bridge), nft.SNAT(st.Source.String())))
			}
		}
		c.Rules = append(c.Rules, nft.R(nft.Among("masqueraded"+suffix[f], source[f]()), nft.Masquerade()))
	}
	return c
}

// Read returns the publications that the kernel has, as far as they are ours.
func Read(elements func(set string) ([]nft.Element, error)) ([]Publication, error) {
	var out []Publication
	for _, name := range live() {
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
	k := e.Key
	if len(k) < 2 {
		return Publication{}, false
	}
	p := Publication{Proto: k[len(k)-2]}
	port, err := strconv.ParseUint(k[len(k)-1], 10, 16)
	if err != nil {
		return p, false
	}
	var at netip.Addr
	if len(k) >= 3 {
		if at, err = netip.ParseAddr(k[len(k)-3]); err != nil {
			return p, false
		}
	}
	if set == setLinked {
		p.From, err = netip.ParseAddr(k[0])
		p.IP, p.Port = at, uint16(port)
		return p, err == nil && len(k) == 4
	}
	if set == setOpen[0] || set == setOpen[1] {
		p.IP, p.Port = at, uint16(port)
		return p, at.IsValid()
	}
	if len(e.Value) != 2 {
		return p, false
	}
	own, err1 := strconv.ParseUint(e.Value[1], 10, 16)
	ip, err2 := netip.ParseAddr(e.Value[0])
	if err1 != nil || err2 != nil {
		return p, false
	}
	if !at.IsValid() {
		at = netip.IPv4Unspecified()
		if ip.Is6() {
			at = netip.IPv6Unspecified()
		}
	}
	p.HostIP, p.HostPort, p.IP, p.Port = at, uint16(port), ip, uint16(own)
	return p, true
}
