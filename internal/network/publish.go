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
	"github.com/wherry-engine/wherry/internal/network/segment"
	"github.com/wherry-engine/wherry/internal/network/spec"
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
	rules  map[string][]firewall.Publication // by container id, or by link; "" for those of an earlier engine
	links  map[string][]string               // keys of rules, by the ids of a link's ends
	six    func() bool                       // the host can listen on IPv6

	warnings []string // what stands in the way of containers' traffic
	older    []string // the same, of iptables-legacy, when it was last logged
}

func newPublished(cfg *Config, nf *nft.Conn, rt *rtnl.Conn, state func() firewall.State) *published {
	return &published{
		cfg: cfg, nf: nf, rt: rt, state: state,
		table: portmap.New(), leases: map[string][]*portmap.Lease{}, rules: map[string][]firewall.Publication{}, links: map[string][]string{},
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
	there, err := p.nf.Exists(p.cfg.Table())
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
		return cmp.Or(a.HostIP.Compare(b.HostIP), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.HostPort, b.HostPort), a.IP.Compare(b.IP), cmp.Compare(a.Port, b.Port))
	})
	return out
}

// job is one port to be opened.
type job struct {
	port    network.Port
	binding network.PortBinding
}

func jobsOf(ports network.PortMap) []job {
	var jobs []job
	for port, bindings := range ports {
		for _, b := range bindings {
			jobs = append(jobs, job{port, b})
		}
	}
	return jobs
}

// publish opens the ports of a request to the container's address and returns
// NetworkSettings.Ports: every exposed port, with what was chosen.
func (p *published) publish(r Request, d door) (network.PortMap, error) {
	out := network.PortMap{}
	for port := range r.Exposed {
		out[port] = nil
	}
	for port := range r.Ports {
		out[port] = nil
	}
	jobs := jobsOf(r.Ports)
	if r.PublishAll {
		for port := range out {
			if len(r.Ports[port]) == 0 {
				jobs = append(jobs, job{port, network.PortBinding{}})
			}
		}
	}
	if len(jobs) == 0 || d.seg == [2]*segment.Segment{} {
		return out, nil
	}
	leases, err := p.open(r.ContainerName, d, jobs, out)
	if err == nil {
		if err = p.setRules(r.ContainerID, p.rulesOf(d, out)); err != nil {
			err = failedOn(r.ContainerName, d, err)
		}
	}
	if err == nil {
		err = p.hairpin(d.veth)
	}
	if err != nil {
		closeAll(leases)
		return nil, err
	}
	p.mu.Lock()
	p.leases[r.ContainerID] = leases
	p.mu.Unlock()
	return out, nil
}

func failedOn(container string, d door, err error) error {
	return fmt.Errorf("driver failed programming external connectivity on endpoint %s (%s): %w", container, d.endpoint, err)
}

func closeAll(leases []*portmap.Lease) {
	for _, l := range leases {
		l.Close()
	}
}

// open takes ports of the host and adds to out what was chosen; nothing is
// taken when it fails. The rules are the caller's.
func (p *published) open(container string, d door, jobs []job, out network.PortMap) (leases []*portmap.Lease, err error) {
	defer func() {
		if err != nil {
			closeAll(leases)
			leases = nil
		}
	}()
	// Fixed ports first, so that no random choice takes one of them.
	slices.SortStableFunc(jobs, func(a, b job) int {
		fixed := func(j job) int {
			return map[bool]int{true: 0, false: 1}[j.binding.HostPort != "" && j.binding.HostPort != "0"]
		}
		return cmp.Or(cmp.Compare(fixed(a), fixed(b)), cmp.Compare(a.port.Num(), b.port.Num()), cmp.Compare(a.port.Proto(), b.port.Proto()), cmp.Compare(a.binding.HostPort, b.binding.HostPort))
	})
	for _, j := range jobs {
		lo, hi, err := hostPorts(j.binding.HostPort)
		if err != nil {
			return leases, err
		}
		ips, routed := p.hostIPs(d, j.binding.HostIP)
		for _, ip := range routed {
			out[j.port] = append(out[j.port], network.PortBinding{HostIP: ip})
		}
		if len(ips) == 0 {
			if len(routed) == 0 {
				// No error, as with docker: another network of the container may be the one
				// that has the family.
				logger().Warn("a port is not published: the container has no address of the family of the host's address",
					"container", container, "port", j.port.String(), "address", j.binding.HostIP)
			}
			continue
		}
		l, err := p.table.Reserve(p.want(d, j.port, ips, lo, hi))
		if err != nil {
			return leases, failedOn(container, d, err)
		}
		leases = append(leases, l)
		for _, ip := range l.IPs {
			out[j.port] = append(out[j.port], network.PortBinding{HostIP: ip, HostPort: strconv.Itoa(int(l.Port))})
		}
	}
	return leases, nil
}

