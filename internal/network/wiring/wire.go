// Package wiring owns the links of containers: which addresses, names and
// default routes they have, and the namespaces that wait for containers, with
// links or without. Links themselves are made by plumb.
package wiring

import (
	"errors"
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

// Wish is one network that a container is to be connected to.
type Wish struct {
	Seg  *segment.Segment
	Want *network.EndpointSettings // never nil
}

// Wire is a link into a container's namespace.
type Wire struct {
	Names    *dns.Client // name service that waits in the namespace, the first wire's; nil for none
	Seg      *segment.Segment
	Want     *network.EndpointSettings
	Endpoint string        // endpoint id
	Addrs    [2]netip.Addr // IPv4 and IPv6; invalid for none
	Slot     int           // its number among the links of its prefix
	Gateway  [2]bool       // the default routes of IPv4 and IPv6 go this way
	Veth     string        // the host's end

	ns  *os.File
	mac network.HardwareAddr
}

// Ahead says which of two networks a container leaves by: that of the higher
// gateway priority, then that of the first name.
func Ahead(a *segment.Segment, epA *network.EndpointSettings, b *segment.Segment, epB *network.EndpointSettings) bool {
	if epA.GwPriority != epB.GwPriority {
		return epA.GwPriority > epB.GwPriority
	}
	return a.Name < b.Name
}

// MACOf makes the link's address from its IP address, as docker did for long:
// whoever gets the IP address next has the same one, so that no neighbour's
// table is ever wrong.
func MACOf(addrs [2]netip.Addr) network.HardwareAddr {
	if addrs[segment.V4].IsValid() {
		b := addrs[segment.V4].As4()
		return network.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
	}
	sum := fnv.New32a()
	sum.Write(addrs[segment.V6].AsSlice())
	return sum.Sum(network.HardwareAddr{0x02, 0x42})
}

// Settings is the endpoint as inspect shows it.
func (w *Wire) Settings() *network.EndpointSettings {
	ep := &network.EndpointSettings{}
	if w.Want != nil {
		ep = w.Want.Copy()
	}
	ep.NetworkID, ep.EndpointID = w.Seg.ID, w.Endpoint
	if a, s := w.Addrs[segment.V4], w.Seg.At(w.Addrs[segment.V4]); a.IsValid() {
		ep.IPAddress, ep.IPPrefixLen, ep.Gateway = a, s.Subnet.Bits(), s.Gateway
	}
	if a, s := w.Addrs[segment.V6], w.Seg.At(w.Addrs[segment.V6]); a.IsValid() {
		ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen, ep.IPv6Gateway = a, s.Subnet.Bits(), s.Gateway
	}
	if w.addressed() && w.Seg.Driver != spec.Ipvlan {
		ep.MacAddress = w.mac
	}
	return ep
}

func (w *Wire) addressed() bool {
	return w.Addrs[segment.V4].IsValid() || w.Addrs[segment.V6].IsValid()
}

// Device is the link's name in the container.
func (w *Wire) Device() string {
	if name := w.Want.DriverOpts[spec.OptIfName]; name != "" {
		return name
	}
	return w.Seg.Prefix() + strconv.Itoa(w.Slot)
}

// link is what has to be made of the wire.
func (w *Wire) link() (*plumb.Link, error) {
	l := &plumb.Link{
		Kind: w.Seg.Driver, Master: w.Seg.Link, MTU: w.Seg.LinkMTU, Device: w.Device(), MAC: net.HardwareAddr(w.mac),
	}
	routed := false // the kernel's own routing instead of a gateway
	switch w.Seg.Driver {
	case spec.Macvlan:
		l.Mode = w.Seg.MacvlanMode()
	case spec.Ipvlan:
		l.Mode, l.Flag, l.MAC = w.Seg.IpvlanMode(), w.Seg.Options[spec.OptIpvlanFlag], nil
		routed = l.Mode != "l2"
	default:
		l.Bridge, l.Isolated = w.Seg.BridgeName(), !w.Seg.ICC()
	}
	for f, a := range w.Addrs {
		if !a.IsValid() {
			continue
		}
		l.Addrs = append(l.Addrs, netip.PrefixFrom(a, w.Seg.At(a).Subnet.Bits()))
		if !w.Gateway[f] {
			continue
		}
		if routed {
			l.OnLink[f] = true
		} else {
			l.Gateways = append(l.Gateways, w.Seg.At(a).Gateway)
		}
	}
	if c := w.Want.IPAMConfig; c != nil {
		for _, a := range c.LinkLocalIPs {
			bits := 16
			if a.Is6() {
				bits = 64
			}
			l.Addrs = append(l.Addrs, netip.PrefixFrom(a, bits))
		}
	}
	var err error
	l.Sysctls, err = spec.Sysctls(w.Want, l.Device)
	return l, err
}

// Connect makes the links of wires by fn.
func Connect(wires []*Wire, fn func(links []*plumb.Link) error) error {
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
		w.Veth = links[i].Veth
	}
	return nil
}

// Duplicate gives another descriptor of a file, which is the caller's.
func Duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// NamespaceOf opens the network namespace of a process.
func NamespaceOf(pid int) (*os.File, error) {
	if pid <= 0 {
		return nil, errors.New("network: no process to find a namespace by")
	}
	return os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
}
