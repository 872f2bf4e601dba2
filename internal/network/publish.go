package network

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/nft"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/firewall"
	"github.com/wherry-engine/wherry/internal/network/portmap"
)

// published are the ports of all containers: the sockets that hold them and
// their elements in the rules. mu also keeps the rules as a whole from being
// replaced by a plan that is not the newest.
type published struct {
	mu     sync.Mutex
	table  *portmap.Table
	leases map[string][]*portmap.Lease       // by container id
	rules  map[string][]firewall.Publication // by container id; "" for those of an earlier engine
	six    func() bool                       // the host can listen on IPv6
}

func newPublished() *published {
	return &published{
		table: portmap.New(), leases: map[string][]*portmap.Lease{}, rules: map[string][]firewall.Publication{},
		six: sync.OnceValue(listensIPv6),
	}
}

func listensIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}) == nil
}

// all lists the publications. p.mu is held.
func (p *published) all() []firewall.Publication {
	var out []firewall.Publication
	for _, list := range p.rules {
		out = append(out, list...)
	}
	slices.SortFunc(out, func(a, b firewall.Publication) int {
		return cmp.Or(a.HostIP.Compare(b.HostIP), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.HostPort, b.HostPort))
	})
	return out
}

// publish opens the ports of a request to the container's address and returns
// NetworkSettings.Ports: every exposed port, with what was chosen.
func (m *Manager) publish(r Request, w *wire) (network.PortMap, error) {
	out := network.PortMap{}
	for p := range r.Exposed {
		out[p] = nil
	}
	type job struct {
		port    network.Port
		binding network.PortBinding
	}
	var jobs []job
	for p, bindings := range r.Ports {
		out[p] = nil
		for _, b := range bindings {
			jobs = append(jobs, job{p, b})
		}
	}
	if r.PublishAll {
		for p := range out {
			if len(r.Ports[p]) == 0 {
				jobs = append(jobs, job{p, network.PortBinding{}})
			}
		}
	}
	if len(jobs) == 0 || w == nil || w.seg.Internal {
		return out, nil
	}
	// Fixed ports first, so that no random choice takes one of them.
	slices.SortStableFunc(jobs, func(a, b job) int {
		fixed := func(j job) int {
			return map[bool]int{true: 0, false: 1}[j.binding.HostPort != "" && j.binding.HostPort != "0"]
		}
		return cmp.Or(cmp.Compare(fixed(a), fixed(b)), cmp.Compare(a.port.Num(), b.port.Num()), cmp.Compare(a.port.Proto(), b.port.Proto()), cmp.Compare(a.binding.HostPort, b.binding.HostPort))
	})
	var leases []*portmap.Lease
	done := false
	defer func() {
		if !done {
			for _, l := range leases {
				l.Close()
			}
		}
	}()
	var rules []firewall.Publication
	for _, j := range jobs {
		lo, hi, err := hostPorts(j.binding.HostPort)
		if err != nil {
			return nil, err
		}
		l, err := m.ports.table.Reserve(portmap.Want{
			Proto: string(j.port.Proto()), IPs: m.hostIPs(w.seg, j.binding.HostIP), Lo: lo, Hi: hi,
			Target: netip.AddrPortFrom(w.addr, j.port.Num()), Proxy: m.cfg.UserlandProxy,
		})
		if err != nil {
			return nil, fmt.Errorf("driver failed programming external connectivity on endpoint %s (%s): %w", r.ContainerName, w.endpoint, err)
		}
		leases = append(leases, l)
		for _, ip := range l.IPs {
			out[j.port] = append(out[j.port], network.PortBinding{HostIP: ip, HostPort: strconv.Itoa(int(l.Port))})
			if ip.Is4() {
				rules = append(rules, firewall.Publication{Proto: l.Proto, HostIP: ip, HostPort: l.Port, IP: w.addr, Port: j.port.Num()})
			}
		}
	}
	if err := m.setRules(r.ContainerID, rules); err != nil {
		return nil, fmt.Errorf("driver failed programming external connectivity on endpoint %s (%s): %w", r.ContainerName, w.endpoint, err)
	}
	if err := m.hairpin(w); err != nil {
		return nil, err
	}
	m.ports.mu.Lock()
	m.ports.leases[r.ContainerID] = leases
	m.ports.mu.Unlock()
	done = true
	return out, nil
}

// hairpin lets a container reach its own published port. Where bridged packets
// pass the rules (br_netfilter), one to such a port is turned round inside the
// bridge, which a port refuses by default.
func (m *Manager) hairpin(w *wire) error {
	if on, err := readSysctl("net/bridge/bridge-nf-call-iptables"); err != nil || on == "0" {
		return nil // without the module there is no such setting
	}
	var b rtnl.Batch
	b.SetHairpin(w.veth)
	return m.rt.Do(&b)
}

// hostIPs are the addresses that a binding means: without one, the network's
// or the engine's default, and for "every address" IPv6's too where the
// userland proxy can carry it.
func (m *Manager) hostIPs(n *segment, ip netip.Addr) []netip.Addr {
	ip = ip.Unmap()
	if ip.IsValid() {
		return []netip.Addr{ip}
	}
	if a, err := netip.ParseAddr(n.Options[optBindIP]); err == nil {
		ip = a
	} else if m.cfg.DefaultBindIP.IsValid() {
		ip = m.cfg.DefaultBindIP
	} else {
		ip = netip.IPv4Unspecified()
	}
	if ip == netip.IPv4Unspecified() && m.cfg.UserlandProxy && m.ports.six() {
		return []netip.Addr{ip, netip.IPv6Unspecified()}
	}
	return []netip.Addr{ip}
}

