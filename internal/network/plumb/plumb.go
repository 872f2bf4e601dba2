// Package plumb owns the links from the host's bridges into network
// namespaces: it makes namespaces, and links, addresses and routes in them.
package plumb

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
)

// Link is a pair: one end a port of a bridge, the other in a namespace.
type Link struct {
	Bridge   string // name of the bridge
	Master   int    // its index
	MTU      int
	Isolated bool         // the port reaches the bridge only
	Device   string       // name of the end in the namespace
	Addr     netip.Prefix // its address
	MAC      net.HardwareAddr
	Gateway  netip.Addr // the default route leads there; invalid for none

	Veth string // name of the host's end, once it is made
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
}

// Spawn makes a namespace with these links.
func (f *Fitter) Spawn(links []*Link) (*os.File, error) {
	return rtnl.Spawn(f.Home, func(ns *os.File, in *rtnl.Conn) error {
		return f.Furnish(ns, in, links, true)
	})
}

// enter links an existing namespace; fresh says that nothing was set in it yet.
func (f *Fitter) Enter(ns *os.File, links []*Link, fresh bool) error {
	return rtnl.Enter(f.Home, ns, func(in *rtnl.Conn) error { return f.Furnish(ns, in, links, fresh) })
}

// Furnish runs inside the namespace: links, addresses, routes and the settings
// that docker gives a container's namespace.
func (f *Fitter) Furnish(ns *os.File, in *rtnl.Conn, links []*Link, fresh bool) (err error) {
	defer func() {
		if err != nil && !fresh { // else they go with the namespace
			f.remove(links)
		}
	}()
	var inner, outer rtnl.Batch
	if fresh {
		if err := defaults(); err != nil {
			return err
		}
		inner.SetUp(rtnl.LoopbackIndex)
	}
	for _, w := range links {
		if err := f.addVeth(ns, w); err != nil {
			return err
		}
		// Before the link comes up, so that no link-local address is ever made.
		err := rtnl.WriteSysctl("net/ipv6/conf/"+w.Device+"/disable_ipv6", "1")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	index := map[string]int{}
	if len(links) > 0 {
		present, err := in.Links()
		if err != nil {
			return err
		}
		for _, l := range present {
			index[l.Name] = l.Index
		}
	}
	for _, w := range links {
		dev := index[w.Device]
		inner.SetUp(dev)
		inner.AddAddr(dev, w.Addr)
		if w.Gateway.IsValid() {
			inner.AddRoute(dev, netip.Prefix{}, w.Gateway)
		}
		inner.Sync(w.Device)
		outer.Sync(w.Veth)
		outer.Sync(w.Bridge) // has a carrier from its first port on
	}
	if err := in.Do(&inner); err != nil {
		return err
	}
	return f.RT.Do(&outer)
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
		}
		return err
	}
}

// remove takes links away again that could not be completed.
func (f *Fitter) remove(links []*Link) {
	for _, l := range links {
		if at, err := f.RT.LinkByName(l.Veth); err == nil {
			var b rtnl.Batch
			b.DelLink(at.Index)
			_ = f.RT.Do(&b) // the first error is the one to tell
		}
	}
}

// NoDefaultRoute removes the IPv4 default routes of the namespace of in.
func NoDefaultRoute(in *rtnl.Conn) error {
	routes, err := in.Routes()
	if err != nil {
		return err
	}
	var b rtnl.Batch
	for _, r := range routes {
		if r.Dst.Bits() == 0 && r.Dst.Addr().Is4() && r.Gateway.IsValid() && r.Table == unix.RT_TABLE_MAIN {
			b.DelRoute(r.Link, netip.Prefix{}, r.Gateway)
		}
	}
	return in.Do(&b)
}

// Unplug removes the link with an address from a namespace and sends the
// default route through gateway, by the link of subnet, if that is valid.
func (f *Fitter) Unplug(ns *os.File, addr netip.Addr, subnet netip.Prefix, gateway netip.Addr) error {
	return rtnl.Enter(f.Home, ns, func(in *rtnl.Conn) error {
		addrs, err := in.Addrs()
		if err != nil {
			return err
		}
		var b rtnl.Batch
		out := 0
		for _, a := range addrs {
			if a.Prefix.Addr() == addr {
				b.DelLink(a.Link)
			} else if gateway.IsValid() && subnet.Contains(a.Prefix.Addr()) {
				out = a.Link
			}
		}
		if out != 0 {
			if err := NoDefaultRoute(in); err != nil {
				return err
			}
			b.AddRoute(out, netip.Prefix{}, gateway)
		}
		return in.Do(&b)
	})
}
