package rtnl

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Link is what is read of a network device.
type Link struct {
	Index  int
	Name   string
	Kind   string // "bridge", "veth", …; "" for a device without one
	MAC    net.HardwareAddr
	MTU    int
	Up     bool
	Master int // index of the bridge it is a port of, 0 for none
	Under  int // index of the link of this namespace that it stands on, 0 for none
	Peer   int // index of the other end of a pair, if that is in this namespace, too
	Alias  string
}

// Addr is an address of a link.
type Addr struct {
	Link   int
	Prefix netip.Prefix // the address itself, not the network's
	Scope  uint8
}

// Route is a unicast route of any table.
type Route struct {
	Link    int
	Dst     netip.Prefix // 0 bits for a default route
	Gateway netip.Addr
	Table   uint32
}

// Links lists all links.
func (c *Conn) Links() ([]Link, error) {
	var out []Link
	hdr := make([]byte, unix.SizeofIfInfomsg)
	err := c.dump(unix.RTM_GETLINK, hdr, func(d []byte) {
		if len(d) < unix.SizeofIfInfomsg {
			return
		}
		l := Link{
			Index: int(int32(binary.NativeEndian.Uint32(d[4:]))),
			Up:    binary.NativeEndian.Uint32(d[8:])&unix.IFF_UP != 0,
		}
		elsewhere := false // what it stands on, or is paired with, is in another namespace
		attributes(d[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) {
			switch kind {
			case unix.IFLA_LINK:
				l.Under = int(u32of(v))
			case unix.IFLA_LINK_NETNSID:
				elsewhere = true
			case unix.IFLA_IFNAME:
				l.Name = text(v)
			case unix.IFLA_ADDRESS:
				l.MAC = append(net.HardwareAddr(nil), v...)
			case unix.IFLA_IFALIAS:
				l.Alias = text(v)
			case unix.IFLA_MTU:
				l.MTU = int(u32of(v))
			case unix.IFLA_MASTER:
				l.Master = int(u32of(v))
			case unix.IFLA_LINKINFO:
				attributes(v, func(kind uint16, v []byte) {
					if kind == unix.IFLA_INFO_KIND {
						l.Kind = text(v)
					}
				})
			}
		})
		switch {
		case elsewhere:
			l.Under = 0
		case l.Kind == "veth":
			l.Under, l.Peer = 0, l.Under
		}
		out = append(out, l)
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return out, nil
}

// LinkByName finds a link; errdefs.ErrNotFound when there is none.
func (c *Conn) LinkByName(name string) (Link, error) {
	links, err := c.Links()
	if err != nil {
		return Link{}, err
	}
	for _, l := range links {
		if l.Name == name {
			return l, nil
		}
	}
	return Link{}, errdefs.ErrNotFound.WithMessage("link " + name + " not found")
}

// Addrs lists the addresses of all links, both families.
func (c *Conn) Addrs() ([]Addr, error) {
	var out []Addr
	err := c.dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func(d []byte) {
		if len(d) < unix.SizeofIfAddrmsg {
			return
		}
		a := Addr{Link: int(binary.NativeEndian.Uint32(d[4:])), Scope: d[3]}
		var local, address netip.Addr
		attributes(d[unix.SizeofIfAddrmsg:], func(kind uint16, v []byte) {
			ip, ok := netip.AddrFromSlice(v)
			switch {
			case !ok:
			case kind == unix.IFA_LOCAL:
				local = ip
			case kind == unix.IFA_ADDRESS:
				address = ip
			}
		})
		if !local.IsValid() { // IPv6 has only IFA_ADDRESS
			local = address
		}
		if local.IsValid() {
			a.Prefix = netip.PrefixFrom(local, int(d[1]))
			out = append(out, a)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return out, nil
}

// Routes lists the unicast routes of all tables, both families.
func (c *Conn) Routes() ([]Route, error) {
	var out []Route
	err := c.dump(unix.RTM_GETROUTE, make([]byte, unix.SizeofRtMsg), func(d []byte) {
		if len(d) < unix.SizeofRtMsg || d[7] != unix.RTN_UNICAST {
			return
		}
		any := netip.IPv4Unspecified()
		if d[0] == unix.AF_INET6 {
			any = netip.IPv6Unspecified()
		}
		r := Route{Dst: netip.PrefixFrom(any, 0), Table: uint32(d[4])}
		attributes(d[unix.SizeofRtMsg:], func(kind uint16, v []byte) {
			switch kind {
			case unix.RTA_DST:
				if ip, ok := netip.AddrFromSlice(v); ok {
					r.Dst = netip.PrefixFrom(ip, int(d[1]))
				}
			case unix.RTA_GATEWAY:
				r.Gateway, _ = netip.AddrFromSlice(v)
			case unix.RTA_OIF:
				r.Link = int(u32of(v))
			case unix.RTA_TABLE:
				r.Table = u32of(v)
			}
		})
		out = append(out, r)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return out, nil
}
