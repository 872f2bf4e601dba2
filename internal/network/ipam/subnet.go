package ipam

import (
	"crypto/sha256"
	"net/netip"

	"github.com/containerd/errdefs"
)

// Range is one entry of default-address-pools: subnets of Size bits are cut
// from Base in order.
type Range struct {
	Base netip.Prefix `json:"base"`
	Size int          `json:"size"`
}

// DefaultRanges are docker's: the /16 networks from 172.17 to 172.31 and then
// the /20 networks of 192.168.
func DefaultRanges() []Range {
	var out []Range
	for _, base := range []string{"172.17.0.0/16", "172.18.0.0/16", "172.19.0.0/16", "172.20.0.0/14", "172.24.0.0/14", "172.28.0.0/14"} {
		out = append(out, Range{netip.MustParsePrefix(base), 16})
	}
	return append(out, Range{netip.MustParsePrefix("192.168.0.0/16"), 20})
}

// Local6 are the ranges for IPv6 where none is configured: the /64 networks of
// a /48 of unique local addresses (RFC 4193) that follows from seed, so that
// hosts that meet later have different ones.
func Local6(seed string) []Range {
	sum := sha256.Sum256([]byte(seed))
	a := [16]byte{0xfd}
	copy(a[1:6], sum[:])
	return []Range{{netip.PrefixFrom(netip.AddrFrom16(a), 48), 64}}
}

// Of are the ranges of an address family.
func Of(ranges []Range, six bool) []Range {
	var out []Range
	for _, r := range ranges {
		if r.Base.Addr().Is6() == six {
			out = append(out, r)
		}
	}
	return out
}

// Choose returns the first subnet of the ranges that overlaps none of taken.
func Choose(ranges []Range, taken []netip.Prefix) (netip.Prefix, error) {
	for _, r := range ranges {
		base := r.Base.Masked()
		if r.Size < base.Bits() || r.Size > base.Addr().BitLen() {
			return netip.Prefix{}, errdefs.ErrInvalidArgument.WithMessage("invalid default-address-pools entry " + base.String())
		}
		for a := base.Addr(); a.IsValid() && base.Contains(a); {
			candidate := netip.PrefixFrom(a, r.Size)
			blocker, blocked := overlapping(candidate, taken)
			if !blocked {
				return candidate, nil
			}
			if blocker.Bits() < candidate.Bits() { // skip all it covers
				candidate = blocker.Masked()
			}
			a = Last(candidate).Next()
		}
	}
	return netip.Prefix{}, errdefs.ErrResourceExhausted.WithMessage("all predefined address pools have been fully subnetted")
}

func overlapping(p netip.Prefix, list []netip.Prefix) (netip.Prefix, bool) {
	for _, t := range list {
		if t.Bits() > 0 && p.Overlaps(t) {
			return t, true
		}
	}
	return netip.Prefix{}, false
}

// Overlap returns the first of taken that shares an address with p. A default
// route overlaps nothing.
func Overlap(p netip.Prefix, taken []netip.Prefix) (netip.Prefix, bool) { return overlapping(p, taken) }
