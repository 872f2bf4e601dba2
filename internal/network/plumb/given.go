package plumb

import (
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
)

// Given is the kind of a link that somebody else has made on the host.
const Given = "given"

// Route is one that a link has beside those of its addresses.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr // invalid for one onto the link
}

// take moves a link of the host into a namespace. One that the host itself
// uses, or that others stand on, stays.
func (f *Fitter) take(ns *os.File, l *Link) error {
	links, err := f.RT.Links()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(links, func(x rtnl.Link) bool { return x.Name == l.Source })
	if at < 0 {
		return errdefs.ErrNotFound.WithMessage("no link " + l.Source + " on this host")
	}
	link := links[at]
	why, err := f.hosts(link, links)
	if err != nil {
		return err
	}
	if why != "" {
		return errdefs.ErrPermissionDenied.WithMessage("link " + l.Source + " is the host's own (" + why + "): a container cannot have it")
	}
	if l.renumber = l.MAC != nil && !slices.Equal(l.MAC, link.MAC); l.MAC == nil {
		l.MAC = link.MAC
	}
	var b rtnl.Batch
	b.SetDown(link.Index)
	b.Move(link.Index, int(ns.Fd()), l.Device)
	if err := f.RT.Do(&b); err != nil {
		return fmt.Errorf("move link %s into the container: %w", l.Source, err)
	}
	// Of a pair the other end, and the bridge that it is a port of, are to take note.
	for _, near := range links {
		if near.Index == link.Peer {
			l.Veth = near.Name
			for _, bridge := range links {
				if bridge.Index == near.Master {
					l.Bridge = bridge.Name
				}
			}
		}
	}
	return nil
}

// hosts says why a link is the host's own; "" for one that it does not use.
func (f *Fitter) hosts(link rtnl.Link, links []rtnl.Link) (string, error) {
	switch {
	case link.Index == rtnl.LoopbackIndex:
		return "its loopback", nil
	case link.Kind == "bridge":
		return "a bridge", nil
	case link.Master != 0:
		return "a port of another link", nil
	case f.Owns != nil && f.Owns(link):
		return "another's already", nil
	case slices.ContainsFunc(links, func(x rtnl.Link) bool { return x.Master == link.Index || x.Under == link.Index }):
		return "other links stand on it", nil
	}
	addrs, err := f.RT.Addrs()
	if err != nil {
		return "", err
	}
	for _, a := range addrs {
		if a.Link == link.Index && !(a.Prefix.Addr().Is6() && a.Prefix.Addr().IsLinkLocalUnicast()) {
			return "it has the address " + a.Prefix.String(), nil
		}
	}
	routes, err := f.RT.Routes()
	if err != nil {
		return "", err
	}
	for _, r := range routes {
		if r.Link == link.Index && !r.Dst.Addr().IsLinkLocalUnicast() && !r.Dst.Addr().IsMulticast() {
			return "a route leads by it", nil
		}
	}
	return "", nil
}

// GiveBack moves a link out of a namespace, where it is called device, to the
// host, as name. One that is not there has gone with what it stood on.
func (f *Fitter) GiveBack(ns *os.File, device, name string) error {
	return rtnl.Enter(f.Home, ns, func(in *rtnl.Conn) error { return f.giveBack(in, device, name) })
}

func (f *Fitter) giveBack(in *rtnl.Conn, device, name string) error {
	link, err := in.LinkByName(device)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var b rtnl.Batch
	b.SetDown(link.Index)
	b.Move(link.Index, int(f.Home.Fd()), name)
	return in.Do(&b)
}

// routes are the link's: those onto it first, for others lead by them.
func (l *Link) routes(b *rtnl.Batch, dev int) {
	for _, onto := range []bool{true, false} {
		for _, r := range l.Routes {
			switch {
			case r.Via.IsValid() == onto:
			case r.Dst.Bits() == 0 && onto:
				b.AddDefault(dev, r.Dst.Addr().Is6())
			default:
				b.AddRoute(dev, r.Dst, r.Via)
			}
		}
	}
}
