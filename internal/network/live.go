package network

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/network/portmap"
	"github.com/wherry-engine/wherry/internal/network/segment"
)

// Live changes what a running container publishes and how it is called. Who
// calls sees to it that only one change of a container is under way.
type Live struct{ *Manager }

// HostPort is a port of the host that leads to a container.
type HostPort struct {
	IP        netip.Addr // invalid is any
	Port      uint16
	Container network.Port // the number 0 is any of the protocol
}

// Has reports whether a binding of a container's port is meant.
func (h HostPort) Has(port network.Port, b network.PortBinding) bool {
	return port.Proto() == h.Container.Proto() && (h.Container.Num() == 0 || h.Container.Num() == port.Num()) &&
		b.HostPort == strconv.Itoa(int(h.Port)) && (!h.IP.IsValid() || h.IP == b.HostIP.Unmap())
}

// Ports opens and closes ports of a running container and returns what
// NetworkSettings.Ports, now, has become. What stays is not touched:
// connections through it see nothing. Connections through a closed port live
// on as long as their ends want.
func (l Live) Ports(containerID string, now, add network.PortMap, remove []HostPort) (network.PortMap, error) {
	l.mu.Lock()
	b := l.boxes[containerID]
	var d door
	if b != nil {
		d = l.reg.door(b)
	}
	l.mu.Unlock()
	if d.seg == [2]*segment.Segment{} {
		return nil, forbidden("container %s is on no network whose ports can be published", containerID)
	}
	gone := func(port network.Port, b network.PortBinding) bool {
		return slices.ContainsFunc(remove, func(h HostPort) bool { return h.Has(port, b) })
	}
	next := network.PortMap{}
	for port, bindings := range now {
		next[port] = slices.DeleteFunc(slices.Clone(bindings), func(b network.PortBinding) bool { return gone(port, b) })
	}
	if err := l.ports.alter(b.identity, d, next, jobsOf(add), gone); err != nil {
		return nil, err
	}
	l.mu.Lock()
	b.ports = next
	b.asked = maps.Clone(next)
	l.mu.Unlock()
	return next, l.ports.hairpin(d.veth)
}

// alter opens jobs, adding to next what was chosen, and closes what is gone.
func (p *published) alter(who identity, d door, next network.PortMap, jobs []job, gone func(network.Port, network.PortBinding) bool) error {
	var stay, leave []*portmap.Lease
	p.mu.Lock()
	for _, lease := range p.leases[who.container] {
		kept := slices.ContainsFunc(lease.IPs, func(ip netip.Addr) bool {
			return !gone(targetOf(lease), network.PortBinding{HostIP: ip, HostPort: strconv.Itoa(int(lease.Port))})
		})
		if kept {
			stay = append(stay, lease)
		} else {
			leave = append(leave, lease)
		}
	}
	p.mu.Unlock()
	// A port that goes and comes again, to another port of the container.
	moved := slices.DeleteFunc(slices.Clone(leave), func(l *portmap.Lease) bool {
		return !slices.ContainsFunc(jobs, func(j job) bool {
			return string(j.port.Proto()) == l.Proto && j.binding.HostPort == strconv.Itoa(int(l.Port))
		})
	})
	closeAll(moved)
	opened, err := p.open(who.name, d, jobs, next)
	if err == nil {
		if err = p.setRules(who.container, p.rulesOf(d, next)); err != nil {
			closeAll(opened)
			err = failedOn(who.name, d, err)
		}
	}
	if err != nil {
		return errors.Join(err, p.retake(who.container, moved))
	}
	p.mu.Lock()
	p.leases[who.container] = append(stay, opened...)
	p.mu.Unlock()
	closeAll(leave)
	return nil
}

// targetOf is the container's port that a lease leads to.
func targetOf(l *portmap.Lease) network.Port {
	var port network.Port
	for _, t := range l.Targets {
		if t.IsValid() {
			port, _ = network.PortFrom(t.Port(), network.IPProtocol(l.Proto)) // it was one before
		}
	}
	return port
}

// retake takes ports again that were closed for a change that failed. Their
// rules are still there.
func (p *published) retake(containerID string, closed []*portmap.Lease) error {
	var failed []error
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, old := range closed {
		want := old.Want
		want.Lo, want.Hi = old.Port, old.Port
		again, err := p.table.Reserve(want)
		failed = append(failed, err)
		if at := slices.Index(p.leases[containerID], old); err == nil && at >= 0 {
			p.leases[containerID][at] = again
		}
	}
	return errors.Join(failed...)
}

// Aliases makes these the aliases of a container on a network, by its name, and
// returns the endpoint as it is now.
func (l Live) Aliases(containerID, ref string, aliases []string) (*network.EndpointSettings, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.reg.Find(ref)
	if err != nil {
		return nil, err
	}
	b := l.boxes[containerID]
	if b == nil || b.endpoints[n.ID] == nil {
		return nil, forbidden("container %s is not connected to network %s", containerID, n.Name)
	}
	ep := b.endpoints[n.ID].Copy()
	ep.Aliases = aliases
	b.endpoints = maps.Clone(b.endpoints)
	b.endpoints[n.ID] = ep
	forgetNames(n, ep)
	join(n, b, ep)
	return ep.Copy(), nil
}
