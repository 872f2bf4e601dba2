package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/plumb"
	"github.com/wherry-engine/wherry/internal/network/remote"
	"github.com/wherry-engine/wherry/internal/network/segment"
	"github.com/wherry-engine/wherry/internal/network/spec"
	"github.com/wherry-engine/wherry/internal/network/wiring"
	"github.com/wherry-engine/wherry/internal/undo"
)

// Connection is a running container to be connected to a further network.
type Connection struct {
	ContainerID string
	Network     string                    // name, id or id prefix
	Settings    *network.EndpointSettings // the client's wishes; nil for none
	PID         int                       // the container's main process
	DNS         []netip.Addr              // HostConfig.DNS
}

// Change is what became of a container's networks.
type Change struct {
	Network  string                    // the network's name
	Endpoint *network.EndpointSettings // nil when it was disconnected
	Ports    network.PortMap           // NetworkSettings.Ports now; nil when the container was not known
}

// Connect gives a running container a link to a network. Its published ports
// follow its default route.
func (m *Manager) Connect(ctx context.Context, c Connection) (*Change, error) {
	m.mu.Lock()
	w, b, err := m.wish(c)
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	ns, err := m.namespaceOf(c.ContainerID, c.PID)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var u undo.Stack
	defer u.Run() // while the namespace is open
	link, err := m.pool.Plug(ctx, w)
	if err != nil {
		return nil, err
	}
	wires := []*wiring.Wire{link}
	u.Add(func() { Plugged{m}.moved(b, nil) })
	u.Add(func() { m.pool.Undo(link) })
	if err := m.pool.Join(ctx, ns, wires); err != nil {
		return nil, err
	}
	u.Add(func() {
		m.mu.Lock()
		exits := m.reg.exitsOf(b.endpoints)
		m.mu.Unlock()
		m.pool.Withdraw(ns, link, exits)
	})
	if err := m.extend(ns, b, link); err != nil {
		return nil, fmt.Errorf("connect container %s to network %s: %w", c.ContainerID, w.Seg.Name, err)
	}
	Plugged{m}.moved(b, link)
	more, err := Plugged{m}.finish(ctx, ns, wires)
	if err != nil {
		return nil, err
	}
	u.Add(more.close)
	if !spec.IsPredefined(w.Seg.Name) && b.resolver == nil {
		r, err := m.dns.Open(ns, nameServer, c.DNS)
		if err != nil {
			return nil, err
		}
		u.Add(r.Close)
		m.mu.Lock()
		b.resolver = r
		for nid, ep := range b.endpoints {
			introduce(m.reg.Nets[nid], b, ep)
		}
		m.mu.Unlock()
	}
	ep := link.Settings()
	m.mu.Lock()
	if m.boxes[c.ContainerID] != b {
		m.mu.Unlock()
		return nil, errors.New("container " + c.ContainerID + " has ended")
	}
	b.endpoints[w.Seg.ID] = ep
	if b.veths == nil {
		b.veths = map[string]string{}
	}
	b.veths[w.Seg.ID] = link.Veth
	b.plugged.add(more)
	join(w.Seg, b, ep)
	m.mu.Unlock()
	u.Keep()
	ports, err := m.follow(b)
	return &Change{Network: w.Seg.Name, Endpoint: ep.Copy(), Ports: ports}, err
}

// wish checks whether a connection can be made. m.mu is held.
func (m *Manager) wish(c Connection) (wiring.Wish, *box, error) {
	n, err := m.reg.Find(c.Network)
	if err != nil {
		return wiring.Wish{}, nil, err
	}
	b := m.boxes[c.ContainerID]
	switch {
	case n.Driver == spec.Host:
		return wiring.Wish{}, nil, forbidden("container cannot be disconnected from host network or connected to host network")
	case n.Driver == spec.Null || b != nil && b.secluded(m):
		return wiring.Wish{}, nil, forbidden("container cannot be connected to multiple networks with one of the networks in private (none) mode")
	case b == nil:
		return wiring.Wish{}, nil, forbidden("container %s has no network namespace of its own", c.ContainerID)
	case b.endpoints[n.ID] != nil:
		return wiring.Wish{}, nil, forbidden("endpoint with name %s already exists in network %s", b.name, n.Name)
	case !n.Up():
		return wiring.Wish{}, nil, fmt.Errorf("network %s is not available", n.Name)
	}
	want := wishes(n, c.Settings)
	ports := remote.Ports{Published: b.asked}
	return wiring.Wish{Seg: n, Want: want, Ports: ports}, b, accepts(n, want)
}

// secluded reports whether the container is on the network none.
func (b *box) secluded(m *Manager) bool {
	for nid := range b.endpoints {
		if n := m.reg.Nets[nid]; n != nil && n.Driver == spec.Null {
			return true
		}
	}
	return false
}

