package rtnl

import (
	"encoding/binary"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Attribute numbers and modes of the kernel's if_link.h for links that stand on
// another one.
const (
	macvlanMode = 1
	ipvlanMode  = 1
	ipvlanFlags = 2
	vlanID      = 1
)

// MacvlanModes are the modes of macvlan links by name.
var MacvlanModes = map[string]uint32{"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}

// IpvlanModes are the modes of ipvlan links by name.
var IpvlanModes = map[string]uint16{"l2": 0, "l3": 1, "l3s": 2}

// IpvlanFlags say which ipvlan links of one parent reach each other.
var IpvlanFlags = map[string]uint16{"bridge": 0, "private": 1, "vepa": 2}

// Sublink describes a link that stands on a parent and is born in a namespace.
type Sublink struct {
	Name   string
	Parent int // index here
	MAC    net.HardwareAddr
	MTU    int
	NS     int // descriptor of the namespace
}

func (b *Batch) sublink(s Sublink, kind string, data func(e *encoder)) {
	at := b.begin("add "+kind+" link "+s.Name, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	e := &b.enc
	e.ifinfo(unix.AF_UNSPEC, 0, 0, 0)
	b.name(e, s.Name)
	if s.Parent > 0 {
		e.u32(unix.IFLA_LINK, uint32(s.Parent))
	}
	if s.MAC != nil {
		e.attr(unix.IFLA_ADDRESS, s.MAC)
	}
	if s.MTU > 0 {
		e.u32(unix.IFLA_MTU, uint32(s.MTU))
	}
	if s.NS > 0 {
		e.u32(unix.IFLA_NET_NS_FD, uint32(s.NS))
	}
	info := e.nest(unix.IFLA_LINKINFO)
	e.attr(unix.IFLA_INFO_KIND, []byte(kind))
	if data != nil {
		at := e.nest(unix.IFLA_INFO_DATA)
		data(e)
		e.endNest(at)
	}
	e.endNest(info)
	e.end(at)
}

// AddMacvlan creates a macvlan link, down; mode is one of MacvlanModes.
func (b *Batch) AddMacvlan(s Sublink, mode string) {
	b.sublink(s, "macvlan", func(e *encoder) { e.u32(macvlanMode, MacvlanModes[mode]) })
}

// AddIpvlan creates an ipvlan link, down; it has its parent's hardware address.
func (b *Batch) AddIpvlan(s Sublink, mode, flag string) {
	s.MAC = nil
	b.sublink(s, "ipvlan", func(e *encoder) {
		e.u16(ipvlanMode, IpvlanModes[mode])
		if f := IpvlanFlags[flag]; f != 0 {
			e.u16(ipvlanFlags, f)
		}
	})
}

// AddVLAN creates the 802.1q subinterface of parent with a tag, down, here.
func (b *Batch) AddVLAN(name string, parent, tag int) {
	b.sublink(Sublink{Name: name, Parent: parent}, "vlan", func(e *encoder) { e.u16(vlanID, uint16(tag)) })
}

// AddDummy creates a link that leads nowhere, down, here.
func (b *Batch) AddDummy(name string) { b.sublink(Sublink{Name: name}, "dummy", nil) }

func (e *encoder) u16(kind, v uint16) {
	e.attr(kind, binary.NativeEndian.AppendUint16(nil, v))
}

// DelDefault removes a default route of the main table: exactly the one listed.
func (b *Batch) DelDefault(r Route) {
	family := uint8(unix.AF_INET)
	if r.Dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	at := b.begin(fmt.Sprintf("delete default route via %v", r.Gateway), unix.RTM_DELROUTE, 0)
	e := &b.enc
	scope := uint8(unix.RT_SCOPE_UNIVERSE)
	if !r.Gateway.IsValid() && family == unix.AF_INET {
		scope = unix.RT_SCOPE_LINK
	}
	e.raw([]byte{family, 0, 0, 0, unix.RT_TABLE_MAIN, 0, scope, unix.RTN_UNICAST, 0, 0, 0, 0})
	if r.Gateway.IsValid() {
		e.attr(unix.RTA_GATEWAY, r.Gateway.AsSlice())
	}
	e.u32(unix.RTA_OIF, uint32(r.Link))
	e.end(at)
}

// AddDefault adds a default route onto a link without a gateway.
func (b *Batch) AddDefault(index int, six bool) {
	family, scope := uint8(unix.AF_INET), uint8(unix.RT_SCOPE_LINK)
	if six {
		family, scope = unix.AF_INET6, unix.RT_SCOPE_UNIVERSE
	}
	at := b.begin("add default route onto the link", unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	e := &b.enc
	e.raw([]byte{family, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, scope, unix.RTN_UNICAST, 0, 0, 0, 0})
	e.u32(unix.RTA_OIF, uint32(index))
	e.end(at)
}
