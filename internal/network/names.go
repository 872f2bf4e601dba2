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
	"github.com/wherry-engine/wherry/internal/linux/nft"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/dns"
	"github.com/wherry-engine/wherry/internal/network/resolv"
)

// nameServer is where containers of user-defined networks ask, as docker's.
const nameServer = "127.0.0.11"

// dialTimeout bounds connecting to a server for what is not ours.
const dialTimeout = 4 * time.Second

// directory finds the endpoints of one network by name and address.
type directory struct {
	names map[string][]netip.Addr // lower case
	addrs map[netip.Addr]string   // the endpoint's first name
}

func (d *directory) add(names []string, a netip.Addr) {
	if d.names == nil {
		d.names, d.addrs = map[string][]netip.Addr{}, map[netip.Addr]string{}
	}
	for _, n := range names {
		n = strings.ToLower(n)
		if !slices.Contains(d.names[n], a) {
			d.names[n] = append(d.names[n], a)
		}
	}
	if len(names) > 0 {
		d.addrs[a] = names[0]
	}
}

func (d *directory) remove(a netip.Addr) {
	delete(d.addrs, a)
	for n, list := range d.names {
		list = slices.DeleteFunc(slices.Clone(list), func(x netip.Addr) bool { return x == a })
		if len(list) == 0 {
			delete(d.names, n)
		} else {
			d.names[n] = list
		}
	}
}

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
		if list := n.directory.names[name]; len(list) > 0 {
			return slices.Clone(list), true
		}
		if short, ok := strings.CutSuffix(name, "."+strings.ToLower(n.Name)); ok {
			if list := n.directory.names[short]; len(list) > 0 {
				return slices.Clone(list), true
			}
		}
	}
	return nil, false
}

// Reverse implements dns.Names.
func (r *resolver) Reverse(a netip.Addr) string {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if b := r.m.boxes[r.container]; b != nil {
		for nid := range b.endpoints {
			if n := r.m.reg.nets[nid]; n != nil && n.directory.addrs[a] != "" {
				return n.directory.addrs[a] + "." + n.Name
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

// serveNames starts the name service in a container's namespace. The sockets
// have ports of the kernel's choice, and a rule in the namespace leads port 53
// of the well-known address there: a program of the container may itself
// listen on port 53 of every address.
func (m *Manager) serveNames(container string, ns *os.File, own []netip.Addr) (*resolver, error) {
	r := &resolver{m: m, container: container, own: own}
	var err error
	if r.ns, err = dupFile(ns); err != nil {
		return nil, err
	}
	var udp net.PacketConn
	var tcp net.Listener
	err = rtnl.Enter(m.home, ns, func(*rtnl.Conn) error {
		var err error
		if udp, err = net.ListenPacket("udp4", nameServer+":0"); err != nil {
			return err
		}
		tcp, err = net.Listen("tcp4", nameServer+":0")
		return err
	})
	if err == nil {
		err = m.leadNames(ns, udp.LocalAddr().(*net.UDPAddr).Port, tcp.Addr().(*net.TCPAddr).Port)
	}
	if err != nil {
		for _, c := range []interface{ Close() error }{udp, tcp, r.ns} {
			if c != nil {
				c.Close()
			}
		}
		return nil, fmt.Errorf("name service: %w", err)
	}
	r.server = dns.Serve(udp, tcp, r)
	return r, nil
}

// leadNames writes the rule of serveNames.
func (m *Manager) leadNames(ns *os.File, udp, tcp int) error {
	c, err := nft.Dial(ns)
	if err != nil {
		return err
	}
	defer c.Close()
	to := func(port int) []string { return []string{nameServer, fmt.Sprint(port)} }
	return c.Replace(&nft.Table{
		Name: "wherry",
		Sets: []nft.Set{{Name: "names", Key: []nft.Type{nft.Proto, nft.Service}, Value: []nft.Type{nft.IPv4, nft.Service}, Elements: []nft.Element{
			{Key: []string{"udp", "53"}, Value: to(udp)}, {Key: []string{"tcp", "53"}, Value: to(tcp)},
		}}},
		Chains: []nft.Chain{{Name: "local", Hook: &nft.Hook{Type: "nat", Point: "output", Priority: -100}, Rules: []nft.Rule{
			nft.R(nft.Is(nft.Dest(), nameServer), nft.DNAT("names", nft.L4Proto(), nft.DestPort())),
		}}},
	})
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
			m.leave(n, ep)
			m.join(n, b, ep)
		}
	}
}

// join makes an endpoint known on its network. m.mu is held.
func (m *Manager) join(n *segment, b *box, ep *network.EndpointSettings) {
	if isPredefined(n.Name) || !ep.IPAddress.IsValid() {
		return
	}
	ep.DNSNames = dnsNames(b.identity, ep.Aliases)
	n.directory.add(ep.DNSNames, ep.IPAddress)
}

// leave is the reverse of join. m.mu is held.
func (m *Manager) leave(n *segment, ep *network.EndpointSettings) {
	n.directory.remove(ep.IPAddress)
}
