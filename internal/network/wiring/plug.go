package wiring

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/network/plugged"
	"github.com/wherry-engine/wherry/internal/network/plumb"
	"github.com/wherry-engine/wherry/internal/network/remote"
	"github.com/wherry-engine/wherry/internal/network/segment"
	"github.com/wherry-engine/wherry/internal/network/spec"
	"github.com/wherry-engine/wherry/internal/undo"
)

// Plug takes the addresses of a link, and its endpoint of plugins.
func (p *Pool) Plug(ctx context.Context, x Wish) (_ *Wire, err error) {
	w := &Wire{Seg: x.Seg, Want: x.Want, mac: x.Want.MacAddress, Endpoint: id.New()}
	defer func() {
		if err != nil {
			p.Undo(w)
		}
	}()
	if plugged.Has(x.Seg) {
		if w.Plugged, err = p.plugs.Begin(ctx, x.Seg, w.Endpoint, net.HardwareAddr(w.mac)); err != nil {
			return nil, err
		}
	}
	for _, f := range segment.Families {
		var given netip.Addr
		if c := x.Want.IPAMConfig; c != nil {
			given = []netip.Addr{c.IPv4Address, c.IPv6Address}[f]
		}
		st := x.Seg.At(given)
		switch {
		case given.IsValid() && w.Driven() && x.Seg.Addressless():
			w.Plugged.Addrs[f] = netip.PrefixFrom(given, given.BitLen()) // a wish, which the driver grants or not
		case given.IsValid() && st.Addrs == nil:
			return nil, invalid("invalid endpoint settings:\nno configured subnet contains IP address %s", given)
		case x.Seg.PluggedIPAM():
			if w.Addrs[f], err = p.plugs.Address(ctx, x.Seg, w.Plugged, f, given); err != nil {
				return nil, err
			}
		case given.IsValid():
			err := st.Addrs.Take(given)
			if err != nil && p.evict(x.Seg, given) {
				err = st.Addrs.Take(given)
			}
			if err != nil {
				return nil, err
			}
			w.Addrs[f] = given
		default:
			if w.Addrs[f], err = x.Seg.Get(f); err != nil {
				return nil, err
			}
		}
	}
	if w.Plugged != nil {
		if err := p.endpoint(ctx, w, x); err != nil {
			return nil, err
		}
	}
	if len(w.mac) == 0 && !w.Driven() {
		w.mac = MACOf(w.Addrs)
	}
	return w, nil
}

// endpoint makes the endpoint of a link known to its driver.
func (p *Pool) endpoint(ctx context.Context, w *Wire, x Wish) error {
	e := w.Plugged
	w.mac = network.HardwareAddr(e.MAC)
	if !w.Driven() {
		return p.plugs.Endpoint(ctx, e, nil, x.Ports)
	}
	for f, a := range w.Addrs {
		if a.IsValid() && !e.Addrs[f].IsValid() {
			e.Addrs[f] = netip.PrefixFrom(a, w.Seg.At(a).Subnet.Bits())
		}
	}
	if len(x.Want.MacAddress) > 0 { // so that it is told from what the driver chooses at the next start, too
		w.Want = w.Want.Copy()
		if w.Want.DriverOpts == nil {
			w.Want.DriverOpts = map[string]string{}
		}
		w.Want.DriverOpts[remote.OptMAC] = w.mac.String()
	}
	if err := p.plugs.Endpoint(ctx, e, x.Want.DriverOpts, x.Ports); err != nil {
		return err
	}
	for f, a := range e.Addrs {
		w.Addrs[f] = a.Addr()
	}
	w.mac = network.HardwareAddr(e.MAC)
	return nil
}

// Undo gives back what Plug took; what plugins say of it is logged.
func (p *Pool) Undo(w *Wire) {
	w.Seg.Free(w.Addrs)
	p.plugs.Warn(w.Seg, p.plugs.Leave(w.Plugged))
}

// Withdraw takes a link out of a namespace in which others stay, if it is in
// there, and sends the default routes by the exits.
func (p *Pool) Withdraw(ns *os.File, w *Wire, exits [2]plumb.Exit) {
	if w.Driven() {
		w.Plugged.Device = w.Device()
		p.plugs.Warn(w.Seg, errors.Join(p.plugs.GiveBack(ns, w.Plugged), p.Fit.Reroute(ns, exits)))
		return
	}
	gone := slices.DeleteFunc(slices.Clone(w.Addrs[:]), func(a netip.Addr) bool { return !a.IsValid() })
	if err := p.Fit.Unplug(ns, gone, exits); err != nil {
		logger().Warn("a link that was not to be stays", "network", w.Seg.Name, "error", err)
	}
}

// Join gives the links of plugins to a namespace.
func (p *Pool) Join(ctx context.Context, ns *os.File, wires []*Wire) error {
	for _, w := range wires {
		if !w.Driven() {
			continue
		}
		if err := p.plugs.Join(ctx, w.Plugged, ns); err != nil {
			return err
		}
	}
	return nil
}