// extend adds a link to a namespace that is in use.
func (m *Manager) extend(ns *os.File, b *box, w *wiring.Wire) error {
	return rtnl.Enter(m.home, ns, func(in *rtnl.Conn) error {
		links, err := in.Links()
		if err != nil {
			return err
		}
		taken := func(name string) bool {
			return slices.ContainsFunc(links, func(l rtnl.Link) bool { return l.Name == name })
		}
		if name := w.Want.DriverOpts[spec.OptIfName]; name != "" && taken(name) {
			return errdefs.ErrConflict.WithMessage("interface name " + name + " is already in use in the container")
		}
		for w.Want.DriverOpts[spec.OptIfName] == "" && taken(w.Device()) {
			w.Slot++
		}
		for _, f := range segment.Families {
			m.mu.Lock()
			best := m.reg.exit(b.endpoints, f)
			w.Gateway[f] = w.Exits(f) && (best == nil || wiring.Ahead(w.Seg, w.Want, best, b.endpoints[best.ID]))
			m.mu.Unlock()
			if w.Gateway[f] {
				if err := plumb.NoDefaultRoute(in, f.Six()); err != nil {
					return err
				}
			}
		}
		return wiring.Connect([]*wiring.Wire{w}, func(l []*plumb.Link) error { return m.pool.Fit.Furnish(ns, in, l, false) })
	})
}

// exit is the network that a container's default route of a family goes to: the
// highest gateway priority, then the first name.
func (g register) exit(endpoints map[string]*network.EndpointSettings, f segment.Family) *segment.Segment {
	var best *segment.Segment
	for nid, ep := range endpoints {
		n := g.Nets[nid]
		if n == nil || !n.Up() || !exits(n, ep, f) || !segment.AddressesOf(ep)[f].IsValid() {
			continue
		}
		if best == nil || wiring.Ahead(n, ep, best, endpoints[best.ID]) {
			best = n
		}
	}
	return best
}

// Disconnect takes a running container off a network. With force a container that is not known is no error.
func (m *Manager) Disconnect(ctx context.Context, containerID, ref string, pid int, force bool) (*Change, error) {
	m.mu.Lock()
	n, err := m.reg.Find(ref)
	if err != nil {
		m.mu.Unlock()
		return nil, err
	}
	b := m.boxes[containerID]
	var ep *network.EndpointSettings
	if b != nil {
		ep = b.endpoints[n.ID]
	}
	var exits [2]plumb.Exit
	if ep != nil {
		rest := map[string]*network.EndpointSettings{}
		for nid, e := range b.endpoints {
			if nid != n.ID {
				rest[nid] = e
			}
		}
		exits = m.reg.exitsOf(rest)
	}
	m.mu.Unlock()
	switch {
	case ep == nil && force:
		return &Change{Network: n.Name}, nil
	case ep == nil:
		return nil, fmt.Errorf("container %s is not connected to network %s", containerID, n.Name)
	case n.Driver == spec.Host:
		return nil, forbidden("container cannot be disconnected from host network or connected to host network")
	}
	taken, err := Plugged{m}.takeOut(b, n, exits)
	if addrs := segment.AddressesOf(ep); !taken && addrs != [2]netip.Addr{} {
		var ns *os.File
		if ns, err = m.namespaceOf(containerID, pid); err == nil {
			err = m.pool.Unplug(ns, addrs, exits)
			ns.Close()
		}
	}
	if err != nil && !force {
		return nil, fmt.Errorf("disconnect container %s from network %s: %w", containerID, n.Name, err)
	}
	m.mu.Lock()
	mine := b.endpoints[n.ID] == ep
	if mine {
		delete(b.endpoints, n.ID)
		leave(n, b, ep)
	}
	m.mu.Unlock()
	// Nobody may have the address before the ports have left it.
	ports, err := m.follow(b)
	if mine {
		n.Free(segment.AddressesOf(ep))
		Plugged{m}.leave(b, n)
		Plugged{m}.moved(b, nil)
	}
	return &Change{Network: n.Name, Ports: ports}, err
}

// exitsOf says where the default routes of a container with these endpoints go.
// m.mu is held.
func (g register) exitsOf(endpoints map[string]*network.EndpointSettings) [2]plumb.Exit {
	var out [2]plumb.Exit
	for _, f := range segment.Families {
		if n := g.exit(endpoints, f); n != nil {
			out[f] = plumb.Exit{Addr: segment.AddressesOf(endpoints[n.ID])[f], Gateway: gatewaysOf(endpoints[n.ID])[f]}
			if n.Driver == spec.Ipvlan && n.IpvlanMode() != "l2" {
				out[f].Gateway = netip.Addr{}
			}
		}
	}
	return out
}
