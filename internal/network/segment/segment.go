// Package segment owns the networks as they run on this host: the register of
// them, their addresses, and the bridges and parents that they stand on. Its
// users do the locking.
package segment

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/network/dns"
	"github.com/wherry-engine/wherry/internal/network/ipam"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// Segment is a network as it is run here.
type Segment struct {
	spec.Network
	Link    int        // index of the bridge or of the parent, 0 when the network has none
	Stacks  [2]Stack   // of IPv4 and of IPv6
	Further [2][]Stack // of subnets beyond the first, which bridges have none of
	LinkMTU int        // what its links have
	Pending bool       // plugins are being told that it begins or ends: nobody comes

	NoGateway [2]bool // a new one's driver wants no gateway that nobody asked for, of IPv4 and of IPv6

	Directory dns.Directory
}

// Family is an address family.
type Family int

// The families, as indices of what a network or an endpoint has of each.
const (
	V4 Family = iota
	V6
)

// Families are both.
var Families = [...]Family{V4, V6}

// Six says whether it is IPv6.
func (f Family) Six() bool { return f == V6 }

// FamilyOf is the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() || a.Is4In6() {
		return V4
	}
	return V6
}

// Stack is one address family of a network.
type Stack struct {
	Addrs   *ipam.Pool // nil: the network has no addresses of this family
	Subnet  netip.Prefix
	Gateway netip.Addr // the containers' default route; invalid for none
	Own     netip.Addr // the bridge's address; invalid for none
}

// serve makes a family of the network usable: own and gateway are nobody's to have.
func (n *Segment) serve(f Family, c network.IPAMConfig, own, gateway netip.Addr) error {
	pool, err := ipam.NewPool(c.Subnet, c.IPRange)
	if err != nil {
		return err
	}
	s := Stack{Addrs: pool, Subnet: c.Subnet.Masked(), Own: own, Gateway: gateway}
	if err := s.reserve(own, gateway, c.Gateway); err != nil {
		return err
	}
	for _, aux := range c.AuxAddress {
		if err := s.reserve(aux); err != nil {
			return err
		}
	}
	if n.Stacks[f].Addrs != nil && n.Stacks[f].Subnet != s.Subnet {
		n.Further[f] = append(slices.DeleteFunc(n.Further[f], func(o Stack) bool { return o.Subnet == s.Subnet }), s)
		return nil
	}
	n.Stacks[f] = s
	return nil
}

// Every lists the subnets of a family that can be used.
func (n *Segment) Every(f Family) []*Stack {
	var out []*Stack
	if n.Stacks[f].Addrs != nil {
		out = append(out, &n.Stacks[f])
	}
	for i := range n.Further[f] {
		out = append(out, &n.Further[f][i])
	}
	return out
}

// At is the subnet that an address is of; an empty one when there is none.
func (n *Segment) At(a netip.Addr) *Stack {
	for _, s := range n.Every(FamilyOf(a)) {
		if s.Subnet.Contains(a) {
			return s
		}
	}
	return &Stack{}
}

// Get hands out an address of the first subnet that has one left; an invalid
// one when the network has none of the family.
func (n *Segment) Get(f Family) (a netip.Addr, err error) {
	for _, s := range n.Every(f) {
		if a, err = s.Addrs.Get(); err == nil {
			return a, nil
		}
	}
	return netip.Addr{}, err
}

func (s *Stack) reserve(list ...netip.Addr) error {
	for i, a := range list {
		if !a.IsValid() || slices.Contains(list[:i], a) {
			continue
		}
		if err := s.Addrs.Take(a); err != nil && !errdefs.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

// Bridged says that the network is a bridge of this host.
func (n *Segment) Bridged() bool { return n.Driver == spec.Bridge }

// Up says that containers can be on the network.
func (n *Segment) Up() bool { return (n.Link != 0 || n.Plugged()) && !n.Pending }

// Free gives addresses back.
func (n *Segment) Free(addrs [2]netip.Addr) {
	for _, a := range addrs {
		if s := n.At(a); s.Addrs != nil {
			s.Addrs.Free(a)
		}
	}
}

// AddressesOf are the addresses that an endpoint has.
func AddressesOf(ep *network.EndpointSettings) [2]netip.Addr {
	return [2]netip.Addr{ep.IPAddress, ep.GlobalIPv6Address}
}

// Exits reports whether the container can leave by the network, for a family.
func (n *Segment) Exits(f Family) bool {
	return n.Stacks[f].Gateway.IsValid() || n.Driver == spec.Ipvlan && n.IpvlanMode() != "l2" && !n.Internal && n.Stacks[f].Addrs != nil
}

// MacvlanMode is the mode of a macvlan network.
func (n *Segment) MacvlanMode() string {
	if m := n.Options[spec.OptMacvlanMode]; m != "" {
		return m
	}
	return "bridge"
}

// IpvlanMode is the mode of an ipvlan network.
func (n *Segment) IpvlanMode() string {
	if m := n.Options[spec.OptIpvlanMode]; m != "" {
		return m
	}
	return "l2"
}

func invalid(format string, a ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, a...))
}

func forbidden(format string, a ...any) error {
	return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(format, a...))
}

func logger() *slog.Logger { return slog.With("part", "network") }
