package nft

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Keys of the kernel's enum nft_meta_keys that x/sys does not name.
const (
	metaIIFKind = 26
	metaOIFKind = 27
)

// Field is a value read from a packet or its way.
type Field struct {
	text  string
	kind  Type
	width int // bytes
	load  func(reg uint32) []expr.Any
	// needs is the condition under which load means something, put before it
	// once per rule.
	needs string
}

func meta(text string, key expr.MetaKey, kind Type, width int) Field {
	return Field{text: text, kind: kind, width: width, load: func(reg uint32) []expr.Any {
		return []expr.Any{&expr.Meta{Key: key, Register: reg}}
	}}
}

func payload(text string, base expr.PayloadBase, offset, width int, kind Type, needs string) Field {
	return Field{text: text, kind: kind, width: width, needs: needs, load: func(reg uint32) []expr.Any {
		return []expr.Any{&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg, Base: base, Offset: uint32(offset), Len: uint32(width)}}
	}}
}

// The fields.
func In() Field       { return meta("iifname", expr.MetaKeyIIFNAME, IfName, 16) }
func Out() Field      { return meta("oifname", expr.MetaKeyOIFNAME, IfName, 16) }
func L4Proto() Field  { return meta("meta l4proto", expr.MetaKeyL4PROTO, Proto, 1) }
func Source() Field   { return payload("ip saddr", expr.PayloadBaseNetworkHeader, 12, 4, IPv4, "ip") }
func Dest() Field     { return payload("ip daddr", expr.PayloadBaseNetworkHeader, 16, 4, IPv4, "ip") }
func Source6() Field  { return payload("ip6 saddr", expr.PayloadBaseNetworkHeader, 8, 16, IPv6, "ip6") }
func Dest6() Field    { return payload("ip6 daddr", expr.PayloadBaseNetworkHeader, 24, 16, IPv6, "ip6") }
func DestPort() Field { return payload("th dport", expr.PayloadBaseTransportHeader, 2, 2, Service, "") }

// lowering collects a rule's kernel expressions.
type lowering struct {
	table *Table
	sets  map[string]*nftables.Set
	out   []expr.Any
	known string // network protocol already tested: "ip", "ip6"
}

// require tests for the network protocol unless an earlier expression did; nft
// adds the same test where it is not written.
func (l *lowering) require(proto string) {
	if proto == "" || l.known == proto {
		return
	}
	l.known = proto
	value := byte(unix.NFPROTO_IPV4)
	if proto == "ip6" {
		value = unix.NFPROTO_IPV6
	}
	l.out = append(l.out,
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{value}})
}

// load puts the fields side by side into registers from the first on.
func (l *lowering) load(fields []Field) {
	for _, f := range fields {
		l.require(f.needs)
	}
	if len(fields) == 1 {
		l.out = append(l.out, fields[0].load(unix.NFT_REG_1)...)
		return
	}
	reg := uint32(unix.NFT_REG32_00)
	for _, f := range fields {
		l.out = append(l.out, f.load(reg)...)
		reg += uint32((f.width + 3) / 4)
	}
}

func joined(fields []Field) string {
	parts := make([]string, len(fields))
	for i, f := range fields {
		parts[i] = f.text
	}
	return strings.Join(parts, " . ")
}

type compare struct {
	field Field
	not   bool
	value string
}

// Is matches a packet whose field has the value (a prefix for an address).
func Is(f Field, value string) Expr { return compare{f, false, value} }

// Not matches a packet whose field does not have the value.
func Not(f Field, value string) Expr { return compare{f, true, value} }

func (c compare) String() string {
	v := c.value
	if c.field.kind == IfName {
		v = `"` + v + `"`
	}
	if c.not {
		v = "!= " + v
	}
	return c.field.text + " " + v
}