// hostPorts reads "", "8080" or "8080-8090".
func hostPorts(s string) (lo, hi uint16, err error) {
	if s == "" {
		return 0, 0, nil
	}
	a, b, ranged := strings.Cut(s, "-")
	if !ranged {
		b = a
	}
	x, err1 := strconv.ParseUint(a, 10, 16)
	y, err2 := strconv.ParseUint(b, 10, 16)
	if err1 != nil || err2 != nil || y < x {
		return 0, 0, invalid("invalid port specification: %q", s)
	}
	return uint16(x), uint16(y), nil
}

// setRules makes the publications of a container in the rules these, in one
// transaction.
func (m *Manager) setRules(containerID string, rules []firewall.Publication) error {
	m.ports.mu.Lock()
	defer m.ports.mu.Unlock()
	old := m.ports.rules[containerID]
	if len(rules) == 0 {
		delete(m.ports.rules, containerID)
	} else {
		m.ports.rules[containerID] = rules
	}
	if m.nf == nil {
		return nil
	}
	changes := firewall.Publish(rules, old)
	if len(changes) == 0 {
		return nil
	}
	err := m.nf.Update(firewall.Plan(firewall.State{}), changes)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) {
		// Somebody flushed the table, or left something in it: the whole anew.
		err = m.replaceRules()
	}
	if err != nil {
		if len(old) == 0 {
			delete(m.ports.rules, containerID)
		} else {
			m.ports.rules[containerID] = old
		}
	}
	return err
}

// unpublish closes a container's ports. It is idempotent.
func (m *Manager) unpublish(containerID string) error {
	m.ports.mu.Lock()
	leases := m.ports.leases[containerID]
	delete(m.ports.leases, containerID)
	m.ports.mu.Unlock()
	// The rules first: nobody else can take the port before they are gone.
	err := m.setRules(containerID, nil)
	for _, l := range leases {
		l.Close()
	}
	return err
}

// AdoptPorts takes over the published ports of an adopted container, as
// Sandbox.Ports had them. The rules of an earlier engine have stayed in place
// until now; an error means that somebody else holds a port's socket
// meanwhile, and the rules are in place nevertheless.
func (m *Manager) AdoptPorts(containerID string, ports network.PortMap) error {
	m.mu.Lock()
	b := m.boxes[containerID]
	var ip netip.Addr
	if b != nil {
		ip = m.entrance(b)
	}
	m.mu.Unlock()
	if !ip.IsValid() {
		return nil
	}
	var failed []error
	var rules []firewall.Publication
	var leases []*portmap.Lease
	for p, bindings := range ports {
		for _, binding := range bindings {
			lo, hi, err := hostPorts(binding.HostPort)
			if err != nil || lo == 0 {
				failed = append(failed, invalid("port %s of container %s: %q", p, containerID, binding.HostPort))
				continue
			}
			host := binding.HostIP.Unmap()
			if host.Is4() {
				rules = append(rules, firewall.Publication{Proto: string(p.Proto()), HostIP: host, HostPort: lo, IP: ip, Port: p.Num()})
			}
			l, err := m.ports.table.Reserve(portmap.Want{Proto: string(p.Proto()), IPs: []netip.Addr{host}, Lo: lo, Hi: hi, Target: netip.AddrPortFrom(ip, p.Num()), Proxy: m.cfg.UserlandProxy})
			if err != nil {
				failed = append(failed, err)
				continue
			}
			leases = append(leases, l)
		}
	}
	m.ports.mu.Lock()
	m.ports.rules[""] = slices.DeleteFunc(m.ports.rules[""], func(p firewall.Publication) bool { return slices.Contains(rules, p) })
	m.ports.rules[containerID] = rules
	m.ports.leases[containerID] = leases
	failed = append(failed, m.replaceRules())
	m.ports.mu.Unlock()
	return errors.Join(failed...)
}

// entrance is the address that a container's published ports lead to.
func (m *Manager) entrance(b *box) netip.Addr {
	var best *segment
	for id := range b.endpoints {
		n := m.nets[id]
		if n == nil || n.link == 0 || n.Internal {
			continue
		}
		if best == nil || b.endpoints[id].GwPriority > b.endpoints[best.ID].GwPriority || n.Name < best.Name {
			best = n
		}
	}
	if best == nil {
		return netip.Addr{}
	}
	return b.endpoints[best.ID].IPAddress
}

// inherit keeps the publications of an earlier engine in the rules until its
// containers have been adopted.
func (m *Manager) inherit() error {
	t := firewall.Plan(firewall.State{})
	found, err := firewall.Read(func(set string) ([]nft.Element, error) { return m.nf.Elements(t, set) })
	if err != nil {
		return err
	}
	if len(found) > 0 {
		m.ports.rules[""] = found
	}
	return nil
}

// disinherit drops what no adopted container has claimed: its container ended
// while no engine ran.
func (m *Manager) disinherit() error { return m.setRules("", nil) }

// close lets the sockets go; the rules stay for the next engine.
func (p *published) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range p.leases {
		for _, l := range list {
			l.Close()
		}
	}
	p.leases = map[string][]*portmap.Lease{}
}