// rulesOf are the rules for ports that lead to a door, each with what was
// chosen on the host.
func (p *published) rulesOf(d door, ports network.PortMap) []firewall.Publication {
	var rules []firewall.Publication
	for port, bindings := range ports {
		if len(bindings) > 0 {
			rules = append(rules, p.openings(d, port)...)
		}
		for _, b := range bindings {
			if num, err := strconv.ParseUint(b.HostPort, 10, 16); err == nil {
				rules = append(rules, p.translations(d, port, b.HostIP, uint16(num))...)
			}
		}
	}
	return unique(rules)
}

// want is what is asked of the port table for a port that leads to a door.
func (p *published) want(d door, port network.Port, ips []netip.Addr, lo, hi uint16) portmap.Want {
	w := portmap.Want{Proto: string(port.Proto()), IPs: ips, Lo: lo, Hi: hi, Proxy: p.cfg.UserlandProxy || p.cfg.HostPolicy}
	for f, a := range d.addr {
		if a.IsValid() {
			w.Targets[f] = netip.AddrPortFrom(a, port.Num())
		}
	}
	return w
}

// translations are the rules for a port of an address of the host. What arrives
// for an address of the other family, the socket carries.
func (p *published) translations(d door, port network.Port, host netip.Addr, hostPort uint16) []firewall.Publication {
	a := d.addr[segment.FamilyOf(host)]
	if !a.IsValid() || p.cfg.HostPolicy {
		return nil
	}
	return []firewall.Publication{{Proto: string(port.Proto()), HostIP: host, HostPort: hostPort, IP: a, Port: port.Num()}}
}

// openings are the rules for a port that can be reached at the container's own
// addresses.
func (p *published) openings(d door, port network.Port) []firewall.Publication {
	var out []firewall.Publication
	for f, n := range d.seg {
		if n != nil && (p.cfg.DirectRouting || len(n.Trusted()) > 0 || n.Mode(f == int(v6)) == spec.Routed) {
			out = append(out, firewall.Publication{Proto: string(port.Proto()), IP: d.addr[f], Port: port.Num()})
		}
	}
	return out
}

