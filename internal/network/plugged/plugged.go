// Package plugged owns the networks whose driver is a plugin, or whose
// addresses are a plugin's: what plugins are told of them and of the places
// that containers have on them, and that plugins and engine agree again after
// either was away. Plugins may be slow: nothing here is called with a lock that
// others wait for.
package plugged

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/network/plumb"
	"github.com/wherry-engine/wherry/internal/network/remote"
	"github.com/wherry-engine/wherry/internal/network/segment"
	"github.com/wherry-engine/wherry/internal/undo"
)

// Drivers are the plugins of the networks of one engine. It is safe for
// concurrent use.
type Drivers struct {
	remote *remote.Drivers
	fit    *plumb.Fitter
	ctx    context.Context // ends with Stop
	stop   context.CancelFunc

	mu    sync.Mutex
	stale map[string]*remote.Endpoint   // of before the engine's start, by endpoint id, that nobody has adopted
	alive map[string][]*remote.Endpoint // adopted, by network id, until the network is revived
	seen  map[string]*sync.Once         // networks that were revived since the engine's start
}

// Open reads what plugins hold from an engine before.
func Open(r *remote.Drivers, fit *plumb.Fitter) (*Drivers, error) {
	d := &Drivers{remote: r, fit: fit, alive: map[string][]*remote.Endpoint{}, seen: map[string]*sync.Once{}}
	d.ctx, d.stop = context.WithCancel(context.Background())
	var err error
	d.stale, err = r.Held()
	return d, err
}

// Stop ends what is asked of plugins on the engine's own account.
func (d *Drivers) Stop() { d.stop() }

// Names lists the network drivers that have been used.
func (d *Drivers) Names() []string { return d.remote.Names() }

// Has reports whether plugins have to do with a network.
func Has(n *segment.Segment) bool { return n.Plugged() || n.PluggedIPAM() }

// Pools finds the plugins of a network that is to be made, and asks for its subnets.
func (d *Drivers) Pools(ctx context.Context, n *segment.Segment, u *undo.Stack) error {
	if n.ConfigOnly {
		return nil
	}
	if n.Plugged() {
		if err := d.remote.Check(ctx, n.Driver); err != nil {
			return err
		}
		var err error
		if n.NoGateway, err = d.remote.SkipsGateway(ctx, &n.Network); err != nil {
			return err
		}
	}
	if !n.PluggedIPAM() {
		return nil
	}
	configs := n.IPAM.Config
	n.IPAM.Config = nil
	for _, f := range segment.Families {
		if f == segment.V4 && n.DisableIPv4 || f == segment.V6 && !n.EnableIPv6 {
			continue
		}
		var asked []network.IPAMConfig
		for _, c := range configs {
			if c.Subnet.Addr().Is6() == f.Six() {
				asked = append(asked, c)
			}
		}
		if len(asked) == 0 {
			asked = []network.IPAMConfig{{}}
		}
		for _, c := range asked {
			pool, err := d.remote.RequestPool(ctx, n.IPAM.Driver, &c, n.IPAM.Options, f.Six(), n.NoGateway[f])
			if err != nil {
				return err
			}
			u.Add(func() { d.Warn(n, d.remote.ReleasePool(d.ctx, n.IPAM.Driver, pool)) })
			n.Pools, n.IPAM.Config = append(n.Pools, pool), append(n.IPAM.Config, c)
		}
	}
	return nil
}

// Create tells the driver of a network that is there now.
func (d *Drivers) Create(ctx context.Context, n *segment.Segment, u *undo.Stack) error {
	if !n.Plugged() || n.ConfigOnly {
		return nil
	}
	d.once(n.ID).Do(func() {}) // nothing is known of it from before
	if err := d.remote.Create(ctx, &n.Network); err != nil {
		return err
	}
	u.Add(func() {
		_, err := d.remote.Delete(d.ctx, n.Driver, n.ID)
		d.Warn(n, err)
	})
	return nil
}

// Remove tells plugins that a network goes. One that is not there any more has
// nothing to say in it; one that is there and does not answer keeps the network.
func (d *Drivers) Remove(ctx context.Context, n *segment.Segment) error {
	if n.ConfigOnly {
		return nil
	}
	d.revive(ctx, n)
	if n.Plugged() {
		gone, err := d.remote.Delete(ctx, n.Driver, n.ID)
		if !gone {
			return err
		}
		d.Warn(n, err)
	}
	for _, pool := range n.Pools {
		d.Warn(n, d.remote.ReleasePool(ctx, n.IPAM.Driver, pool))
	}
	return nil
}

func (d *Drivers) once(nid string) *sync.Once {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen[nid] == nil {
		d.seen[nid] = &sync.Once{}
	}
	return d.seen[nid]
}

// revive brings the plugins of a network to the state of the world, once after
// the engine's start: they hear of the endpoints that went meanwhile, and those
// that have forgotten them of the addresses that are taken.
func (d *Drivers) revive(ctx context.Context, n *segment.Segment) {
	d.once(n.ID).Do(func() {
		d.mu.Lock()
		alive := d.alive[n.ID]
		delete(d.alive, n.ID)
		d.mu.Unlock()
		for _, pool := range n.Pools {
			var taken []netip.Addr
			for _, e := range alive {
				for f, id := range e.Pools {
					if id == pool.ID {
						taken = append(taken, e.Addrs[f].Addr())
					}
				}
			}
			d.Warn(n, d.remote.Replay(ctx, n.IPAM.Driver, pool, n.IPAM.Options, taken))
		}
		d.bury(ctx, n.ID)
	})
}

