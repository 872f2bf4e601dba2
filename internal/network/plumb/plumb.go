// Package plumb owns the links from the host's networks into network
// namespaces: it makes namespaces, and links, addresses and routes in them.
package plumb

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// Link is one link of a namespace: the far end of a pair whose near end is a
// port of a bridge, or a sublink of a parent.
type Link struct {
	Kind     string // spec.Bridge, spec.Macvlan, spec.Ipvlan, Given
	Source   string // name on the host of a given link
	Bridge   string // name of the bridge
	Master   int    // index of the bridge or of the parent
	Mode     string // of a macvlan or ipvlan link
	Flag     string // of an ipvlan link
	MTU      int
	Isolated bool             // the port reaches the bridge only
	Device   string           // name of the end in the namespace; "eth*" is the first eth<n> that is free
	Addrs    []netip.Prefix   // its addresses
	MAC      net.HardwareAddr // of a given link nil for its own, which is here then
	Gateways []netip.Addr     // default routes lead there, one for each family at most
	OnLink   [2]bool          // default routes of IPv4 and IPv6 lead onto the link itself
	Routes   []Route          // others
	Sysctls  []spec.Sysctl

	Veth string // name of the host's end, once it is made

	pair     *Pair // was made ahead; nil for none
	renumber bool  // a given link is to have another MAC address
}

// six reports whether the link has an IPv6 address.
func (l *Link) six() bool {
	return slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

func vethName() string {
	var b [4]byte
	rand.Read(b[:])
	return "veth" + hex.EncodeToString(b[:])[:7]
}

// Fitter makes namespaces and their links.
type Fitter struct {
	Home *os.File   // the namespace of the bridges
	RT   *rtnl.Conn // a socket there

	// Owns reports whether a link of the host is the engine's, beside bridges and
	// their ports; nil for none.
	Owns func(rtnl.Link) bool
}

// Spawn makes a namespace with these links.
func (f *Fitter) Spawn(links []*Link) (*os.File, error) {
	return rtnl.Spawn(f.Home, func(ns *os.File, in *rtnl.Conn) error {
		return f.Furnish(ns, in, links, true)
	})
}

// Enter links an existing namespace; fresh says that nothing was set in it yet.
func (f *Fitter) Enter(ns *os.File, links []*Link, fresh bool) error {
	return rtnl.Enter(f.Home, ns, func(in *rtnl.Conn) error { return f.Furnish(ns, in, links, fresh) })
}

// Furnish runs inside the namespace: links, addresses, routes and the settings
// that docker gives a container's namespace.
func (f *Fitter) Furnish(ns *os.File, in *rtnl.Conn, links []*Link, fresh bool) (err error) {
	var made []*Link
	defer func() {
		if err != nil {
			f.remove(in, made, fresh)
		}
	}()
	var inner, outer rtnl.Batch
	if fresh {
		if err := defaults(); err != nil {
			return err
		}
		inner.SetUp(rtnl.LoopbackIndex)
	}
	index := map[string]int{}
	for _, l := range links {
		if l.pair != nil {
			if err := f.adopt(in, l); err != nil {
				return err
			}
			index[l.Device] = l.pair.index
		}
	}
	for _, l := range links {
		if l.pair == nil {
			if err := f.add(ns, l); err != nil {
				return err
			}
			made = append(made, l)
		}
		if l.pair == nil || l.six() {
			if err := l.settings(); err != nil {
				return err
			}
		}
	}
	if len(made) > 0 {
		present, err := in.Links()
		if err != nil {
			return err
		}
		for _, l := range present {
			index[l.Name] = l.Index
		}
	}
	for _, l := range links {
		dev := index[l.Device]
		if l.renumber {
			inner.SetIdentity(dev, rtnl.Identity{Name: l.Device, MAC: l.MAC})
		}
		switch l.Kind {
		case spec.Macvlan:
			err = patiently(in, "the MAC address is used by another link of the same parent", func(b *rtnl.Batch) { b.SetUp(dev) })
		case spec.Ipvlan:
			for _, a := range l.Addrs {
				if err == nil {
					err = patiently(in, "address "+a.Addr().String()+" is used by another link of the same parent", func(b *rtnl.Batch) { b.AddAddr(dev, a) })
				}
			}
		}
		if err != nil {
			return err
		}
		inner.SetUp(dev)
		for _, a := range l.Addrs {
			if l.Kind != spec.Ipvlan {
				inner.AddAddr(dev, a)
			}
		}
		l.routes(&inner, dev)
		for _, g := range l.Gateways {
			inner.AddRoute(dev, netip.Prefix{}, g)
		}
		for f, on := range l.OnLink {
			if on {
				inner.AddDefault(dev, f == 1)
			}
		}
		inner.Sync(l.Device)
		if l.Veth != "" {
			outer.Sync(l.Veth)
		}
		if l.Bridge != "" {
			outer.Sync(l.Bridge) // has a carrier from its first port on
		}
	}
	if err := in.Do(&inner); err != nil {
		return err
	}
	if err := f.RT.Do(&outer); err != nil {
		return err
	}
	for _, l := range links {
		for _, s := range l.Sysctls {
			if err := rtnl.WriteSysctl(s.Path, s.Value); err != nil {
				return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("failed to set sysctl %s=%s of %s: %v", s.Path, s.Value, l.Device, err))
			}
		}
	}
	return nil
}

