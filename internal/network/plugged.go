package network

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/plugged"
	"github.com/wherry-engine/wherry/internal/network/plumb"
	"github.com/wherry-engine/wherry/internal/network/remote"
	"github.com/wherry-engine/wherry/internal/network/segment"
	"github.com/wherry-engine/wherry/internal/network/spec"
	"github.com/wherry-engine/wherry/internal/network/wiring"
)

// Plugged is what the networks have to do with plugins.
type Plugged struct{ *Manager }

func (m Plugged) open() (err error) {
	dir := ""
	if m.cfg.Root != "" {
		dir = filepath.Join(m.cfg.Root, "network", "endpoints")
	}
	m.plugs, err = plugged.Open(remote.New(m.cfg.Plugins, dir, remote.Patience), &plumb.Fitter{Home: m.home, RT: m.rt})
	return err
}

// Drivers lists the drivers of networks: the engine's own, and plugins that have
// been used or that a network has.
func (m Plugged) Drivers() []string {
	plugins := m.plugs.Names()
	m.mu.Lock()
	for _, n := range m.reg.Nets {
		if n.Plugged() && !slices.Contains(plugins, n.Driver) {
			plugins = append(plugins, n.Driver)
		}
	}
	m.mu.Unlock()
	slices.Sort(plugins)
	return slices.Concat([]string{spec.Bridge, spec.Host, spec.Ipvlan, spec.Macvlan, spec.Null}, plugins)
}

// Adopted says that all containers of an earlier engine were adopted: plugins hear
// of the places of those that were not.
func (m Plugged) Adopted() { go m.plugs.Sweep() }

