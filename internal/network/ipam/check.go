package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// Check checks addresses against one another, in dockerd's words.
func Check(configs []network.IPAMConfig) error {
	var errs []string
	bad := func(format string, a ...any) { errs = append(errs, fmt.Sprintf(format, a...)) }
	for _, c := range configs {
		if c.Subnet != c.Subnet.Masked() {
			bad("invalid subnet %s: it should be %s", c.Subnet, c.Subnet.Masked())
		}
		if r := c.IPRange; r.IsValid() {
			if r.Addr().Is4() != c.Subnet.Addr().Is4() {
				bad("invalid ip-range %s: parent subnet is an %s block", r, word(c.Subnet))
				continue
			}
			if r.Bits() < c.Subnet.Bits() {
				bad("invalid ip-range %s: CIDR block is bigger than its parent subnet %s", r, c.Subnet)
			}
			if r != r.Masked() {
				bad("invalid ip-range %s: it should be %s", r, r.Masked())
			}
			if !c.Subnet.Overlaps(r) {
				bad("invalid ip-range %s: parent subnet %s doesn't contain ip-range", r, c.Subnet)
			}
		}
		outside := func(a netip.Addr) string {
			switch {
			case !a.IsValid() || c.Subnet.Contains(a):
				return ""
			case a.Is4() != c.Subnet.Addr().Is4():
				return "parent subnet is an " + word(c.Subnet) + " block"
			}
			return fmt.Sprintf("parent subnet %s doesn't contain this address", c.Subnet)
		}
		if why := outside(c.Gateway); why != "" {
			bad("invalid gateway %s: %s", c.Gateway, why)
		}
		taken := map[netip.Addr]bool{c.Gateway: c.Gateway.IsValid()}
		for _, name := range slices.Sorted(maps.Keys(c.AuxAddress)) {
			a := c.AuxAddress[name]
			if why := outside(a); why != "" {
				bad("invalid auxiliary address %s: %s", name, why)
			} else if taken[a] {
				bad("failed to allocate secondary ip address (%s:%s): Address already in use", name, a)
			}
			taken[a] = true
		}
	}
	if len(errs) > 0 {
		return errdefs.ErrInvalidArgument.WithMessage("invalid network config:\n" + strings.Join(errs, "\n"))
	}
	return nil
}

func word(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "IPv4"
	}
	return "IPv6"
}
