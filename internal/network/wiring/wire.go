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
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/network/dns"
	"github.com/wherry-engine/wherry/internal/network/plumb"
	"github.com/wherry-engine/wherry/internal/network/remote"
	"github.com/wherry-engine/wherry/internal/network/segment"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// Wish is one network that a container is to be connected to.
type Wish struct {
	Seg   *segment.Segment
	Want  *network.EndpointSettings // never nil
	Ports remote.Ports              // of the container, which plugins are told of
}

// Wire is a link into a container's namespace.
type Wire struct {
	Names    *dns.Client // name service that waits in the namespace, the first wire's; nil for none
	Seg      *segment.Segment
	Want     *network.EndpointSettings
	Endpoint string           // endpoint id
	Addrs    [2]netip.Addr    // IPv4 and IPv6; invalid for none
	Slot     int              // its number among the links of its prefix
	Gateway  [2]bool          // the default routes of IPv4 and IPv6 go this way
	Veth     string           // the host's end
	Plugged  *remote.Endpoint // what plugins know of it; nil without any

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

// Driven says that a plugin makes the link.
func (w *Wire) Driven() bool { return w.Plugged != nil && w.Plugged.Driver != "" }

// Exits reports whether the container can leave by the link.
func (w *Wire) Exits(f segment.Family) bool {
	if w.Driven() {
		return w.Plugged.Gateway[f].IsValid()
	}
	return w.Seg.Exits(f)
}

// gatewayOf is where the default route of a family would lead.
func (w *Wire) gatewayOf(f segment.Family) netip.Addr {
	if w.Driven() {
		return w.Plugged.Gateway[f]
	}
	return w.Seg.At(w.Addrs[f]).Gateway
}

// bits is the length of the prefix of the address of a family.
func (w *Wire) bits(f segment.Family) int {
	if w.Plugged != nil && w.Plugged.Addrs[f].IsValid() {
		return w.Plugged.Addrs[f].Bits()
	}
	return w.Seg.At(w.Addrs[f]).Subnet.Bits()
}

// prefix begins the link's name in the container.
func (w *Wire) prefix() string {
	if w.Driven() && w.Plugged.Prefix != "" {
		return w.Plugged.Prefix
	}
	return w.Seg.Prefix()
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
	if a := w.Addrs[segment.V4]; a.IsValid() {
		ep.IPAddress, ep.IPPrefixLen, ep.Gateway = a, w.bits(segment.V4), w.gatewayOf(segment.V4)
	}
	if a := w.Addrs[segment.V6]; a.IsValid() {
		ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen, ep.IPv6Gateway = a, w.bits(segment.V6), w.gatewayOf(segment.V6)
	}
	if w.addressed() && w.Seg.Driver != spec.Ipvlan || w.Driven() {
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
	return w.prefix() + strconv.Itoa(w.Slot)
}

// link is what has to be made of the wire.
func (w *Wire) link() (*plumb.Link, error) {
	l := &plumb.Link{
		Kind: w.Seg.Driver, Master: w.Seg.Link, MTU: w.Seg.LinkMTU, Device: w.Device(), MAC: net.HardwareAddr(w.mac),
	}
	if w.Driven() {
		l.Kind, l.Source = plumb.Given, w.Plugged.Link
		for _, r := range w.Plugged.Routes {
			l.Routes = append(l.Routes, plumb.Route(r))
		}
	}
	routed := false // the kernel's own routing instead of a gateway
	switch l.Kind {
	case plumb.Given:
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
		l.Addrs = append(l.Addrs, netip.PrefixFrom(a, w.bits(segment.Family(f))))
		if !w.Gateway[f] {
			continue
		}
		if routed {
			l.OnLink[f] = true
		} else {
			l.Gateways = append(l.Gateways, w.gatewayOf(segment.Family(f)))
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
	wires = slices.DeleteFunc(slices.Clone(wires), func(w *Wire) bool { return w.Driven() && w.Plugged.Link == "" })
	links := make([]*plumb.Link, len(wires))
	for i, w := range wires {
		var err error
		if links[i], err = w.link(); err != nil {
			return err
		}
	}
	if err := fn(links); err != nil {
		return by(wires, err)
	}
	for i, w := range wires {
		w.Veth, w.mac = links[i].Veth, network.HardwareAddr(links[i].MAC)
	}
	return nil
}

// by names the plugins whose links are among those that an error is about.
func by(wires []*Wire, err error) error {
	var names []string
	for _, w := range wires {
		if w.Driven() && !slices.Contains(names, w.Plugged.Driver) {
			names = append(names, w.Plugged.Driver)
		}
	}
	if len(names) == 0 {
		return err
	}
	return fmt.Errorf("link of plugin %s: %w", strings.Join(names, ", "), err)
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
