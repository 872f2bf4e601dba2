package network

import (
	"errors"
	"slices"
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
	p.warnings = nil
	for _, chain := range drops {
		p.warnings = append(p.warnings, "nftables chain "+chain+" drops forwarded packets by policy; containers reach other hosts only as far as its rules accept them")
	}
	if failed != nil {
		// The host's rules are its owner's business: they keep nobody from starting.
		p.warnings = append(p.warnings, failed.Error())
	}
	return nil
}
