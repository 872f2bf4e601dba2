package segment

import (
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
		if len(configs) == 0 {
			subnet, err := b.chooseSubnet(f)
			if err != nil {
				return err
			}
			n.IPAM.Config = append(n.IPAM.Config, network.IPAMConfig{Subnet: subnet})
			configs = n.Subnets(f.Six())
		} else {
			taken := b.reg.subnets()
			for _, c := range configs {
				if other, overlaps := ipam.Overlap(c.Subnet, taken); overlaps {
					return forbidden("invalid pool request: Pool overlaps with other one on this address space: %s", other)
				}
				taken = append(taken, c.Subnet)
			}
		}
		for _, c := range configs {
			if c.Gateway.IsValid() || n.Internal && !n.Bridged() {
				continue
			}
			c.Gateway = ipam.First(c.Subnet)
			if c.IPRange.IsValid() && !n.Bridged() {
				c.Gateway = ipam.First(c.IPRange)
			}
		}
	}
	if n.Bridged() {
		for _, other := range b.reg.Nets {
			if other.Bridged() && other.BridgeName() == n.BridgeName() {
				return forbidden("cannot create network %s (%s): conflicts with network %s (%s): networks have same bridge name", n.ID, n.BridgeName(), other.ID, other.BridgeName())
			}
		}
	}
	return b.bringUp(n)
}
