package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Attribute numbers of the kernel's if_link.h that x/sys does not name.
const (
	vethInfoPeer     = 1
	brportMode       = 4 // hairpin
	brportIsolated   = 33
	inet6AddrGenMode = 8
	addrGenModeNone  = 1
)

// MaxName is the longest name a link can have.
const MaxName = unix.IFNAMSIZ - 1

// LoopbackIndex is the index of lo in every network namespace.
const LoopbackIndex = 1

// Batch collects messages for Conn.Do. The zero value is ready.
type Batch struct {
	enc encoder
	ops []op
	err error
}

type op struct {
	at   int
	name string
}

func (b *Batch) begin(name string, kind uint16, flags int) int {
	at := b.enc.message(kind, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	b.ops = append(b.ops, op{at, name})
	return at
}

func (b *Batch) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

func (b *Batch) name(e *encoder, s string) {
	if s == "" || len(s) > MaxName {
		b.fail(fmt.Errorf("link name %q: must have 1 to %d characters", s, MaxName))
	}
	e.str(unix.IFLA_IFNAME, s)
}

// Bridge describes a bridge to create.
type Bridge struct {
	Name string
	// MAC is fixed at creation; without it a bridge takes the lowest address
	// of its ports and changes it when ports come and go.
	MAC net.HardwareAddr
	MTU int
}

// AddBridge creates a bridge, down.
func (b *Batch) AddBridge(br Bridge) {
	at := b.begin("add bridge "+br.Name, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	e := &b.enc
	e.ifinfo(unix.AF_UNSPEC, 0, 0, 0)
	b.name(e, br.Name)
	if br.MAC != nil {
		e.attr(unix.IFLA_ADDRESS, br.MAC)
	}
	if br.MTU > 0 {
		e.u32(unix.IFLA_MTU, uint32(br.MTU))
	}
	info := e.nest(unix.IFLA_LINKINFO)
	e.attr(unix.IFLA_INFO_KIND, []byte("bridge"))
	e.endNest(info)
	e.end(at)
}

// Veth describes a pair: one end here as a port of a bridge, the other born in
// another network namespace.
type Veth struct {
	Name     string // of the end that stays here
	Master   int    // index of the bridge; 0 for none
	MTU      int
	Isolated bool // the port talks to the bridge only, not to other isolated ports

	Peer     string // name of the other end
	PeerMAC  net.HardwareAddr
	PeerNS   int // descriptor of the namespace
	PeerDown bool
}

// AddVeth creates the pair and brings the end here up; the peer is born down
// (the kernel cannot bring it up before it is paired). The end here gets no IPv6
// link-local address: with a thousand ports their multicast reports alone load
// the bridge.
func (b *Batch) AddVeth(v Veth) {
	at := b.begin("add link "+v.Name, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	e := &b.enc
	e.ifinfo(unix.AF_UNSPEC, 0, 0, 0)
	b.name(e, v.Name)
	if v.MTU > 0 {
		e.u32(unix.IFLA_MTU, uint32(v.MTU))
	}
	if v.Master > 0 {
		e.u32(unix.IFLA_MASTER, uint32(v.Master))
	}
	info := e.nest(unix.IFLA_LINKINFO)
	e.attr(unix.IFLA_INFO_KIND, []byte("veth"))
	data := e.nest(unix.IFLA_INFO_DATA)
	peer := e.nest(vethInfoPeer)
	e.ifinfo(unix.AF_UNSPEC, 0, 0, 0)
	b.name(e, v.Peer)
	if v.MTU > 0 {
		e.u32(unix.IFLA_MTU, uint32(v.MTU))
	}
	if v.PeerMAC != nil {
		e.attr(unix.IFLA_ADDRESS, v.PeerMAC)
	}
	e.u32(unix.IFLA_NET_NS_FD, uint32(v.PeerNS))
	e.endNest(peer)
	e.endNest(data)
	e.endNest(info)
	e.end(at)

	at = b.begin("set link "+v.Name+" up", unix.RTM_NEWLINK, 0)
	e.ifinfo(unix.AF_UNSPEC, 0, unix.IFF_UP, unix.IFF_UP)
	b.name(e, v.Name)
	if v.Isolated {
		b.port(brportIsolated)
	}
	b.noLinkLocal()
	e.end(at)
}

// Port is a link as the port of a bridge.
type Port struct {
	Name     string
	Master   int // index of the bridge
	MTU      int // 0 for as it is
	Isolated bool
}

// SetPort makes a link of this namespace a port.
func (b *Batch) SetPort(p Port) {
	at := b.begin("make "+p.Name+" a port", unix.RTM_NEWLINK, 0)
	e := &b.enc
	e.ifinfo(unix.AF_UNSPEC, 0, 0, 0)
	b.name(e, p.Name)
	e.u32(unix.IFLA_MASTER, uint32(p.Master))
	if p.MTU > 0 {
		e.u32(unix.IFLA_MTU, uint32(p.MTU))
	}
	e.end(at)
	if !p.Isolated {
		return
	}
	at = b.begin("isolate "+p.Name, unix.RTM_NEWLINK, 0)
	e.ifinfo(unix.AF_UNSPEC, 0, 0, 0)
	b.name(e, p.Name)
	b.port(brportIsolated)
	e.end(at)
}

func (b *Batch) noLinkLocal() {
	e := &b.enc
	spec := e.nest(unix.IFLA_AF_SPEC)
	six := e.nest(unix.AF_INET6)
	e.u8(inet6AddrGenMode, addrGenModeNone)
	e.endNest(six)
	e.endNest(spec)
}

// SetUp brings a link up.
func (b *Batch) SetUp(index int) { b.setFlags(index, unix.IFF_UP, "up") }

// SetDown brings a link down.
func (b *Batch) SetDown(index int) { b.setFlags(index, 0, "down") }

func (b *Batch) setFlags(index int, flags uint32, word string) {
	at := b.begin(fmt.Sprintf("set link %d %s", index, word), unix.RTM_NEWLINK, 0)
	b.enc.ifinfo(unix.AF_UNSPEC, index, flags, unix.IFF_UP)
	b.enc.end(at)
}

// SetHairpin lets a port of a bridge get back what it sent itself.
func (b *Batch) SetHairpin(name string) {
	at := b.begin("set link "+name+" hairpin", unix.RTM_NEWLINK, 0)
	b.enc.ifinfo(unix.AF_UNSPEC, 0, 0, 0)
	b.name(&b.enc, name)
	b.port(brportMode)
	b.enc.end(at)
}

// port sets a flag of a link as port of a bridge.
func (b *Batch) port(flag uint16) {
	e := &b.enc
	info := e.nest(unix.IFLA_LINKINFO)
	e.attr(unix.IFLA_INFO_SLAVE_KIND, []byte("bridge"))
	data := e.nest(unix.IFLA_INFO_SLAVE_DATA)
	e.u8(flag, 1)
	e.endNest(data)
	e.endNest(info)
}

// Sync makes the kernel take note at once of a link's carrier. Coming up is
// completed by the kernel in its own time otherwise, and until then the link,
// as a port of a bridge too, drops what is sent. (A kernel before 6.8 ignores
// this and takes its time.)
func (b *Batch) Sync(name string) {
	// The request for a link's state has this effect; the answer is not read.
	at := b.begin("sync link "+name, unix.RTM_GETLINK, 0)
	b.enc.ifinfo(unix.AF_UNSPEC, 0, 0, 0)
	b.name(&b.enc, name)
	b.enc.end(at)
}

// SetAlias writes a link's alias, at most 255 characters that are for people
// and for whoever made the link.
func (b *Batch) SetAlias(index int, alias string) {
	at := b.begin(fmt.Sprintf("set alias of link %d", index), unix.RTM_NEWLINK, 0)
	b.enc.ifinfo(unix.AF_UNSPEC, index, 0, 0)
	b.enc.attr(unix.IFLA_IFALIAS, []byte(alias))
	b.enc.end(at)
}

// Identity is what a link can be told to be; what is zero stays as it is.
type Identity struct {
	Name string
	MAC  net.HardwareAddr
	MTU  int
}

// SetIdentity changes a link, which for another name must be down on kernels
// before 6.2.
func (b *Batch) SetIdentity(index int, to Identity) {
	at := b.begin(fmt.Sprintf("make link %d %s", index, to.Name), unix.RTM_NEWLINK, 0)
	e := &b.enc
	e.ifinfo(unix.AF_UNSPEC, index, 0, 0)
	if to.Name != "" {
		b.name(e, to.Name)
	}
	if len(to.MAC) > 0 {
		e.attr(unix.IFLA_ADDRESS, to.MAC)
	}
	if to.MTU > 0 {
		e.u32(unix.IFLA_MTU, uint32(to.MTU))
	}
	e.end(at)
}

// DelLink removes a link by index. It waits for the kernel to let go of the
// device, which takes tens of milliseconds; letting the last descriptor of a
// namespace go removes its links without waiting.
func (b *Batch) DelLink(index int) {
	at := b.begin(fmt.Sprintf("delete link %d", index), unix.RTM_DELLINK, 0)
	b.enc.ifinfo(unix.AF_UNSPEC, index, 0, 0)
	b.enc.end(at)
}

// AddAddr gives a link an address with its prefix length, which also makes the
// route to the subnet. An IPv6 address is usable at once (no duplicate detection).
func (b *Batch) AddAddr(index int, p netip.Prefix) {
	b.addr(fmt.Sprintf("add address %s to link %d", p, index), unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, index, p)
}

// DelAddr takes an address away.
func (b *Batch) DelAddr(index int, p netip.Prefix) {
	b.addr(fmt.Sprintf("delete address %s from link %d", p, index), unix.RTM_DELADDR, 0, index, p)
}

func (b *Batch) addr(name string, kind uint16, flags, index int, p netip.Prefix) {
	if !p.IsValid() {
		b.fail(errors.New(name + ": not an address"))
		return
	}
	at := b.begin(name, kind, flags)
	e := &b.enc
	ip := p.Addr()
	family, ifaFlags := uint8(unix.AF_INET), uint8(0)
	if ip.Is6() {
		family, ifaFlags = unix.AF_INET6, unix.IFA_F_NODAD
	}
	e.buf = append(e.buf, family, uint8(p.Bits()), ifaFlags, unix.RT_SCOPE_UNIVERSE)
	e.buf = binary.NativeEndian.AppendUint32(e.buf, uint32(index))
	raw := ip.AsSlice()
	e.attr(unix.IFA_LOCAL, raw)
	e.attr(unix.IFA_ADDRESS, raw)
	if ip.Is4() && p.Bits() < 31 {
		bc := ip.As4()
		for i := range 32 - p.Bits() {
			bc[3-i/8] |= 1 << (i % 8)
		}
		e.attr(unix.IFA_BROADCAST, bc[:])
	}
	e.end(at)
}

// AddRoute adds a route of the main table. An invalid dst is the default route
// (of via's family); an invalid via is a route onto the link.
func (b *Batch) AddRoute(index int, dst netip.Prefix, via netip.Addr) {
	b.route("add", unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, index, dst, via)
}

// DelRoute removes a route that AddRoute made.
func (b *Batch) DelRoute(index int, dst netip.Prefix, via netip.Addr) {
	b.route("delete", unix.RTM_DELROUTE, 0, index, dst, via)
}

func (b *Batch) route(verb string, kind uint16, flags, index int, dst netip.Prefix, via netip.Addr) {
	family, scope := uint8(unix.AF_INET), uint8(unix.RT_SCOPE_UNIVERSE)
	if via.Is6() || dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	if !via.IsValid() {
		scope = unix.RT_SCOPE_LINK
	}
	if !via.IsValid() && !dst.IsValid() {
		b.fail(errors.New(verb + " route: neither destination nor gateway"))
		return
	}
	at := b.begin(fmt.Sprintf("%s route %v via %v", verb, dst, via), kind, flags)
	e := &b.enc
	bits := 0
	if dst.IsValid() {
		bits = dst.Bits()
	}
	e.buf = append(e.buf, family, uint8(bits), 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, scope, unix.RTN_UNICAST)
	e.raw([]byte{0, 0, 0, 0})
	if dst.IsValid() && dst.Bits() > 0 {
		e.attr(unix.RTA_DST, dst.Masked().Addr().AsSlice())
	}
	if via.IsValid() {
		e.attr(unix.RTA_GATEWAY, via.AsSlice())
	}
	e.u32(unix.RTA_OIF, uint32(index))
	e.end(at)
}
