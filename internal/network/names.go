package network

import (
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/network/dns"
	"github.com/wherry-engine/wherry/internal/network/resolv"
	"github.com/wherry-engine/wherry/internal/network/segment"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// nameServer is where containers of user-defined networks ask, as docker's.
const nameServer = "127.0.0.11"

// dnsNames are the names of an endpoint of a user-defined network.
func dnsNames(r identity, aliases []string) []string {
	out := []string{}
	for _, n := range append(append([]string{r.name}, aliases...), id.Short(r.container), r.hostname) {
		if n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// identity is who a container is on its networks.
type identity struct{ container, name, hostname string }

// Rename makes a container known by another name.
func (m *Manager) Rename(containerID, name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.boxes[containerID]
	if b == nil {
		return
	}
	b.name = name
	for nid, ep := range b.endpoints {
		if n := m.reg.Nets[nid]; n != nil {
			forgetNames(n, ep)
			join(n, b, ep)
		}
	}
}

// join makes an endpoint known on its network, and the network to it.
func join(n *segment.Segment, b *box, ep *network.EndpointSettings) {
	if !addressed(ep) {
		return
	}
	if !spec.IsPredefined(n.Name) {
		ep.DNSNames = dnsNames(b.identity, ep.Aliases)
		publishNames(n, ep)
	}
	introduce(n, b, ep)
}

// publishNames makes the names of an endpoint known on its network.
func publishNames(n *segment.Segment, ep *network.EndpointSettings) {
	for _, a := range segment.AddressesOf(ep) {
		if a.IsValid() {
			n.Directory.Add(ep.DNSNames, a)
		}
	}
}

func forgetNames(n *segment.Segment, ep *network.EndpointSettings) {
	for _, a := range segment.AddressesOf(ep) {
		n.Directory.Remove(a)
	}
}

func addressed(ep *network.EndpointSettings) bool {
	return ep.IPAddress.IsValid() || ep.GlobalIPv6Address.IsValid()
}

// introduce tells the container's name service of a network that it is on.
func introduce(n *segment.Segment, b *box, ep *network.EndpointSettings) {
	if n != nil && b.resolver != nil {
		b.resolver.Enter(n.ID, dns.Zone{Network: n.Name, Directory: &n.Directory, Links: ep.Links, Internal: n.Internal})
	}
}

// leave is the reverse of join.
func leave(n *segment.Segment, b *box, ep *network.EndpointSettings) {
	forgetNames(n, ep)
	if b.resolver != nil {
		b.resolver.Leave(n.ID)
	}
}

// forwardTo tells whom the name service asks for what is not ours: the
// configured servers, else the host's as they are at the time.
func forwardTo(configured []netip.Addr) func() []netip.Addr {
	if len(configured) > 0 {
		return func() []netip.Addr { return configured }
	}
	var host resolv.Servers
	return host.Now
}
