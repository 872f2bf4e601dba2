// Package ipam owns the choice of addresses: which subnet a network gets and
// which address of it an endpoint gets. It touches nothing outside its memory.
package ipam

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/containerd/errdefs"
)

// Pool hands out the addresses of one subnet. Freed addresses are reused as
// late as possible: it goes round the range. It is safe for concurrent use.
type Pool struct {
	mu     sync.Mutex
	subnet netip.Prefix
	rng    netip.Prefix // dynamic addresses come from here; within subnet
	next   netip.Addr
	used   map[netip.Addr]struct{}
}

// NewPool makes the pool of a subnet. An invalid rng means the whole subnet.
// Network and broadcast addresses are never handed out.
func NewPool(subnet, rng netip.Prefix) (*Pool, error) {
	if !subnet.IsValid() {
		return nil, errdefs.ErrInvalidArgument.WithMessage("invalid subnet")
	}
	subnet = subnet.Masked()
	if !rng.IsValid() {
		rng = subnet
	}
	rng = rng.Masked()
	if rng.Bits() < subnet.Bits() || !subnet.Contains(rng.Addr()) {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid ip-range %s: not inside subnet %s", rng, subnet))
	}
	return &Pool{subnet: subnet, rng: rng, next: rng.Addr(), used: map[netip.Addr]struct{}{}}, nil
}

// Subnet returns the subnet.
func (p *Pool) Subnet() netip.Prefix { return p.subnet }

// Get hands out the next free address. When none is left it fails with
// errdefs.ErrResourceExhausted in docker's words.
func (p *Pool) Get() (netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for a, first := p.next, true; first || a != p.next; first = false {
		following := p.after(a)
		if _, taken := p.used[a]; !taken && p.assignable(a) {
			p.used[a] = struct{}{}
			p.next = following
			return a, nil
		}
		a = following
	}
	return netip.Addr{}, errdefs.ErrResourceExhausted.WithMessage("no available IPv" + map[bool]string{true: "4", false: "6"}[p.subnet.Addr().Is4()] + " addresses on this network's address pools: " + p.subnet.String())
}

// after returns the address that follows in the range, going round.
func (p *Pool) after(a netip.Addr) netip.Addr {
	if n := a.Next(); n.IsValid() && p.rng.Contains(n) {
		return n
	}
	return p.rng.Addr()
}

// assignable reports whether a may be an endpoint's: not the network's own
// address and not the broadcast address (IPv4 with room for them).
func (p *Pool) assignable(a netip.Addr) bool {
	if p.subnet.Bits() >= a.BitLen()-1 {
		return true
	}
	return a != p.subnet.Addr() && (!a.Is4() || a != Last(p.subnet))
}

// Take reserves a given address. errdefs.ErrAlreadyExists when it is taken,
// errdefs.ErrInvalidArgument when it is not of this subnet.
func (p *Pool) Take(a netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.subnet.Contains(a) || !p.assignable(a) {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid address %s: it does not belong to any of this network's subnets", a))
	}
	if _, taken := p.used[a]; taken {
		return errdefs.ErrAlreadyExists.WithMessage("Address already in use")
	}
	p.used[a] = struct{}{}
	return nil
}

// Free gives an address back; an address that is not taken is no error.
func (p *Pool) Free(a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.used, a)
}

// Used returns the number of addresses taken.
func (p *Pool) Used() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.used)
}

// Last returns the last address of a prefix.
func Last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// First returns the first address behind the network's own: the gateway's
// usual place.
func First(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// Reserved returns how many addresses of the subnet are nobody's to have.
func (p *Pool) Reserved() int {
	if p.assignable(p.subnet.Addr()) {
		return 0
	}
	if p.subnet.Addr().Is4() {
		return 2
	}
	return 1
}

// Available returns how many addresses Get can still hand out, at most 2^64-1.
func (p *Pool) Available() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	host := p.rng.Addr().BitLen() - p.rng.Bits()
	if host >= 64 {
		return ^uint64(0)
	}
	n := uint64(1) << host
	for a := range p.used {
		if p.rng.Contains(a) {
			n--
		}
	}
	for _, a := range []netip.Addr{p.subnet.Addr(), Last(p.subnet)} {
		if p.rng.Contains(a) && !p.assignable(a) {
			n--
		}
	}
	return n
}
