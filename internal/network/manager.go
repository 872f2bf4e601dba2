package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/linux/nft"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/dns"
	"github.com/wherry-engine/wherry/internal/network/firewall"
	"github.com/wherry-engine/wherry/internal/network/forwarding"
	"github.com/wherry-engine/wherry/internal/network/plugged"
	"github.com/wherry-engine/wherry/internal/network/plumb"
	"github.com/wherry-engine/wherry/internal/network/segment"
	"github.com/wherry-engine/wherry/internal/network/spec"
	"github.com/wherry-engine/wherry/internal/network/wiring"
)

// Manager owns the networks of one engine. All methods are safe for concurrent
// use. It acts in the network namespace in which Open was called.
type Manager struct {
	cfg  Config
	home *os.File // the namespace the engine was started in
	rt   *rtnl.Conn
	nf   *nft.Conn // nil with the firewall off
	pool *wiring.Pool

	dns    *dns.Service
	watch  *nft.Watch
	ports  *published // its lock comes before mu
	plugs  *plugged.Drivers
	settle sync.Once // the first Attach: adoption is over

	mu          sync.Mutex
	closed      bool
	reg         register
	boxes       map[string]*box // by container id
	names       func(containerID string) string
	namespaceOf func(containerID string, pid int) (*os.File, error) // of its main process
	host        forwarding.State
}

// box is what a container holds.
type box struct {
	identity
	id        string                               // sandbox id
	resolver  *dns.Client                          // nil without a user-defined network
	endpoints map[string]*network.EndpointSettings // by network id
	veths     map[string]string                    // the host's ends, by network id, as far as they are known
	door      door                                 // where its published ports lead now
	ports     network.PortMap                      // what is published now
	asked     network.PortMap                      // what is to be, with what was chosen
	plugged   places                               // on networks of plugins
	telling   sync.Mutex                           // held while plugins hear of those places
	leaving   bool                                 // its addresses are about to be somebody else's
}

// Open brings up what the configuration asks for: the default bridge, the
// rules, forwarding. What is there already is kept as it is, so that running
// containers notice nothing; their addresses come back with Adopt, which
// belongs before the first Attach.
func Open(_ context.Context, cfg Config) (*Manager, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	m := &Manager{cfg: cfg, reg: register{&segment.Register{Nets: map[string]*segment.Segment{}}}, boxes: map[string]*box{}}
	m.namespaceOf = func(_ string, pid int) (*os.File, error) { return wiring.NamespaceOf(pid) }
	if cfg.Root != "" {
		m.reg.File = filepath.Join(cfg.Root, "network", "networks.json")
	}
	if err := m.open(); err != nil {
		m.shut()
		return nil, err
	}
	return m, nil
}

func (m *Manager) open() error {
	var err error
	if m.home, err = rtnl.Current(); err != nil {
		return err
	}
	m.dns = dns.NewService(m.home, forwardTo(m.cfg.DNS))
	if m.rt, err = rtnl.Dial(); err != nil {
		return err
	}
	for _, dir := range []string{m.cfg.Root, m.cfg.ExecRoot} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(filepath.Join(dir, "network"), 0o700); err != nil {
			return err
		}
	}
	if err := (Plugged{m}).open(); err != nil {
		return err
	}
	if m.host, err = forwarding.Load(m.cfg.ExecRoot); err != nil {
		return err
	}
	if err := m.reg.Load(); err != nil {
		return err
	}
	unlock, err := rtnl.Lock(m.home) // several engines may be starting on this host
	if err != nil {
		return err
	}
	if err = m.bridges().OpenDefault(); err == nil {
		m.bridges().Reopen()
	}
	unlock()
	if err != nil {
		return fmt.Errorf(`error creating default "bridge" network: %w`, err)
	}
	if m.cfg.Firewall {
		if m.nf, err = nft.Dial(m.home); err != nil {
			return err
		}
		m.nf.Own()
	} else if err := noRules(m.home, m.cfg.Table()); err != nil {
		return err
	}
	m.ports = newPublished(&m.cfg, m.nf, m.rt, m.state)
	if err := m.ports.inherit(); err != nil {
		return err
	}
	if m.nf != nil {
		if m.watch, err = nft.NewWatch(); err != nil {
			return err
		}
	}
	if err := m.route(m.cfg.IPv6 || m.reg.Six()); err != nil {
		return err
	}
	if m.watch != nil {
		go m.watch.Run(m.cfg.Table(), m.ports.restore, func() {
			if err := m.ports.pass(); err != nil {
				logger().Warn("the host's firewall has changed", "error", err)
			}
		})
	}
	m.pool = wiring.NewPool(&plumb.Fitter{Home: m.home, RT: m.rt, Owns: Plugged{m}.owns}, m.cfg.PoolSize, func() *segment.Segment {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.reg.ByName(network.NetworkBridge)
	}, func(ns *os.File) (*dns.Client, error) { return m.dns.Open(ns, nameServer, nil) }, m.plugs)
	return nil
}

