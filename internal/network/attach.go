package network

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sort"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/network/remote"
	"github.com/wherry-engine/wherry/internal/network/segment"
	"github.com/wherry-engine/wherry/internal/network/spec"
	"github.com/wherry-engine/wherry/internal/network/wiring"
	"github.com/wherry-engine/wherry/internal/undo"
)

// Attach gives a container its namespace: with lo up and, for each network, a
// link with address and route. A container of one default network, with no
// wishes, gets one from the pool. What the container held before is released.
func (m *Manager) Attach(ctx context.Context, r Request) (*Sandbox, error) {
	if r.ContainerID == "" {
		return nil, errors.New("network: request without container")
	}
	var settled error
	m.settle.Do(func() { settled = m.ports.disinherit() })
	if err := errors.Join(settled, m.Release(ctx, r.ContainerID)); err != nil {
		return nil, err
	}
	var u undo.Stack
	defer u.Run()
	m.mu.Lock()
	wanted, err := m.reg.wanted(r, m.cfg.Bridge())
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	box := &box{identity: identity{r.ContainerID, r.ContainerName, r.Hostname}, id: id.New(), endpoints: map[string]*network.EndpointSettings{}, veths: map[string]string{}}
	sb := &Sandbox{ID: box.id, Endpoints: map[string]*network.EndpointSettings{}}
	wires, ns, err := m.pool.Wires(ctx, r.NS, wanted, &u)
	if err != nil {
		return nil, err
	}
	sb.NS = ns
	u.Add(func() { ns.Close() })
	u.Add(func() { Plugged{m}.giveBack(ns, wires) })
	for _, w := range wires {
		box.endpoints[w.Seg.ID], box.veths[w.Seg.ID] = w.Settings(), w.Veth
		if !spec.IsPredefined(w.Seg.Name) && box.resolver == nil {
			if box.resolver = wires[0].Names; box.resolver != nil {
				box.resolver.Ask(r.DNS)
			} else if box.resolver, err = m.dns.Open(ns, nameServer, r.DNS); err != nil {
				return nil, err
			}
			u.Add(box.resolver.Close)
			sb.NameServer = netip.MustParseAddr(nameServer)
		}
	}
	u.Add(func() { _ = m.ports.unpublish(r.ContainerID) })
	box.door = doorOf(wires)
	if sb.Ports, err = m.ports.publish(r, box.door); err != nil {
		return nil, err
	}
	if box.plugged, err = (Plugged{m}).finish(ctx, ns, wires); err != nil {
		return nil, err
	}
	u.Add(box.plugged.close)
	box.ports, box.asked = sb.Ports, askedOf(r, sb.Ports)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errdefs.ErrUnavailable.WithMessage("the engine is shutting down")
	}
	m.boxes[r.ContainerID] = box
	for _, w := range wires {
		ep := box.endpoints[w.Seg.ID]
		join(w.Seg, box, ep)
		sb.Endpoints[w.Seg.Name] = ep.Copy()
	}
	u.Keep()
	return sb, nil
}

// wanted resolves the networks of a request, the main one first. None means a
// namespace with a loopback alone. m.mu is held.
func (g register) wanted(r Request, bridge string) ([]wiring.Wish, error) {
	mode := r.Network
	if mode == "" || mode == network.NetworkDefault {
		mode = network.NetworkBridge
		if bridge == "" {
			mode = network.NetworkNone // --bridge=none: as dockerd, no network then
		}
	}
	main, err := g.Find(mode)
	switch {
	case err != nil && r.Endpoints == nil:
		return nil, err
	case err != nil: // it was disconnected from it, and it may be gone
	case main.ConfigOnly:
		return nil, forbidden("container cannot be attached to the configuration-only network %s", main.Name)
	case main.Driver == spec.Host:
		return nil, errors.New("network: the host's own namespace needs no sandbox")
	}
	ports := remote.PortsOf(r.Exposed, r.Ports, r.PublishAll)
	var out []wiring.Wish
	for ref, ep := range r.Endpoints {
		n, err := g.Find(ref)
		if err != nil {
			return nil, err
		}
		ep = wishes(n, ep)
		if err := accepts(n, ep); err != nil {
			return nil, err
		}
		out = append(out, wiring.Wish{Seg: n, Want: ep, Ports: ports})
	}
	sort.SliceStable(out, func(i, j int) bool {
		if a, b := out[i].Seg == main, out[j].Seg == main; a != b {
			return a
		}
		return out[i].Seg.Name < out[j].Seg.Name
	})
	if r.Endpoints == nil {
		out = []wiring.Wish{{Seg: main, Want: &network.EndpointSettings{}, Ports: ports}}
	}
	if err := spec.CheckMAC(r.MAC); err != nil {
		return nil, err
	}
	if len(r.MAC) > 0 && len(out) > 0 && out[0].Seg == main && len(out[0].Want.MacAddress) == 0 {
		out[0].Want.MacAddress = r.MAC
	}
	for _, w := range out {
		if w.Seg.Driver == spec.Null && len(out) > 1 {
			return nil, forbidden("container cannot be connected to multiple networks with one of the networks in private (none) mode")
		}
		if w.Seg.Driver == spec.Null {
			continue
		}
		if w.Seg.Driver == spec.Host {
			return nil, invalid("cannot connect container to host network - container must be created in host network mode")
		}
		if !w.Seg.Up() {
			return nil, errdefs.ErrUnavailable.WithMessage("network " + w.Seg.Name + " is not available")
		}
	}
	return out, nil
}

// wishes are the parts of endpoint settings that a user sets. The caller may
// hand in what an earlier Attach returned.
func wishes(n *segment.Segment, ep *network.EndpointSettings) *network.EndpointSettings {
	if ep == nil {
		return &network.EndpointSettings{}
	}
	out := AtRest(ep)
	if n.Plugged() && ep.EndpointID != "" {
		out.MacAddress = givenMAC(ep) // what a driver chose once is no wish
	}
	out.NetworkID, out.DNSNames = "", nil
	return out
}

// AtRest is an endpoint of a container that does not run: what was chosen for its
// last run may be somebody else's by now.
func AtRest(ep *network.EndpointSettings) *network.EndpointSettings {
	if ep == nil {
		return nil
	}
	out := ep.Copy()
	if len(ep.MacAddress) > 0 && (ep.IPAddress.IsValid() || ep.GlobalIPv6Address.IsValid()) && slices.Equal(ep.MacAddress, wiring.MACOf(segment.AddressesOf(ep))) {
		out.MacAddress = nil // made here from the addresses of that time
	}
	out.EndpointID = ""
	out.IPAddress, out.IPPrefixLen, out.Gateway = netip.Addr{}, 0, netip.Addr{}
	out.GlobalIPv6Address, out.GlobalIPv6PrefixLen, out.IPv6Gateway = netip.Addr{}, 0, netip.Addr{}
	return out
}

// accepts refuses wishes that the network cannot fulfil.
func accepts(n *segment.Segment, ep *network.EndpointSettings) error {
	return spec.Accepts(n.Name, n.Driver, n.ConfigOnly, ep)
}