// bury tells plugins of the endpoints of a network that went with an earlier engine.
func (d *Drivers) bury(ctx context.Context, nid string) {
	d.mu.Lock()
	var gone []*remote.Endpoint
	for id, e := range d.stale {
		if e.Network == nid {
			gone = append(gone, e)
			delete(d.stale, id)
		}
	}
	d.mu.Unlock()
	for _, e := range gone {
		if err := d.remote.Leave(ctx, e); err != nil {
			logger().Warn("an endpoint of before the engine's start", "network", nid, "error", err)
		}
	}
}

// Sweep tells plugins of all that nobody has adopted.
func (d *Drivers) Sweep() {
	d.mu.Lock()
	nets := map[string]bool{}
	for _, e := range d.stale {
		nets[e.Network] = true
	}
	d.mu.Unlock()
	for nid := range nets {
		d.bury(d.ctx, nid)
	}
}

// Warn logs what plugins said of something that is done nevertheless.
func (d *Drivers) Warn(n *segment.Segment, err error) {
	if err != nil {
		logger().Warn("a plugin of a network", "network", n.Name, "error", err)
	}
}

// Begin makes the endpoint of a link on a network that plugins have to do with;
// mac is what it must have, nil for any.
func (d *Drivers) Begin(ctx context.Context, n *segment.Segment, id string, mac net.HardwareAddr) (*remote.Endpoint, error) {
	d.revive(ctx, n)
	e := &remote.Endpoint{ID: id, Network: n.ID}
	if len(mac) > 0 {
		e.MAC = mac
	}
	if n.Plugged() {
		e.Driver = n.Driver
	}
	if !n.PluggedIPAM() {
		return e, nil
	}
	e.IPAM = n.IPAM.Driver
	needs, err := d.remote.NeedsMAC(ctx, e.IPAM)
	if e.TellMAC = needs; needs && e.MAC == nil {
		e.MAC = make(net.HardwareAddr, 6)
		rand.Read(e.MAC)
		e.MAC[0] = e.MAC[0]&^1 | 2 // locally administered, not a group
	}
	return e, err
}

// Address asks for an address of an endpoint, which must be nobody's here either.
func (d *Drivers) Address(ctx context.Context, n *segment.Segment, e *remote.Endpoint, f segment.Family, given netip.Addr) (netip.Addr, error) {
	var failed error
	for _, st := range n.Every(f) {
		pool := n.PoolOf(st.Subnet)
		if pool == nil || given.IsValid() && !st.Subnet.Contains(given) {
			continue
		}
		at, err := d.remote.RequestFor(ctx, e, int(f), pool, given)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		if err := st.Addrs.Take(at.Addr()); err != nil {
			// Whoever has it keeps it: it is not given back.
			e.Pools[f], e.Addrs[f] = "", netip.Prefix{}
			return netip.Addr{}, fmt.Errorf("plugin %s gives the address %s: %w", e.IPAM, at.Addr(), err)
		}
		return at.Addr(), nil
	}
	return netip.Addr{}, failed
}

// Endpoint makes an endpoint known to its driver, which is told of the
// container's ports and of the options.
func (d *Drivers) Endpoint(ctx context.Context, e *remote.Endpoint, options map[string]string, ports remote.Ports) error {
	if e.Driver == "" {
		return d.remote.Note(e)
	}
	e.Options = remote.Options(options, e.MAC, ports)
	return d.remote.CreateEndpoint(ctx, e)
}

// Join gives an endpoint to a namespace.
func (d *Drivers) Join(ctx context.Context, e *remote.Endpoint, ns *os.File) error {
	return d.remote.Join(ctx, e, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()))
}

// Finish tells a driver that a container has its link, called device there.
func (d *Drivers) Finish(ctx context.Context, e *remote.Endpoint, device string, exit bool) error {
	e.Device = device
	return d.remote.Program(ctx, e, exit)
}

// SetExit tells a driver whether the container leaves by an endpoint.
func (d *Drivers) SetExit(e *remote.Endpoint, exit bool) error {
	if exit {
		return d.remote.Program(d.ctx, e, true)
	}
	return d.remote.SetExit(d.ctx, e, false)
}

// Adopt takes over the place of a running container on a network.
func (d *Drivers) Adopt(n *segment.Segment, id string) (*remote.Endpoint, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.stale[id]
	if e == nil {
		return nil, fmt.Errorf("network %s: nothing is known of the endpoint %s of a plugin", n.Name, id)
	}
	delete(d.stale, id)
	d.alive[n.ID] = append(d.alive[n.ID], e)
	return e, nil
}

// GiveBack takes the link of an endpoint out of a container's namespace.
func (d *Drivers) GiveBack(ns *os.File, e *remote.Endpoint) error {
	if ns == nil || e.Link == "" {
		return nil
	}
	return d.fit.GiveBack(ns, e.Device, e.Link)
}

// Leave takes an endpoint away; nil is none.
func (d *Drivers) Leave(e *remote.Endpoint) error {
	if e == nil {
		return nil
	}
	d.mu.Lock()
	for nid, list := range d.alive {
		for i, other := range list {
			if other == e {
				d.alive[nid] = append(list[:i:i], list[i+1:]...)
			}
		}
	}
	d.mu.Unlock()
	return d.remote.Leave(d.ctx, e)
}

func logger() *slog.Logger { return slog.With("part", "network") }
