package network

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/dns"
	"github.com/wherry-engine/wherry/internal/network/resolv"
)

// nameServer is where containers of user-defined networks ask, as docker's.
const nameServer = "127.0.0.11"

// dialTimeout bounds connecting to a server for what is not ours.
const dialTimeout = 4 * time.Second

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

// resolver answers one container's questions.
type resolver struct {
	m         *Manager
	container string
	ns        *os.File // the container's namespace
	own       []netip.Addr
	server    *dns.Server
}

// Lookup implements dns.Names over the networks of the container.
func (r *resolver) Lookup(name string) ([]netip.Addr, bool) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	b := r.m.boxes[r.container]
	if b == nil {
		return nil, false
	}
	for nid := range b.endpoints {
		n := r.m.reg.nets[nid]
		if n == nil || isPredefined(n.Name) {
			continue
		}
		if list := n.directory.Lookup(linked(b.endpoints[nid], name)); len(list) > 0 {
			return list, true
		}
		if short, ok := strings.CutSuffix(name, "."+strings.ToLower(n.Name)); ok {
			if list := n.directory.Lookup(linked(b.endpoints[nid], short)); len(list) > 0 {
				return list, true
			}
		}
	}
	return nil, false
}

// linked is the name behind one that an endpoint's links give, else the same.
func linked(ep *network.EndpointSettings, name string) string {
	for _, l := range ep.Links {
		if target, alias, ok := strings.Cut(l, ":"); ok && strings.EqualFold(alias, name) {
			if len(target) == 64 {
				target = id.Short(target) // the directory has the short ones
			}
			return strings.ToLower(target)
		}
	}
	return name
}

// Reverse implements dns.Names.
func (r *resolver) Reverse(a netip.Addr) string {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if b := r.m.boxes[r.container]; b != nil {
		for nid := range b.endpoints {
			if n := r.m.reg.nets[nid]; n != nil && n.directory.Name(a) != "" {
				return n.directory.Name(a) + "." + n.Name
			}
		}
	}
	return ""
}

// Upstreams implements dns.Names: the container's own servers, asked from
// where it is, else the engine's or the host's, asked from the host. A
// container of internal networks alone has only its own.
func (r *resolver) Upstreams() []dns.Upstream {
	var out []dns.Upstream
	for _, a := range r.own {
		out = append(out, dns.Upstream{Addr: netip.AddrPortFrom(a, 53), Dial: r.dialInside})
	}
	if len(out) > 0 || r.secluded() {
		return out
	}
	servers := r.m.cfg.DNS
	if len(servers) == 0 {
		servers = resolv.HostServers()
	}
	for _, a := range servers {
		out = append(out, dns.Upstream{Addr: netip.AddrPortFrom(a, 53), Dial: func(network string, to netip.AddrPort) (net.Conn, error) {
			return net.DialTimeout(network, to.String(), dialTimeout)
		}})
	}
	return out
}

// secluded reports whether all networks of the container are internal.
func (r *resolver) secluded() bool {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	b := r.m.boxes[r.container]
	if b == nil {
		return true
	}
	for nid := range b.endpoints {
		if n := r.m.reg.nets[nid]; n != nil && !n.Internal {
			return false
		}
	}
	return true
}

// dialInside connects from the container's namespace.
func (r *resolver) dialInside(network string, to netip.AddrPort) (net.Conn, error) {
	var c net.Conn
	err := rtnl.Enter(r.m.home, r.ns, func(*rtnl.Conn) (err error) {
		// To an address that is not a name, the dialler makes its socket on
		// this goroutine, and so on this thread.
		c, err = (&net.Dialer{Timeout: dialTimeout}).Dial(network, to.String())
		return err
	})
	return c, err
}

// newResolver starts the name service in a container's namespace.
func newResolver(m *Manager, container string, ns *os.File, own []netip.Addr) (*resolver, error) {
	r := &resolver{m: m, container: container, own: own}
	var err error
	if r.ns, err = dupFile(ns); err != nil {
		return nil, err
	}
	if r.server, err = dns.ServeIn(m.home, ns, nameServer, r); err != nil {
		r.ns.Close()
		return nil, fmt.Errorf("name service: %w", err)
	}
	return r, nil
}

func (r *resolver) close() {
	if r != nil {
		r.server.Close()
		r.ns.Close()
	}
}

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
			n.leave(ep)
			n.join(b, ep)
		}
	}
}

// join makes an endpoint known on its network.
func (n *segment) join(b *box, ep *network.EndpointSettings) {
	if isPredefined(n.Name) || !ep.IPAddress.IsValid() {
		return
	}
	ep.DNSNames = dnsNames(b.identity, ep.Aliases)
	n.directory.Add(ep.DNSNames, ep.IPAddress)
}

// leave is the reverse of join.
func (n *segment) leave(ep *network.EndpointSettings) {
	n.directory.Remove(ep.IPAddress)
}