// namespace gives a namespace with a loopback alone; given is one that must be used.
func (p *Pool) namespace(given *os.File) (*os.File, error) {
	if given == nil {
		if ns := p.takeBare(); ns != nil {
			return ns, nil
		}
		return p.Fit.Spawn(nil)
	}
	ns, err := Duplicate(given)
	if err != nil {
		return nil, err
	}
	if err := p.Fit.Enter(ns, nil, true); err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// spawn makes a namespace with these links.
func (p *Pool) spawn(wires []*Wire) (ns *os.File, err error) {
	err = Connect(wires, func(l []*plumb.Link) error {
		ns, err = p.Fit.Spawn(l)
		return err
	})
	return ns, err
}

// obtain gives these links to a namespace that waits, or to a new one. Where
// names are asked for it may have a name service, which is the first wire's then.
func (p *Pool) obtain(ctx context.Context, wires []*Wire, u *undo.Stack) (ns *os.File, err error) {
	var s spare
	if slices.ContainsFunc(wires, func(w *Wire) bool { return !spec.IsPredefined(w.Seg.Name) }) {
		bridged := 0
		for _, w := range wires {
			if w.Seg.Bridged() {
				bridged++
			}
		}
		s = p.takeServed(bridged)
		ns, wires[0].Names = s.ns, s.names
		u.Add(s.names.Close)
	}
	if ns == nil {
		ns = p.takeBare()
	}
	defer func() {
		if err != nil && ns != nil {
			ns.Close()
		}
	}()
	if slices.ContainsFunc(wires, (*Wire).Driven) {
		if ns == nil {
			if ns, err = p.Fit.Spawn(nil); err != nil {
				return nil, err
			}
		}
		if err := p.Join(ctx, ns, wires); err != nil {
			return nil, err
		}
	}
	order(wires)
	err = Connect(wires, func(links []*plumb.Link) error {
		plumb.Use(links, s.pairs)
		if ns != nil {
			return p.Fit.Enter(ns, links, false)
		}
		ns, err = p.Fit.Spawn(links)
		return err
	})
	return ns, err
}

// order gives the links of a new namespace their numbers and the default routes.
func order(wires []*Wire) {
	slots := map[string]int{}
	for _, w := range wires {
		if w.Want.DriverOpts[spec.OptIfName] == "" {
			w.Slot = slots[w.prefix()]
			slots[w.prefix()]++
		}
	}
	for _, f := range segment.Families {
		var best *Wire
		for _, w := range wires {
			if w.Exits(f) && (best == nil || Ahead(w.Seg, w.Want, best.Seg, best.Want)) {
				best = w
			}
		}
		if best != nil {
			best.Gateway[f] = true
		}
	}
}

// Wires makes the namespace of a container and its links; given is one that must
// be used. What it takes is given back by u.
func (p *Pool) Wires(ctx context.Context, given *os.File, wanted []Wish, u *undo.Stack) ([]*Wire, *os.File, error) {
	if len(wanted) == 0 { // it was disconnected from all of them
		ns, err := p.namespace(given)
		return nil, ns, err
	}
	main := wanted[0]
	if main.Seg.Driver == spec.Null {
		ns, err := p.namespace(given)
		return []*Wire{{Seg: main.Seg, Want: main.Want, Endpoint: id.New()}}, ns, err
	}
	plain := len(wanted) == 1 && given == nil && len(main.Want.MacAddress) == 0 && main.Want.IPAMConfig == nil && len(main.Want.DriverOpts) == 0
	if plain && main.Seg.Name == network.NetworkBridge {
		if w := p.take(); w != nil {
			w.Want, w.Endpoint = main.Want, id.New()
			u.Add(func() { w.Seg.Free(w.Addrs) })
			return []*Wire{w}, w.ns, nil
		}
	}
	var wires []*Wire
	for _, x := range wanted {
		w, err := p.Plug(ctx, x)
		if err != nil {
			return nil, nil, err
		}
		u.Add(func() { p.Undo(w) })
		wires = append(wires, w)
	}
	if given == nil {
		ns, err := p.obtain(ctx, wires, u)
		return wires, ns, err
	}
	ns, err := Duplicate(given)
	if err != nil {
		return nil, nil, err
	}
	if err := p.Join(ctx, ns, wires); err != nil {
		ns.Close()
		return nil, nil, err
	}
	order(wires)
	if err := Connect(wires, func(l []*plumb.Link) error { return p.Fit.Enter(ns, l, true) }); err != nil {
		ns.Close()
		return nil, nil, fmt.Errorf("wire network namespace: %w", err)
	}
	return wires, ns, nil
}

// Unplug removes the link with these addresses.
func (p *Pool) Unplug(ns *os.File, addrs [2]netip.Addr, exits [2]plumb.Exit) error {
	gone := slices.DeleteFunc(addrs[:], func(a netip.Addr) bool { return !a.IsValid() })
	return p.Fit.Unplug(ns, gone, exits)
}
