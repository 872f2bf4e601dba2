package segment

import (
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/network/ipam"
)

// Place gives a new network its subnets and its link.
func (b *Host) Place(n *Segment) error {
	for _, f := range Families {
		if f == V4 && n.DisableIPv4 || f == V6 && !n.EnableIPv6 {
			continue
		}
		configs := n.Subnets(f.Six())
		if n.Addressless() {
			continue
		}
		if len(configs) == 0 {
			subnet, err := b.chooseSubnet(f)
			if err != nil {
				return err
			}
			n.IPAM.Config = append(n.IPAM.Config, network.IPAMConfig{Subnet: subnet})
			configs = n.Subnets(f.Six())
		} else {
			for i, c := range configs {
				if err := b.free(n, c.Subnet, configs[:i]); err != nil {
					return err
				}
			}
		}
		for _, c := range configs {
			if c.Gateway.IsValid() || n.PluggedIPAM() || n.NoGateway[f] || n.Internal && !n.Bridged() && !n.Plugged() {
				continue
			}
			c.Gateway = ipam.First(c.Subnet)
			if c.IPRange.IsValid() && !n.Bridged() {
				c.Gateway = ipam.First(c.IPRange)
			}
		}
	}
	slices.SortStableFunc(n.IPAM.Config, func(a, c network.IPAMConfig) int { // IPv4 comes first, as docker shows it
		return a.Subnet.Addr().BitLen() - c.Subnet.Addr().BitLen()
	})
	if n.Bridged() {
		for _, other := range b.reg.Nets {
			if other.Bridged() && other.BridgeName() == n.BridgeName() {
				return forbidden("cannot create network %s (%s): conflicts with network %s (%s): networks have same bridge name", n.ID, n.BridgeName(), other.ID, other.BridgeName())
			}
		}
	}
	return b.bringUp(n)
}

// free refuses a subnet of a new network that overlaps with another's; a plugin's
// choice for a bridge also one with what the host has.
func (b *Host) free(n *Segment, subnet netip.Prefix, own []*network.IPAMConfig) error {
	taken := b.reg.subnets(n.Space(subnet))
	if n.Chosen(subnet) && n.Bridged() {
		var err error
		if taken, err = b.taken(); err != nil {
			return err
		}
		taken = slices.DeleteFunc(taken, func(p netip.Prefix) bool { return p.Bits() == 0 })
	}
	for _, c := range own {
		taken = append(taken, c.Subnet)
	}
	other, overlaps := ipam.Overlap(subnet, taken)
	switch {
	case !overlaps:
		return nil
	case n.Chosen(subnet):
		return forbidden("plugin %s: IpamDriver.RequestPool: it answers with the pool %s, which overlaps with %s on this address space", n.IPAM.Driver, subnet, other)
	}
	return forbidden("invalid pool request: Pool overlaps with other one on this address space: %s", other)
}