func unique(list []firewall.Publication) []firewall.Publication {
	var out []firewall.Publication
	for _, r := range list {
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// hairpin lets a container reach its own published port. Where bridged packets
// pass the rules (br_netfilter), one to such a port is turned round inside the
// bridge, which a port refuses by default.
func (p *published) hairpin(veth string) error {
	if on, err := rtnl.ReadSysctl("net/bridge/bridge-nf-call-iptables"); err != nil || on == "0" || veth == "" {
		return nil // without the module there is no such setting
	}
	var b rtnl.Batch
	b.SetHairpin(veth)
	return p.rt.Do(&b)
}

// hostIPs are the addresses of the host that a binding means. Without one, that
// is the network's or the engine's default, and for "every address" IPv6's too
// where the container has it or the userland proxy can carry it. routed are
// those of a family that needs no address of the host: its network is routed.
func (p *published) hostIPs(d door, ip netip.Addr) (ips, routed []netip.Addr) {
	ip = ip.Unmap()
	wanted := []netip.Addr{ip}
	if !ip.IsValid() {
		n := d.seg[v4]
		if n == nil {
			n = d.seg[v6]
		}
		if ip = n.BindIP(); !ip.IsValid() {
			ip = p.cfg.DefaultBindIP
		}
		if !ip.IsValid() {
			ip = netip.IPv4Unspecified()
		}
		wanted = []netip.Addr{ip}
		if ip == netip.IPv4Unspecified() {
			wanted = append(wanted, netip.IPv6Unspecified())
		}
	}
	given := len(wanted) == 1
	for _, a := range wanted {
		f := segment.FamilyOf(a)
		n := d.seg[f]
		carried := f == v6 && d.seg[v4] != nil && d.seg[v4].Mode(false) != spec.Routed && (p.cfg.UserlandProxy || p.cfg.HostPolicy)
		switch {
		case n != nil && n.Mode(f.Six()) == spec.Routed:
			routed = append(routed, a)
		case f == v6 && !given && !p.six(), n == nil && !carried:
		default:
			ips = append(ips, a)
		}
	}
	return ips, routed
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
	err := p.change(without(rules, old), without(old, rules))
	if err != nil {
		if len(old) == 0 {
			delete(p.rules, containerID)
		} else {
			p.rules[containerID] = old
		}
	}
	return err
}

// change writes to the kernel what p.rules had added and removed. p.mu is held.
func (p *published) change(add, remove []firewall.Publication) error {
	// Only what differs: nobody's packets meet a table without their port.
	changes := firewall.Publish(add, remove)
	if p.nf == nil || len(changes) == 0 {
		return nil
	}
	err := p.nf.Update(firewall.Plan(firewall.State{Table: p.cfg.Table()}), changes)
	if err == nil {
		err = forgetFlows(add, remove)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) {
		// Somebody flushed the table, or left something in it: all that differs.
		err = p.replace()
	}
	return err
}

// without gives what is in a and not in b.
func without(a, b []firewall.Publication) []firewall.Publication {
	return slices.DeleteFunc(slices.Clone(a), func(p firewall.Publication) bool { return slices.Contains(b, p) })
}

// forgetFlows lets UDP clients that never pause meet the rules as they are now.
func forgetFlows(lists ...[]firewall.Publication) error {
	var udp []uint16
	for _, list := range lists {
		for _, p := range list {
			switch {
			case p.Proto == "udp" && p.HostPort != 0:
				udp = append(udp, p.HostPort)
			case p.Proto == "udp" && p.From.IsValid():
				udp = append(udp, p.Port)
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
	err := errors.Join(p.setRules(containerID, nil), p.unlink(containerID))
	for _, l := range leases {
		l.Close()
	}
	return err
}

// vacate lets the sockets of a container's ports go; its rules stay until the
// next publish replaces them.
func (p *published) vacate(containerID string) {
	p.mu.Lock()
	leases := p.leases[containerID]
	delete(p.leases, containerID)
	p.mu.Unlock()
	for _, l := range leases {
		l.Close()
	}
}

// claim makes ports of an earlier engine those of a container that was adopted.
func (p *published) claim(containerID string, d door, ports network.PortMap) error {
	var failed []error
	var rules []firewall.Publication
	var leases []*portmap.Lease
	for port, bindings := range ports {
		if len(bindings) > 0 {
			rules = append(rules, p.openings(d, port)...)
		}
		for _, binding := range bindings {
			if binding.HostPort == "" {
				continue // routed
			}
			lo, hi, err := hostPorts(binding.HostPort)
			if err != nil || lo == 0 {
				failed = append(failed, invalid("port %s of container %s: %q", port, containerID, binding.HostPort))
				continue
			}
			host := binding.HostIP.Unmap()
			rules = append(rules, p.translations(d, port, host, lo)...)
			l, err := p.table.Reserve(p.want(d, port, []netip.Addr{host}, lo, hi))
			if err != nil {
				failed = append(failed, err)
				continue
			}
			leases = append(leases, l)
		}
	}
	rules = unique(rules)
	p.mu.Lock()
	inherited, old := p.rules[""], p.rules[containerID]
	p.rules[""] = without(inherited, rules)
	p.rules[containerID] = rules
	p.leases[containerID] = leases
	failed = append(failed, p.change(without(without(rules, inherited), old), without(old, rules)))
	p.mu.Unlock()
	return errors.Join(failed...)
}

// inherit keeps the publications of an earlier engine in the rules until its
// containers have been adopted.
func (p *published) inherit() error {
	if p.nf == nil {
		return nil
	}
	t := firewall.Plan(firewall.State{Table: p.cfg.Table()})
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