// patiently does for a sublink what its parent allows one of them at a time: a
// parent knows a macvlan link's hardware address once, and an ipvlan link's
// addresses. That of a link whose namespace is just being taken down is free in a
// moment, of which the kernel tells nobody here.
func patiently(in *rtnl.Conn, taken string, fill func(b *rtnl.Batch)) error {
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		var b rtnl.Batch
		fill(&b)
		err := in.Do(&b)
		if !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
		if time.Since(begin) > 3*time.Second {
			return errdefs.ErrConflict.WithMessage(taken)
		}
	}
}

// settings are made before the link comes up, so that a link without IPv6 never
// gets a link-local address, and one with it uses its own at once.
func (l *Link) settings() error {
	values := [][2]string{{"disable_ipv6", "1"}}
	if l.six() {
		values = [][2]string{{"disable_ipv6", "0"}, {"accept_dad", "0"}, {"dad_transmits", "0"}, {"ndisc_notify", "1"}}
		if l.Kind == spec.Bridge {
			// A neighbour on the bridge is no router.
			values = append(values, [2]string{"accept_ra", "0"})
		}
	}
	for _, v := range values {
		err := rtnl.WriteSysctl("net/ipv6/conf/"+l.Device+"/"+v[0], v[1])
		if errors.Is(err, fs.ErrNotExist) && l.six() {
			return errdefs.ErrUnavailable.WithMessage("IPv6 is not available in this kernel")
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// defaults are what docker sets in every private network namespace: programs
// without privileges may open low ports and ping.
func defaults() error {
	for path, value := range map[string]string{
		"net/ipv4/ip_unprivileged_port_start": "0",
		"net/ipv4/ping_group_range":           "0 2147483647",
	} {
		// A namespace of another user namespace does not know all group ids.
		err := rtnl.WriteSysctl(path, value)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EACCES) {
			return err
		}
	}
	return nil
}

// add creates the link; its end in the namespace is down.
func (f *Fitter) add(ns *os.File, l *Link) error {
	var b rtnl.Batch
	s := rtnl.Sublink{Name: l.Device, Parent: l.Master, MAC: l.MAC, MTU: l.MTU, NS: int(ns.Fd())}
	switch l.Kind {
	case spec.Macvlan:
		b.AddMacvlan(s, l.Mode)
	case spec.Ipvlan:
		b.AddIpvlan(s, l.Mode, l.Flag)
	case Given:
		return f.take(ns, l)
	default:
		return f.addVeth(ns, l)
	}
	err := f.RT.Do(&b)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTSUP):
		return errdefs.ErrNotImplemented.WithMessage("this kernel has no " + l.Kind + " links (modprobe " + l.Kind + ")")
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EINVAL):
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot make a %s link in %s mode: the parent is used in another way (%v)", l.Kind, l.Mode, err))
	}
	return err
}

