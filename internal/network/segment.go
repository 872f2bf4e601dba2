package network

import (
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/network/segment"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// List lists the networks that match (driver, id, label, name, scope, type,
// dangling), for GET /networks.
func (m *Manager) List(f filter.Args) ([]network.Summary, error) {
	if err := f.Validate("dangling", "driver", "id", "label", "name", "scope", "type"); err != nil {
		return nil, err
	}
	dangling, err := f.Bool("dangling", false)
	if err != nil {
		return nil, invalid(`invalid value for filter 'dangling', must be "true" (or "1"), or "false" (or "0")`)
	}
	for _, t := range f["type"] {
		if t != "builtin" && t != "custom" {
			return nil, invalid("invalid filter: 'type'='%s'", t)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := []network.Summary{}
	for _, n := range m.reg.Ordered() {
		kind := "custom"
		if spec.IsPredefined(n.Name) {
			kind = "builtin"
		}
		switch {
		case !f.Exact("driver", n.Driver), !f.Match("id", n.ID), !f.Labels("label", n.Labels), !f.Match("name", n.Name), !f.Exact("scope", "local"), !f.Exact("type", kind):
			continue
		case f.Has("dangling") && dangling != (kind == "custom" && len(m.members(n)) == 0):
			continue
		}
		out = append(out, network.Summary{Network: n.API()})
	}
	return out, nil
}

// Inspect describes one network with its running containers.
func (m *Manager) Inspect(ref string, verbose bool) (*network.Inspect, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.reg.Find(ref)
	if err != nil {
		return nil, err
	}
	out := &network.Inspect{Network: n.API(), Containers: m.members(n)}
	for _, st := range slices.Concat(n.Every(v4), n.Every(v6)) {
		if out.Status == nil {
			out.Status = &network.Status{IPAM: network.IPAMStatus{Subnets: map[netip.Prefix]network.SubnetStatus{}}}
		}
		// What waits in the pool is nobody's yet.
		waiting := m.pool.Held(n, st.Subnet)
		out.Status.IPAM.Subnets[st.Subnet] = network.SubnetStatus{
			IPsInUse:            uint64(st.Addrs.Used() - waiting + st.Addrs.Reserved()),
			DynamicIPsAvailable: saturating(st.Addrs.Available(), uint64(waiting)),
		}
	}
	return out, nil
}

// members are the endpoints of a network by container id. m.mu is held.
func (m *Manager) members(n *segment.Segment) map[string]network.EndpointResource {
	out := map[string]network.EndpointResource{}
	for cid, b := range m.boxes {
		ep := b.endpoints[n.ID]
		if ep == nil {
			continue
		}
		r := network.EndpointResource{Name: b.name, EndpointID: ep.EndpointID, MacAddress: ep.MacAddress}
		if m.names != nil {
			r.Name = m.names(cid)
		}
		if ep.IPAddress.IsValid() {
			r.IPv4Address = netip.PrefixFrom(ep.IPAddress, ep.IPPrefixLen)
		}
		if ep.GlobalIPv6Address.IsValid() {
			r.IPv6Address = netip.PrefixFrom(ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen)
		}
		out[cid] = r
	}
	return out
}

func saturating(a, b uint64) uint64 {
	if a+b < a {
		return ^uint64(0)
	}
	return a + b
}
