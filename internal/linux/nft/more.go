package nft

import (
	"fmt"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ofFamily tests the network protocol.
type ofFamily string

// OfFamily matches packets of "ipv4" or "ipv6".
func OfFamily(name string) Expr { return ofFamily(name) }

func (o ofFamily) String() string { return "meta nfproto " + string(o) }

func (o ofFamily) lower(l *lowering) error {
	proto := map[ofFamily]string{"ipv4": "ip", "ipv6": "ip6"}[o]
	if proto == "" {
		return fmt.Errorf("nft: family %q", string(o))
	}
	l.require(proto)
	return nil
}

// ping tests for an echo request.
type ping struct{ six bool }

// Ping matches echo requests of ICMP or, with six, of ICMPv6.
func Ping(six bool) Expr { return ping{six} }

func (p ping) String() string {
	if p.six {
		return "icmpv6 type echo-request"
	}
	return "icmp type echo-request"
}

func (p ping) lower(l *lowering) error {
	proto, kind := byte(unix.IPPROTO_ICMP), byte(8)
	if p.six {
		proto, kind = unix.IPPROTO_ICMPV6, 128
	}
	l.out = append(l.out,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{kind}})
	return nil
}

type snat struct{ to string }

// SNAT rewrites the source to an address.
func SNAT(to string) Expr { return snat{to} }

func (s snat) String() string {
	p, _ := prefixOf(s.to)
	if p.Addr().Is6() {
		return "snat ip6 to " + s.to
	}
	return "snat ip to " + s.to
}

func (s snat) lower(l *lowering) error {
	p, err := prefixOf(s.to)
	if err != nil {
		return fmt.Errorf("nft: %w", err)
	}
	family := uint32(unix.NFPROTO_IPV4)
	if p.Addr().Is6() {
		family = unix.NFPROTO_IPV6
	}
	l.out = append(l.out,
		&expr.Immediate{Register: 1, Data: p.Addr().AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: family, RegAddrMin: 1})
	return nil
}

// Mark is a firewall mark, of which the bits of Mask count.
type Mark struct{ Value, Mask uint32 }

// Marked matches packets with a firewall mark.
func Marked(m Mark) Expr { return m }

func (m Mark) String() string {
	if m.Mask == 1<<32-1 {
		return fmt.Sprintf("meta mark 0x%08x", m.Value)
	}
	return fmt.Sprintf("meta mark & 0x%08x == 0x%08x", m.Mask, m.Value&m.Mask)
}

func (m Mark) lower(l *lowering) error {
	l.out = append(l.out, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1})
	if m.Mask != 1<<32-1 {
		l.out = append(l.out, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(m.Mask), Xor: make([]byte, 4)})
	}
	l.out = append(l.out, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(m.Value & m.Mask)})
	return nil
}