// owns reports whether a link of the host is the engine's, beside bridges and
// their ports.
func (m Plugged) owns(l rtnl.Link) bool {
	if m.pool.Owns(l.Name) {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.reg.Nets {
		if n.Link == l.Index {
			return true
		}
	}
	return false
}

// places are those of a container on networks of plugins.
type places struct {
	ns *os.File                    // the container's namespace, so that its links can be given back; nil without any
	at map[string]*remote.Endpoint // by network id
}

func (p places) close() {
	if p.ns != nil {
		p.ns.Close()
	}
}

func (p *places) add(more places) {
	if p.at == nil {
		p.at = map[string]*remote.Endpoint{}
	}
	for nid, e := range more.at {
		p.at[nid] = e
	}
	if p.ns == nil {
		p.ns = more.ns
		return
	}
	more.close()
}

// Forget gives the endpoints of a container, by name of the network, without the
// hardware addresses that plugins chose for the run that is over. Those that were
// handed in stay as they are.
func (m Plugged) Forget(eps map[string]*network.EndpointSettings) map[string]*network.EndpointSettings {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := maps.Clone(eps)
	for name, ep := range eps {
		if ep == nil || ep.EndpointID == "" {
			continue
		}
		n, err := m.reg.Find(ep.NetworkID)
		if err != nil || !n.Plugged() {
			continue
		}
		ep = ep.Copy()
		ep.MacAddress = givenMAC(ep)
		out[name] = ep
	}
	return out
}

// givenMAC is the hardware address that a user wished for an endpoint of a plugin.
func givenMAC(ep *network.EndpointSettings) network.HardwareAddr {
	mac, err := net.ParseMAC(ep.DriverOpts[remote.OptMAC])
	if err != nil {
		return nil
	}
	return network.HardwareAddr(mac)
}

func gatewaysOf(ep *network.EndpointSettings) [2]netip.Addr {
	return [2]netip.Addr{ep.Gateway, ep.IPv6Gateway}
}

// exits reports whether a container can leave by an endpoint.
func exits(n *segment.Segment, ep *network.EndpointSettings, f segment.Family) bool {
	if n.Plugged() {
		return gatewaysOf(ep)[f].IsValid()
	}
	return n.Exits(f)
}

// finish tells plugins that a container has its links, and keeps what is
// needed to give them back.
func (m Plugged) finish(ctx context.Context, ns *os.File, wires []*wiring.Wire) (p places, err error) {
	defer func() {
		if err != nil {
			p.close()
			p = places{}
		}
	}()
	for _, w := range wires {
		if w.Plugged == nil {
			continue
		}
		p.add(places{at: map[string]*remote.Endpoint{w.Seg.ID: w.Plugged}})
		if !w.Driven() {
			continue
		}
		if p.ns == nil {
			if p.ns, err = wiring.Duplicate(ns); err != nil {
				return p, err
			}
		}
		if err = m.plugs.Finish(ctx, w.Plugged, w.Device(), w.Gateway[v4] || w.Gateway[v6]); err != nil {
			return p, err
		}
	}
	return p, nil
}

// giveBack takes the links of plugins out of a namespace that nobody will have.
func (m Plugged) giveBack(ns *os.File, wires []*wiring.Wire) {
	for _, w := range wires {
		if w.Driven() {
			w.Plugged.Device = w.Device()
			m.plugs.Warn(w.Seg, m.plugs.GiveBack(ns, w.Plugged))
		}
	}
}

// adopt takes over the place of a running container on a network of
// plugins; open gives its namespace. m.mu is held.
func (m Plugged) adopt(b *box, n *segment.Segment, ep *network.EndpointSettings, open func() (*os.File, error)) error {
	e, err := m.plugs.Adopt(n, ep.EndpointID)
	if err != nil {
		return err
	}
	p := places{at: map[string]*remote.Endpoint{n.ID: e}}
	if e.Driver != "" {
		p.ns, err = open()
	}
	b.plugged.add(p)
	return err
}

// takeOut takes the link of a driver that is a plugin out of a running
// container; it reports whether there is one.
func (m Plugged) takeOut(b *box, n *segment.Segment, exits [2]plumb.Exit) (bool, error) {
	m.mu.Lock()
	e, ns := b.plugged.at[n.ID], b.plugged.ns
	m.mu.Unlock()
	if e == nil || e.Driver == "" {
		return false, nil
	}
	if err := m.plugs.GiveBack(ns, e); err != nil {
		return true, err
	}
	return true, m.pool.Fit.Reroute(ns, exits)
}

// moved tells drivers by which of its links a running container leaves now:
// first those by whose it does not any more, for two may want one port of the
// host. more is a link that the container has in its namespace and that its
// driver has not heard of yet; nil for none.
func (m Plugged) moved(b *box, more *wiring.Wire) {
	b.telling.Lock()
	defer b.telling.Unlock()
	type change struct {
		n *segment.Segment
		e *remote.Endpoint
	}
	var out, in []change
	m.mu.Lock()
	best := [2]*segment.Segment{m.reg.exit(b.endpoints, v4), m.reg.exit(b.endpoints, v6)}
	for f := range best {
		if more != nil && more.Gateway[f] {
			best[f] = more.Seg
		}
	}
	for nid, e := range b.plugged.at {
		n := m.reg.Nets[nid]
		switch by := n != nil && slices.Contains(best[:], n); {
		case e.Driver == "" || by == e.Exit:
		case by:
			in = append(in, change{n, e})
		default:
			out = append(out, change{n, e})
		}
	}
	m.mu.Unlock()
	for _, c := range out {
		m.plugs.Warn(c.n, m.plugs.SetExit(c.e, false))
	}
	for _, c := range in {
		m.plugs.Warn(c.n, m.plugs.SetExit(c.e, true))
	}
}

// leave tells plugins that a running container has left a network.
func (m Plugged) leave(b *box, n *segment.Segment) {
	b.telling.Lock()
	defer b.telling.Unlock()
	m.mu.Lock()
	e := b.plugged.at[n.ID]
	delete(b.plugged.at, n.ID)
	m.mu.Unlock()
	m.plugs.Warn(n, m.plugs.Leave(e))
}

// vacate gives back all that a container has of plugins.
func (m Plugged) vacate(b *box) error {
	b.telling.Lock()
	defer b.telling.Unlock()
	m.mu.Lock()
	p := b.plugged
	b.plugged = places{}
	m.mu.Unlock()
	var failed []error
	for _, e := range p.at {
		failed = append(failed, m.plugs.GiveBack(p.ns, e), m.plugs.Leave(e))
	}
	p.close()
	return errors.Join(failed...)
}
