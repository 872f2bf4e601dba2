package network

import (
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/network/dns"
	"github.com/wherry-engine/wherry/internal/network/resolv"
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
		if n := m.reg.nets[nid]; n != nil {
			n.directory.Remove(ep.IPAddress)
			n.join(b, ep)
		}
	}
}

// join makes an endpoint known on its network, and the network to it.
func (n *segment) join(b *box, ep *network.EndpointSettings) {
	if !ep.IPAddress.IsValid() {
		return
	}
	if !isPredefined(n.Name) {
		ep.DNSNames = dnsNames(b.identity, ep.Aliases)
		n.directory.Add(ep.DNSNames, ep.IPAddress)
	}
	n.introduce(b, ep)
}

// introduce tells the container's name service of a network that it is on.
func (n *segment) introduce(b *box, ep *network.EndpointSettings) {
	if n != nil && b.resolver != nil {
		b.resolver.Enter(n.ID, dns.Zone{Network: n.Name, Directory: &n.directory, Links: ep.Links, Internal: n.Internal})
	}
}

// leave is the reverse of join.
func (n *segment) leave(b *box, ep *network.EndpointSettings) {
	n.directory.Remove(ep.IPAddress)
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