func (c compare) lower(l *lowering) error {
	l.load([]Field{c.field})
	cmp := expr.CmpOpEq
	if c.not {
		cmp = expr.CmpOpNeq
	}
	data, err := c.field.kind.encode(c.value)
	if err != nil {
		return err
	}
	if c.field.kind == IPv4 || c.field.kind == IPv6 {
		p, err := prefixOf(c.value)
		if err != nil {
			return err
		}
		data = p.Addr().AsSlice()
		if n := p.Bits() / 8; p.Bits()%8 == 0 && n > 0 && n < len(data) && n != 3 {
			// Fewer bytes need no mask. (The kernel is slow with three.)
			data = data[:n]
			if load, ok := l.out[len(l.out)-1].(*expr.Payload); ok {
				load.Len = uint32(n)
			}
		} else if p.Bits() < p.Addr().BitLen() {
			l.out = append(l.out, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(data)), Mask: mask(p), Xor: make([]byte, len(data))})
		}
	}
	l.out = append(l.out, &expr.Cmp{Op: cmp, Register: 1, Data: data})
	return nil
}

func mask(p netip.Prefix) []byte {
	m := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

type lookup struct {
	fields []Field
	not    bool
	set    string
}

// Among matches a packet whose fields are an element of a set.
func Among(set string, f ...Field) Expr { return lookup{f, false, set} }

// NotAmong matches a packet whose fields are not an element of a set.
func NotAmong(set string, f ...Field) Expr { return lookup{f, true, set} }

func (k lookup) String() string {
	op := " @"
	if k.not {
		op = " != @"
	}
	return joined(k.fields) + op + k.set
}

func (k lookup) lower(l *lowering) error {
	set := l.sets[k.set]
	if set == nil {
		return fmt.Errorf("nft: no set %s", k.set)
	}
	l.load(k.fields)
	l.out = append(l.out, &expr.Lookup{SourceRegister: firstRegister(k.fields), Invert: k.not, SetName: set.Name, SetID: set.ID})
	return nil
}

func firstRegister(fields []Field) uint32 {
	if len(fields) == 1 {
		return unix.NFT_REG_1
	}
	return unix.NFT_REG32_00
}

// verdict ends the evaluation of a rule.
type verdict struct{ kind, chain string }

// The verdicts.
func Accept() Expr           { return verdict{"accept", ""} }
func Drop() Expr             { return verdict{"drop", ""} }
func Return() Expr           { return verdict{"return", ""} }
func Jump(chain string) Expr { return verdict{"jump", chain} }

func (v verdict) String() string { return strings.TrimSpace(v.kind + " " + v.chain) }

func (v verdict) lower(l *lowering) error {
	kind := map[string]expr.VerdictKind{"accept": expr.VerdictAccept, "drop": expr.VerdictDrop, "return": expr.VerdictReturn, "jump": expr.VerdictJump}[v.kind]
	l.out = append(l.out, &expr.Verdict{Kind: kind, Chain: v.chain})
	return nil
}

// bits is a test of conntrack bits.
type bits struct {
	text string
	key  expr.CtKey
	mask uint32
}

// Established matches packets of connections that were let through before.
func Established() Expr {
	return bits{"ct state established,related", expr.CtKeySTATE, expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED}
}

// Translated matches packets of connections whose destination was rewritten.
func Translated() Expr {
	const dstNAT = 1 << 5 // IPS_DST_NAT
	return bits{"ct status dnat", expr.CtKeySTATUS, dstNAT}
}

func (c bits) String() string { return c.text }

func (c bits) lower(l *lowering) error {
	l.out = append(l.out,
		&expr.Ct{Key: c.key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(c.mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
	return nil
}

// kindIs tests the kind of device a packet comes from or goes to.
type kindIs struct {
	out, not bool
	kind     string
}

// NotFromKind matches packets that did not come in by a device of the kind.
func NotFromKind(kind string) Expr { return kindIs{false, true, kind} }

// NotToKind matches packets that do not go out by a device of the kind.
func NotToKind(kind string) Expr { return kindIs{true, true, kind} }

func (k kindIs) String() string {
	if k.out {
		return "meta oifkind != \"" + k.kind + `"`
	}
	return "meta iifkind != \"" + k.kind + `"`
}

func (k kindIs) lower(l *lowering) error {
	key := expr.MetaKey(metaIIFKind)
	if k.out {
		key = expr.MetaKey(metaOIFKind)
	}
	data := make([]byte, 16)
	copy(data, k.kind)
	l.out = append(l.out, &expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: data})
	return nil
}

// toLocal tests whether the destination is an address of this host.
type toLocal struct{}

// ToLocal matches packets whose destination address is one of the host's own.
func ToLocal() Expr { return toLocal{} }

func (toLocal) String() string { return "fib daddr type local" }

func (toLocal) lower(l *lowering) error {
	l.out = append(l.out,
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)})
	return nil
}

type masquerade struct{}

// Masquerade rewrites the source to the address of the link the packet leaves by.
func Masquerade() Expr { return masquerade{} }

func (masquerade) String() string { return "masquerade" }

func (masquerade) lower(l *lowering) error {
	l.out = append(l.out, &expr.Masq{})
	return nil
}

type dnat struct {
	six    bool
	fields []Field
	set    string
}

// DNAT rewrites the destination to the "address . port" that a map has for the
// fields; a packet without an element goes on.
func DNAT(set string, f ...Field) Expr { return dnat{false, f, set} }

// DNAT6 is DNAT for IPv6.
func DNAT6(set string, f ...Field) Expr { return dnat{true, f, set} }

func (d dnat) family() (string, uint32, uint32) {
	if d.six {
		return "ip6", unix.NFPROTO_IPV6, 4
	}
	return "ip", unix.NFPROTO_IPV4, 1
}

func (d dnat) String() string {
	word, _, _ := d.family()
	return "dnat " + word + " to " + joined(d.fields) + " map @" + d.set
}

func (d dnat) lower(l *lowering) error {
	set := l.sets[d.set]
	if set == nil {
		return fmt.Errorf("nft: no map %s", d.set)
	}
	_, family, words := d.family()
	l.load(d.fields)
	l.out = append(l.out,
		&expr.Lookup{SourceRegister: firstRegister(d.fields), DestRegister: unix.NFT_REG_1, IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: unix.NFT_REG_1, RegProtoMin: unix.NFT_REG32_00 + words})
	return nil
}

// encode is the kernel's form of one field of an element or of a comparison.
// Prefixes give their first address.
func (t Type) encode(s string) ([]byte, error) {
	switch t {
	case IfName:
		if len(s) >= 16 {
			return nil, fmt.Errorf("nft: link name %q too long", s)
		}
		b := make([]byte, 16)
		copy(b, s)
		return b, nil
	case IPv4, IPv6:
		p, err := prefixOf(s)
		if err != nil {
			return nil, fmt.Errorf("nft: %w", err)
		}
		if p.Addr().Is4() != (t == IPv4) {
			return nil, fmt.Errorf("nft: %s is of the other family", s)
		}
		return p.Addr().AsSlice(), nil
	case Proto:
		n, ok := map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}[s]
		if !ok {
			return nil, fmt.Errorf("nft: protocol %q", s)
		}
		return []byte{n}, nil
	case Service:
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("nft: port %q", s)
		}
		return []byte{byte(n >> 8), byte(n)}, nil
	}
	return nil, fmt.Errorf("nft: type %d", t)
}

// width is the number of bytes of a field.
func (t Type) width() int { return [...]int{IfName: 16, IPv4: 4, IPv6: 16, Proto: 1, Service: 2}[t] }

// decode is the reverse of encode.
func (t Type) decode(b []byte) string {
	switch t {
	case IPv4, IPv6:
		a, _ := netip.AddrFromSlice(b)
		return a.String()
	case Proto:
		switch b[0] {
		case unix.IPPROTO_TCP:
			return "tcp"
		case unix.IPPROTO_UDP:
			return "udp"
		case unix.IPPROTO_SCTP:
			return "sctp"
		}
		return strconv.Itoa(int(b[0]))
	case Service:
		return strconv.Itoa(int(b[0])<<8 | int(b[1]))
	}
	name, _, _ := strings.Cut(string(b), "\x00")
	return name
}
