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
	cfg   *Config
	nf    *nft.Conn // nil with the firewall off
	rt    *rtnl.Conn
	state func() firewall.State // all but the publications

	mu     sync.Mutex
	table  *portmap.Table
	leases map[string][]*portmap.Lease       // by container id
	rules  map[string][]firewall.Publication // by container id; "" for those of an earlier engine
	six    func() bool                       // the host can listen on IPv6
}

func newPublished(cfg *Config, nf *nft.Conn, rt *rtnl.Conn, state func() firewall.State) *published {
	return &published{
		cfg: cfg, nf: nf, rt: rt, state: state,
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

// replace puts the whole table in place in one transaction. p.mu is held.
func (p *published) replace() error {
	if p.nf == nil {
		return nil
	}
	s := p.state()
	s.Publications = p.all()
	return p.nf.Replace(firewall.Plan(s))
}

// assert is replace for who does not hold p.mu.
func (p *published) assert() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.replace()
}

// restore puts the table back when somebody has flushed the host's rules.
func (p *published) restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	there, err := p.nf.Exists(p.cfg.table())
	if err == nil && !there {
		err = p.replace()
	}
	if err != nil {
		logger().Error("restore nftables rules", "error", err)
	}
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
func (p *published) publish(r Request, w *wire) (network.PortMap, error) {
	out := network.PortMap{}
	for port := range r.Exposed {
		out[port] = nil
	}
	type job struct {
		port    network.Port
		binding network.PortBinding
	}
	var jobs []job
	for port, bindings := range r.Ports {
		out[port] = nil
		for _, b := range bindings {
			jobs = append(jobs, job{port, b})
		}
	}
	if r.PublishAll {
		for port := range out {
			if len(r.Ports[port]) == 0 {
				jobs = append(jobs, job{port, network.PortBinding{}})
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
		l, err := p.table.Reserve(portmap.Want{
			Proto: string(j.port.Proto()), IPs: p.hostIPs(w.seg, j.binding.HostIP), Lo: lo, Hi: hi,
			Target: netip.AddrPortFrom(w.addr, j.port.Num()), Proxy: p.cfg.UserlandProxy,
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
	if err := p.setRules(r.ContainerID, rules); err != nil {
		return nil, fmt.Errorf("driver failed programming external connectivity on endpoint %s (%s): %w", r.ContainerName, w.endpoint, err)
	}
	if err := p.hairpin(w); err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.leases[r.ContainerID] = leases
	p.mu.Unlock()
	done = true
	return out, nil
}

// hairpin lets a container reach its own published port. Where bridged packets
// pass the rules (br_netfilter), one to such a port is turned round inside the
// bridge, which a port refuses by default.
func (p *published) hairpin(w *wire) error {
	if on, err := rtnl.ReadSysctl("net/bridge/bridge-nf-call-iptables"); err != nil || on == "0" {
		return nil // without the module there is no such setting
	}
	var b rtnl.Batch
	b.SetHairpin(w.veth)
	return p.rt.Do(&b)
}

// hostIPs are the addresses that a binding means: without one, the network's
// or the engine's default, and for "every address" IPv6's too where the
// userland proxy can carry it.
func (p *published) hostIPs(n *segment, ip netip.Addr) []netip.Addr {
	ip = ip.Unmap()
	if ip.IsValid() {
		return []netip.Addr{ip}
	}
	if a, err := netip.ParseAddr(n.Options[optBindIP]); err == nil {
		ip = a
	} else if p.cfg.DefaultBindIP.IsValid() {
		ip = p.cfg.DefaultBindIP
	} else {
		ip = netip.IPv4Unspecified()
	}
	if ip == netip.IPv4Unspecified() && p.cfg.UserlandProxy && p.six() {
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
func (p *published) setRules(containerID string, rules []firewall.Publication) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.rules[containerID]
	if len(rules) == 0 {
		delete(p.rules, containerID)
	} else {
		p.rules[containerID] = rules
	}
	if p.nf == nil {
		return nil
	}
	changes := firewall.Publish(rules, old)
	if len(changes) == 0 {
		return nil
	}
	err := p.nf.Update(firewall.Plan(firewall.State{Table: p.cfg.table()}), changes)
	if err == nil {
		err = forgetFlows(rules, old)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) {
		// Somebody flushed the table, or left something in it: the whole anew.
		err = p.replace()
	}
	if err != nil {
		if len(old) == 0 {
			delete(p.rules, containerID)
		} else {
			p.rules[containerID] = old
		}
	}
	return err
}

// forgetFlows lets UDP clients that never pause meet the rules as they are now.
func forgetFlows(lists ...[]firewall.Publication) error {
	var udp []uint16
	for _, list := range lists {
		for _, p := range list {
			if p.Proto == "udp" {
				udp = append(udp, p.HostPort)
			}
		}
	}
	if len(udp) == 0 {
		return nil
	}
	return nft.ForgetUDP(udp...)
}

// unpublish closes a container's ports. It is idempotent.
func (p *published) unpublish(containerID string) error {
	p.mu.Lock()
	leases := p.leases[containerID]
	delete(p.leases, containerID)
	p.mu.Unlock()
	// The rules first: nobody else can take the port before they are gone.
	err := p.setRules(containerID, nil)
	for _, l := range leases {
		l.Close()
	}
	return err
}

// claim makes ports of an earlier engine those of a container that was adopted.
func (p *published) claim(containerID string, ip netip.Addr, ports network.PortMap) error {
	var failed []error
	var rules []firewall.Publication
	var leases []*portmap.Lease
	for port, bindings := range ports {
		for _, binding := range bindings {
			lo, hi, err := hostPorts(binding.HostPort)
			if err != nil || lo == 0 {
				failed = append(failed, invalid("port %s of container %s: %q", port, containerID, binding.HostPort))
				continue
			}
			host := binding.HostIP.Unmap()
			if host.Is4() {
				rules = append(rules, firewall.Publication{Proto: string(port.Proto()), HostIP: host, HostPort: lo, IP: ip, Port: port.Num()})
			}
			l, err := p.table.Reserve(portmap.Want{Proto: string(port.Proto()), IPs: []netip.Addr{host}, Lo: lo, Hi: hi, Target: netip.AddrPortFrom(ip, port.Num()), Proxy: p.cfg.UserlandProxy})
			if err != nil {
				failed = append(failed, err)
				continue
			}
			leases = append(leases, l)
		}
	}
	p.mu.Lock()
	p.rules[""] = slices.DeleteFunc(p.rules[""], func(r firewall.Publication) bool { return slices.Contains(rules, r) })
	p.rules[containerID] = rules
	p.leases[containerID] = leases
	failed = append(failed, p.replace())
	p.mu.Unlock()
	return errors.Join(failed...)
}

// inherit keeps the publications of an earlier engine in the rules until its
// containers have been adopted.
func (p *published) inherit() error {
	if p.nf == nil {
		return nil
	}
	t := firewall.Plan(firewall.State{Table: p.cfg.table()})
	found, err := firewall.Read(func(set string) ([]nft.Element, error) { return p.nf.Elements(t, set) })
	if err != nil {
		return err
	}
	if len(found) > 0 {
		p.rules[""] = found
	}
	return nil
}

// disinherit drops what no adopted container has claimed: its container ended
// while no engine ran.
func (p *published) disinherit() error { return p.setRules("", nil) }

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