// addVeth creates the pair; the inner end is down.
func (f *Fitter) addVeth(ns *os.File, w *Link) error {
	for {
		w.Veth = vethName()
		var b rtnl.Batch
		b.AddVeth(rtnl.Veth{
			Name: w.Veth, Master: w.Master, MTU: w.MTU, Isolated: w.Isolated,
			Peer: w.Device, PeerMAC: w.MAC, PeerNS: int(ns.Fd()),
		})
		err := f.RT.Do(&b)
		if errors.Is(err, unix.EEXIST) {
			if _, lookup := f.RT.LinkByName(w.Veth); lookup == nil {
				continue // that name is taken
			}
			return w.deviceTaken()
		}
		return w.portError(err)
	}
}

func (l *Link) deviceTaken() error {
	return errdefs.ErrConflict.WithMessage("interface name " + l.Device + " is already in use in the container")
}

// portError tells of a bridge that has no port left.
func (l *Link) portError(err error) error {
	if errors.Is(err, unix.EXFULL) {
		return errdefs.ErrUnavailable.WithMessage("bridge " + l.Bridge + " is full: the kernel gives a bridge 1,023 ports, one for each running container; put further containers on another network")
	}
	return err
}

// remove takes links away again that could not be completed; from a fresh
// namespace only those that are given, for the others go with it.
func (f *Fitter) remove(in *rtnl.Conn, links []*Link, fresh bool) {
	for _, l := range links {
		if l.Kind == Given {
			_ = f.giveBack(in, l.Device, l.Source) // the first error is the one to tell
			continue
		}
		if fresh {
			continue
		}
		c, name := f.RT, l.Veth
		if name == "" {
			c, name = in, l.Device
		}
		if at, err := c.LinkByName(name); err == nil {
			var b rtnl.Batch
			b.DelLink(at.Index)
			_ = c.Do(&b) // the first error is the one to tell
		}
	}
}

// NoDefaultRoute removes the default routes of an address family from the
// namespace of in.
func NoDefaultRoute(in *rtnl.Conn, six bool) error {
	routes, err := in.Routes()
	if err != nil {
		return err
	}
	var b rtnl.Batch
	for _, r := range routes {
		if r.Dst.Bits() == 0 && r.Dst.Addr().Is6() == six && r.Table == unix.RT_TABLE_MAIN && r.Link != rtnl.LoopbackIndex {
			b.DelDefault(r)
		}
	}
	return in.Do(&b)
}

// Exit is where a default route leads: through Gateway by the link that has
// the address Addr; with OnLink onto that link.
type Exit struct {
	Addr    netip.Addr // invalid for no change
	Gateway netip.Addr
}

// Unplug removes the link with one of the addresses from a namespace and sends
// the default routes by the exits, for IPv4 and IPv6.
func (f *Fitter) Unplug(ns *os.File, gone []netip.Addr, exits [2]Exit) error {
	return rtnl.Enter(f.Home, ns, func(in *rtnl.Conn) error {
		addrs, err := in.Addrs()
		if err != nil {
			return err
		}
		var b rtnl.Batch
		at := slices.IndexFunc(addrs, func(a rtnl.Addr) bool { return slices.Contains(gone, a.Prefix.Addr()) })
		if at >= 0 {
			b.DelLink(addrs[at].Link)
		}
		if err := in.Do(&b); err != nil {
			return err
		}
		return reroute(in, exits)
	})
}

// Reroute sends the default routes of a namespace by the exits.
func (f *Fitter) Reroute(ns *os.File, exits [2]Exit) error {
	return rtnl.Enter(f.Home, ns, func(in *rtnl.Conn) error { return reroute(in, exits) })
}

func reroute(in *rtnl.Conn, exits [2]Exit) error {
	addrs, err := in.Addrs()
	if err != nil {
		return err
	}
	var b rtnl.Batch
	for f, x := range exits {
		if !x.Addr.IsValid() {
			continue
		}
		at := slices.IndexFunc(addrs, func(a rtnl.Addr) bool { return a.Prefix.Addr() == x.Addr })
		if at < 0 {
			continue
		}
		if err := NoDefaultRoute(in, f == 1); err != nil {
			return err
		}
		if x.Gateway.IsValid() {
			b.AddRoute(addrs[at].Link, netip.Prefix{}, x.Gateway)
		} else {
			b.AddDefault(addrs[at].Link, f == 1)
		}
	}
	return in.Do(&b)
}
