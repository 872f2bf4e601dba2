package network

import (
	"errors"
	"slices"

	"github.com/wherry-engine/wherry/internal/linux/nft"
)

// pass opens the forward chains of the host's firewalls for containers, as
// docker does, unless the host's policy is to decide; and looks at what stands
// in their way.
func (p *published) pass() error {
	var links []string
	name := ""
	if !p.cfg.HostPolicy {
		for _, n := range p.state().Networks {
			links = append(links, n.Bridge)
		}
		name = p.cfg.Table()
	}
	slices.Sort(links)
	failed := p.nf.Pass(p.cfg.Table(), links)
	drops, err := p.nf.Rejects(p.cfg.Table(), name)
	if err != nil {
		return errors.Join(failed, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	before := slices.Concat(p.warnings, p.older)
	p.warnings = nil
	for _, chain := range drops {
		p.warnings = append(p.warnings, "nftables chain "+chain+" drops forwarded packets by policy; containers reach other hosts only as far as its rules accept them")
	}
	if failed != nil {
		// The host's rules are its owner's business: they keep nobody from starting.
		p.warnings = append(p.warnings, failed.Error()+"; published ports and containers' traffic pass only as far as its rules accept them")
	}
	p.older = older()
	for _, w := range slices.Concat(p.warnings, p.older) {
		if !slices.Contains(before, w) {
			logger().Warn(w)
		}
	}
	return nil
}

// standing lists what stands in the way of containers' traffic now.
func (p *published) standing() []string {
	if p.nf == nil {
		return nil
	}
	now := older() // no notice is given when that changes
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Concat(p.warnings, now)
}

// older tells of what iptables-legacy has put beside nftables, which the engine
// does not open.
func older() []string {
	found, err := nft.Older()
	for i := range found {
		found[i] += ", beside nftables; it may drop what published ports and containers send"
	}
	if err != nil {
		found = append(found, err.Error())
	}
	return found
}
