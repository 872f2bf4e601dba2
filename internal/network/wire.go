package network

import (
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"strconv"

	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/network/dns"
	"github.com/wherry-engine/wherry/internal/network/plumb"
	"github.com/wherry-engine/wherry/internal/network/segment"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// wire is a link into a container's namespace.
type wire struct {
	names    *dns.Client // name service that waits in the namespace, the first wire's; nil for none
	seg      *segment.Segment
	want     *network.EndpointSettings
	endpoint string // endpoint id
	ns       *os.File
	addr     [2]netip.Addr // IPv4 and IPv6; invalid for none
	mac      network.HardwareAddr
	slot     int     // its number among the links of its prefix
	gateway  [2]bool // the default routes of IPv4 and IPv6 go this way
	veth     string  // the host's end
}

// macOf makes the link's address from its IP address, as docker did for long:
// whoever gets the IP address next has the same one, so that no neighbour's
// table is ever wrong.
func macOf(addrs [2]netip.Addr) network.HardwareAddr {
	if addrs[v4].IsValid() {
		b := addrs[v4].As4()
		return network.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
	}
	sum := fnv.New32a()
	sum.Write(addrs[v6].AsSlice())
	return sum.Sum(network.HardwareAddr{0x02, 0x42})
}

// settings is the endpoint as inspect shows it.
func (w *wire) settings() *network.EndpointSettings {
	ep := &network.EndpointSettings{}
	if w.want != nil {
		ep = w.want.Copy()
	}
	ep.NetworkID, ep.EndpointID = w.seg.ID, w.endpoint
	if a, s := w.addr[v4], w.seg.At(w.addr[v4]); a.IsValid() {
		ep.IPAddress, ep.IPPrefixLen, ep.Gateway = a, s.Subnet.Bits(), s.Gateway
	}
	if a, s := w.addr[v6], w.seg.At(w.addr[v6]); a.IsValid() {
		ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen, ep.IPv6Gateway = a, s.Subnet.Bits(), s.Gateway
	}
	if w.addressed() && w.seg.Driver != spec.Ipvlan {
		ep.MacAddress = w.mac
	}
	return ep
}

func (w *wire) addressed() bool { return w.addr[v4].IsValid() || w.addr[v6].IsValid() }

func (w *wire) device() string {
	if name := w.want.DriverOpts[spec.OptIfName]; name != "" {
		return name
	}
	return w.seg.Prefix() + strconv.Itoa(w.slot)
}

// link is what has to be made of the wire.
func (w *wire) link() (*plumb.Link, error) {
	l := &plumb.Link{
		Kind: w.seg.Driver, Master: w.seg.Link, MTU: w.seg.LinkMTU, Device: w.device(), MAC: net.HardwareAddr(w.mac),
	}
	routed := false // the kernel's own routing instead of a gateway
	switch w.seg.Driver {
	case spec.Macvlan:
		l.Mode = w.seg.MacvlanMode()
	case spec.Ipvlan:
		l.Mode, l.Flag, l.MAC = w.seg.IpvlanMode(), w.seg.Options[spec.OptIpvlanFlag], nil
		routed = l.Mode != "l2"
	default:
		l.Bridge, l.Isolated = w.seg.BridgeName(), !w.seg.ICC()
	}
	for f, a := range w.addr {
		if !a.IsValid() {
			continue
		}
		l.Addrs = append(l.Addrs, netip.PrefixFrom(a, w.seg.At(a).Subnet.Bits()))
		if !w.gateway[f] {
			continue
		}
		if routed {
			l.OnLink[f] = true
		} else {
			l.Gateways = append(l.Gateways, w.seg.At(a).Gateway)
		}
	}
	if c := w.want.IPAMConfig; c != nil {
		for _, a := range c.LinkLocalIPs {
			bits := 16
			if a.Is6() {
				bits = 64
			}
			l.Addrs = append(l.Addrs, netip.PrefixFrom(a, bits))
		}
	}
	var err error
	l.Sysctls, err = spec.Sysctls(w.want, l.Device)
	return l, err
}

// connect makes the links of wires by fn.
func connect(wires []*wire, fn func(links []*plumb.Link) error) error {
	links := make([]*plumb.Link, len(wires))
	for i, w := range wires {
		var err error
		if links[i], err = w.link(); err != nil {
			return err
		}
	}
	if err := fn(links); err != nil {
		return err
	}
	for i, w := range wires {
		w.veth = links[i].Veth
	}
	return nil
}

func dupFile(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
