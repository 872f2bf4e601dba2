package network

import (
	"errors"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/network/firewall"
)

// Links opens ports between containers of a default network that keeps them
// apart.
type Links struct{ *Manager }

// Apart reports whether the containers of the default network do not reach each
// other. An error says that links cannot change that.
func (m Links) Apart() (bool, error) {
	if m.cfg.ICC || m.cfg.BridgeName == "" {
		return !m.cfg.ICC, nil
	}
	// The host answers for neighbours there; on a bridge with links of others it would be in their way.
	return true, errdefs.ErrNotImplemented.WithMessage("links with --icc=false are not served on a bridge that is not the engine's own (--bridge " + m.cfg.BridgeName + "); put both containers on a network of their own")
}

// Link opens ports of a container for another one, on a default network that
// keeps them apart, until one of the two ends or Unlink is called. It is
// idempotent. Where they reach each other, or one is not there, nothing is done.
func (m Links) Link(from, to string, ports network.PortSet) error {
	p := m.ports
	p.mu.Lock()
	defer p.mu.Unlock()
	m.mu.Lock()
	a, b := m.boxes[from], m.boxes[to]
	n := m.reg.ByName(network.NetworkBridge)
	var rules []firewall.Publication
	if n != nil && !n.ICC() && a != nil && b != nil && !a.leaving && !b.leaving {
		if at, is := a.endpoints[n.ID], b.endpoints[n.ID]; at != nil && is != nil {
			for port := range ports {
				rules = append(rules, firewall.Publication{Proto: string(port.Proto()), From: at.IPAddress, IP: is.IPAddress, Port: port.Num()})
			}
		}
	}
	m.mu.Unlock()
	if len(rules) == 0 {
		return nil
	}
	key := linkKey(from, to)
	old, inherited := p.rules[key], p.rules[""]
	p.rules[""], p.rules[key] = without(inherited, rules), rules
	for _, end := range []string{from, to} {
		if !slices.Contains(p.links[end], key) {
			p.links[end] = append(p.links[end], key)
		}
	}
	return p.change(without(without(rules, inherited), old), without(old, rules))
}

// Unlink closes what Link opened.
func (m Links) Unlink(from, to string) error {
	m.ports.mu.Lock()
	defer m.ports.mu.Unlock()
	return m.ports.cut(linkKey(from, to))
}

func linkKey(from, to string) string { return from + " " + to }

// cut closes the ports of a link. p.mu is held.
func (p *published) cut(key string) error {
	for _, end := range strings.Fields(key) {
		p.links[end] = slices.DeleteFunc(p.links[end], func(k string) bool { return k == key })
		if len(p.links[end]) == 0 {
			delete(p.links, end)
		}
	}
	old := p.rules[key]
	delete(p.rules, key)
	return p.change(nil, old)
}

// unlink closes the ports of all links of a container, at either end.
func (p *published) unlink(containerID string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var failed []error
	for _, key := range slices.Clone(p.links[containerID]) {
		failed = append(failed, p.cut(key))
	}
	return errors.Join(failed...)
}
