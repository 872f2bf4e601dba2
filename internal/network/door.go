package network

import (
	"errors"
	"net/netip"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/network/segment"
	"github.com/wherry-engine/wherry/internal/network/wiring"
)

// door is where published ports lead: for each family the network and the
// container's address there.
type door struct {
	endpoint string // endpoint id
	seg      [2]*segment.Segment
	addr     [2]netip.Addr
	veth     string // the host's end of the link; "" when it is not known
}

// doorOf is the door of a container with these links: where its default routes go.
func doorOf(wires []*wiring.Wire) door {
	var d door
	for _, f := range segment.Families {
		for _, w := range wires {
			if w.Addrs[f].IsValid() && w.Gateway[f] && w.Seg.Bridged() {
				d.seg[f], d.addr[f] = w.Seg, w.Addrs[f]
				if d.endpoint == "" {
					d.endpoint, d.veth = w.Endpoint, w.Veth
				}
			}
		}
	}
	return d
}

// door is where the published ports of a container lead. The lock of the
// networks is held.
func (g register) door(b *box) door {
	var d door
	for _, f := range segment.Families {
		if n := g.exit(b.endpoints, f); n != nil && n.Bridged() {
			ep := b.endpoints[n.ID]
			d.seg[f], d.addr[f] = n, segment.AddressesOf(ep)[f]
			if d.endpoint == "" {
				d.endpoint, d.veth = ep.EndpointID, b.veths[n.ID]
			}
		}
	}
	return d
}

// askedOf are the ports that a request publishes, with what was chosen where
// something could be.
func askedOf(r Request, chosen network.PortMap) network.PortMap {
	out := network.PortMap{}
	for port, bindings := range chosen {
		switch {
		case len(bindings) > 0:
			out[port] = bindings
		case len(r.Ports[port]) > 0:
			out[port] = r.Ports[port]
		case r.PublishAll:
			out[port] = []network.PortBinding{{}}
		default:
			out[port] = nil
		}
	}
	return out
}

// follow lets the published ports of a running container lead to where its
// default routes go after its networks have changed. It returns
// NetworkSettings.Ports as they are then.
func (m *Manager) follow(b *box) (network.PortMap, error) {
	m.mu.Lock()
	d, before := m.reg.door(b), b.door
	r := Request{ContainerID: b.container, ContainerName: b.name, Ports: b.asked, Exposed: network.PortSet{}}
	for port := range b.asked {
		r.Exposed[port] = struct{}{}
	}
	m.mu.Unlock()
	if d.addr == before.addr && d.seg == before.seg {
		return b.ports, nil
	}
	if d.seg == [2]*segment.Segment{} {
		if err := m.ports.unpublish(b.container); err != nil { // nowhere to lead
			return nil, err
		}
	} else {
		m.ports.vacate(b.container)
	}
	ports, err := m.ports.publish(r, d)
	if err != nil {
		err = errors.Join(err, m.ports.unpublish(b.container))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b.door, b.ports = d, ports
	if err == nil {
		b.asked = askedOf(r, ports)
	}
	return ports, err
}