// route puts the rules in place and lets the host forward packets, those of
// IPv6 too if six says so. The rules come first: between the two this host must
// not be an open router.
func (m *Manager) route(six bool) error {
	wanted := m.cfg.IPForward && m.cfg.BridgeName != "none"
	m.mu.Lock()
	err := m.host.Decide(wanted, wanted && six)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if err := m.assertRules(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.host.Enable()
}

func (m *Manager) bridges() *segment.Host { return segment.NewHost(&m.cfg, m.rt, m.reg.Register) }

// state is what the rules are made from, without the ports.
func (m *Manager) state() firewall.State {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := firewall.State{
		Table: m.cfg.Table(), LocalPublish: !m.cfg.NoLocalPublish, DirectRouting: m.cfg.DirectRouting, Accept: m.cfg.AcceptMark,
		CloseForward: [2]bool{m.host.Before == "0" && !m.cfg.IPForwardOpen, m.host.Before6 == "0" && !m.cfg.IPForwardOpen},
	}
	for _, n := range m.reg.Ordered() {
		if n.Link == 0 || !n.Bridged() {
			continue
		}
		w := firewall.Network{Bridge: n.BridgeName(), ICC: n.ICC(), Internal: n.Internal, Trusted: n.Trusted()}
		for f, st := range n.Stacks {
			six := segment.Family(f).Six()
			w.Stacks[f] = firewall.Stack{Subnet: st.Subnet, Mode: n.Mode(six), Masquerade: n.Masquerade(six), Source: n.HostIP(six)}
		}
		s.Networks = append(s.Networks, w)
	}
	return s
}

// noRules removes what an engine left that still wrote rules. A kernel without
// nftables has none.
func noRules(home *os.File, table string) error {
	c, err := nft.Dial(home)
	if err != nil {
		return nil
	}
	defer c.Close()
	if there, err := c.Exists(table); err != nil || !there {
		return nil
	}
	return c.Delete(table)
}

// assertRules puts the table in place and looks at what others have beside it.
func (m *Manager) assertRules() error {
	if m.nf == nil {
		return nil
	}
	if err := m.ports.assert(); err != nil {
		return err
	}
	return m.ports.pass()
}

// Warnings tells what on this host stands in the way of containers' traffic.
func (m *Manager) Warnings() []string { return m.ports.standing() }

// SetContainers tells how a container's name is found, for the Containers part of
// Inspect, and how the network namespace of its main process is opened. Without it
// the name of the Request is shown, and a namespace is that of whoever has the
// process's number by now.
func (m *Manager) SetContainers(name func(containerID string) string, namespace func(containerID string, pid int) (*os.File, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.names, m.namespaceOf = name, namespace
}

// Refill lets the pool fill up in the background now: the caller has answered
// its client. Without this call it fills once no Attach has come for a while.
func (m *Manager) Refill() { m.pool.Refill() }

// Adopt takes over a container that was started by an earlier engine: its
// addresses are its own again. eps is by network name, as Sandbox.Endpoints was;
// pid is its main process (its namespace is entered only when it must change),
// own its HostConfig.DNS.
func (m *Manager) Adopt(containerID string, eps map[string]*network.EndpointSettings, pid int, own []netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := &box{identity: identity{container: containerID}, endpoints: map[string]*network.EndpointSettings{}}
	if m.names != nil {
		b.name = m.names(containerID)
	}
	named := false
	var failed []error
	for name, ep := range eps {
		n, err := m.reg.Find(name)
		if errdefs.IsNotFound(err) && ep.NetworkID != "" {
			n, err = m.reg.Find(ep.NetworkID)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("adopt container %s: %w", containerID, err))
			continue
		}
		if err := m.pool.Retake(n, ep); err != nil {
			failed = append(failed, fmt.Errorf("adopt container %s: %w", containerID, err))
			continue
		}
		ep = ep.Copy()
		b.endpoints[n.ID] = ep
		if plugged.Has(n) {
			failed = append(failed, Plugged{m}.adopt(b, n, ep, func() (*os.File, error) { return m.namespaceOf(containerID, pid) }))
		}
		if !spec.IsPredefined(n.Name) {
			named = true
			publishNames(n, ep)
		}
	}
	m.boxes[containerID] = b
	if named {
		ns, err := m.namespaceOf(containerID, pid)
		if err == nil {
			b.resolver, err = m.dns.Open(ns, nameServer, own)
			ns.Close()
		}
		for nid, ep := range b.endpoints {
			introduce(m.reg.Nets[nid], b, ep)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// AdoptPorts takes over the published ports of an adopted container, as
// Sandbox.Ports had them. The rules of an earlier engine have stayed in place
// until now; an error means that somebody else holds a port's socket
// meanwhile, and the rules are in place nevertheless.
func (m *Manager) AdoptPorts(containerID string, ports network.PortMap) error {
	m.mu.Lock()
	b := m.boxes[containerID]
	if b == nil {
		m.mu.Unlock()
		return nil
	}
	d := m.reg.door(b)
	b.door, b.ports, b.asked = d, ports, ports
	m.mu.Unlock()
	if d.addr == [2]netip.Addr{} {
		return nil
	}
	return m.ports.claim(containerID, d, ports)
}

// Release gives back what the container held. The links go with its namespace,
// which nobody waits for. A container that holds nothing is no error.
func (m *Manager) Release(_ context.Context, containerID string) error {
	m.mu.Lock()
	if b := m.boxes[containerID]; b != nil {
		b.leaving = true
	}
	m.mu.Unlock()
	err := m.ports.unpublish(containerID)
	m.mu.Lock()
	b := m.boxes[containerID]
	if b == nil {
		m.mu.Unlock()
		return err
	}
	delete(m.boxes, containerID)
	for id, ep := range b.endpoints {
		if n := m.reg.Nets[id]; n != nil {
			leave(n, b, ep)
			n.Free(segment.AddressesOf(ep))
		}
	}
	m.mu.Unlock()
	go b.resolver.Close() // waits for what is being forwarded
	return errors.Join(err, Plugged{m}.vacate(b))
}

// Close stops the background work. With removeHostState it also takes the
// bridges, the rules and the changed host settings away, for an engine that
// leaves nothing behind; containers that still run lose their network.
func (m *Manager) Close(removeHostState bool) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	var resolvers []*dns.Client
	for _, b := range m.boxes {
		resolvers = append(resolvers, b.resolver)
	}
	m.mu.Unlock()
	m.plugs.Stop()
	m.pool.Close()
	if m.watch != nil {
		m.watch.Close()
	}
	m.ports.close()
	for _, r := range resolvers {
		r.Close()
	}
	var failed []error
	if removeHostState {
		failed = append(failed, m.removeHostState())
	}
	m.shut()
	return errors.Join(failed...)
}

func (m *Manager) removeHostState() error {
	var failed []error
	if m.nf != nil {
		failed = append(failed, m.nf.Pass(m.cfg.Table(), nil), m.nf.Delete(m.cfg.Table()))
	}
	for _, n := range m.reg.Ordered() {
		m.bridges().TakeDown(n)
	}
	links, err := m.rt.Links()
	failed = append(failed, err)
	// As long as another engine's bridge is there, it needs the settings too.
	if !slices.ContainsFunc(links, func(l rtnl.Link) bool { return l.Kind == "bridge" && strings.HasPrefix(l.Alias, segment.AliasPrefix) }) {
		failed = append(failed, m.host.Restore())
	}
	return errors.Join(failed...)
}

func (m *Manager) shut() {
	for _, c := range []func(){
		func() {
			if m.rt != nil {
				m.rt.Close()
			}
		},
		func() {
			if m.nf != nil {
				m.nf.Close()
			}
		},
		func() {
			if m.home != nil {
				m.home.Close()
			}
		},
	} {
		c()
	}
}

func logger() *slog.Logger { return slog.With("part", "network") }
