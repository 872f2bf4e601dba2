package segment

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// parentName is the link that a macvlan or ipvlan network stands on; without
// one, a link of the network's own that leads nowhere.
func parentName(n *Segment) string {
	if p := n.Options[spec.OptParent]; p != "" {
		return p
	}
	if n.Driver == spec.Macvlan {
		return "dm-" + id.Short(n.ID)
	}
	return "di-" + id.Short(n.ID)
}

// bringUpParent finds or makes the parent of a macvlan or ipvlan network.
func (b *Host) bringUpParent(n *Segment) error {
	name := parentName(n)
	if err := b.shareParent(n, name); err != nil {
		return err
	}
	link, err := b.rt.LinkByName(name)
	switch {
	case err == nil && n.Created.IsZero():
		n.UserParent = true // it was there before the network
	case errdefs.IsNotFound(err):
		if link, err = b.makeParent(n, name); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	if n.Created.IsZero() {
		if err := b.probe(n, link); err != nil {
			if !n.UserParent {
				n.Link = link.Index
				b.TakeDown(n)
			}
			return err
		}
		n.Created = time.Now().UTC()
	}
	n.Link, n.LinkMTU = link.Index, n.MTU()
	if n.LinkMTU == 0 {
		n.LinkMTU = link.MTU
	}
	if err := n.serveAll(); err != nil {
		b.TakeDown(n)
		return err
	}
	return nil
}

// serveAll makes the subnets usable of a network in which the host has no address.
func (n *Segment) serveAll() error {
	n.Stacks, n.Further = [2]Stack{}, [2][]Stack{}
	for _, f := range Families {
		for _, c := range n.Subnets(f.Six()) {
			gateway := c.Gateway
			if n.Internal {
				gateway = netip.Addr{}
			}
			if err := n.serve(f, *c, netip.Addr{}, gateway); err != nil {
				return err
			}
		}
	}
	return nil
}

// probe makes a link of a new ipvlan network and takes it away again: a kernel
// without the driver is better known now than at the first start.
func (b *Host) probe(n *Segment, parent rtnl.Link) error {
	if n.Driver != spec.Ipvlan {
		return nil
	}
	name := "ip" + id.Short(n.ID)
	var batch rtnl.Batch
	batch.AddIpvlan(rtnl.Sublink{Name: name, Parent: parent.Index}, n.IpvlanMode(), n.Options[spec.OptIpvlanFlag])
	err := b.rt.Do(&batch)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return errdefs.ErrNotImplemented.WithMessage("this kernel has no ipvlan links (modprobe ipvlan)")
	}
	if errors.Is(err, unix.EBUSY) {
		return errdefs.ErrConflict.WithMessage("parent interface " + parent.Name + " is in use by links that do not go with ipvlan")
	}
	if err != nil {
		return fmt.Errorf("make an ipvlan link on %s: %w", parent.Name, err)
	}
	link, err := b.rt.LinkByName(name)
	if err != nil {
		return err
	}
	var gone rtnl.Batch
	gone.DelLink(link.Index)
	return b.rt.Do(&gone)
}

// shareParent refuses a second network on the same parent where the kernel does.
func (b *Host) shareParent(n *Segment, name string) error {
	for _, other := range b.reg.Nets {
		if other == n || other.Bridged() || other.Plugged() || other.ConfigOnly || other.Link == 0 || parentName(other) != name {
			continue
		}
		switch {
		case other.Driver != n.Driver:
			return forbidden("parent interface %s is already in use by the %s network %s", name, other.Driver, other.Name)
		case n.Driver == spec.Macvlan && (n.MacvlanMode() == "passthru" || other.MacvlanMode() == "passthru"):
			return forbidden("cannot use mode passthru, macvlan network %s already uses parent interface %s", other.Name, name)
		case n.Driver == spec.Ipvlan && n.IpvlanMode() != other.IpvlanMode():
			return forbidden("parent interface %s is already in use by the ipvlan network %s in mode %s", name, other.Name, other.IpvlanMode())
		}
	}
	return nil
}

// makeParent makes a parent that is not there: a subinterface with a tag, or a
// link that leads nowhere.
func (b *Host) makeParent(n *Segment, name string) (rtnl.Link, error) {
	var batch rtnl.Batch
	what := ""
	if n.Options[spec.OptParent] == "" {
		what = "dummy links"
		batch.AddDummy(name)
	} else {
		master, tag, err := spec.Parent(name)
		if err != nil {
			return rtnl.Link{}, err
		}
		if tag == 0 {
			return rtnl.Link{}, invalid("invalid parent interface %s: no such link on this host", name)
		}
		on, err := b.rt.LinkByName(master)
		if err != nil {
			return rtnl.Link{}, invalid("invalid parent interface %s: no link %s on this host to make a subinterface of", name, master)
		}
		what = "802.1q subinterfaces"
		batch.AddVLAN(name, on.Index, tag)
	}
	err := b.rt.Do(&batch)
	if errors.Is(err, unix.EOPNOTSUPP) {
		if what == "dummy links" {
			return b.makeStub(n, name)
		}
		return rtnl.Link{}, errdefs.ErrNotImplemented.WithMessage("this kernel has no " + what + " (modprobe 8021q)")
	}
	if err != nil {
		return rtnl.Link{}, err
	}
	link, err := b.rt.LinkByName(name)
	if err != nil {
		return link, err
	}
	var up rtnl.Batch
	up.SetUp(link.Index)
	return link, b.rt.Do(&up)
}

// makeStub makes a parent that leads nowhere where the kernel has no dummy
// links: a pair whose other end nobody uses. It has a carrier, without which
// the links on it would have none.
func (b *Host) makeStub(n *Segment, name string) (rtnl.Link, error) {
	home, err := rtnl.Current()
	if err != nil {
		return rtnl.Link{}, err
	}
	defer home.Close()
	far := "dx" + strings.TrimPrefix(name, name[:2])
	var batch rtnl.Batch
	batch.AddVeth(rtnl.Veth{Name: name, MTU: n.MTU(), Peer: far, PeerNS: int(home.Fd())})
	if err := b.rt.Do(&batch); err != nil {
		return rtnl.Link{}, err
	}
	other, err := b.rt.LinkByName(far)
	if err != nil {
		return other, err
	}
	var up rtnl.Batch
	up.SetUp(other.Index)
	if err := b.rt.Do(&up); err != nil {
		return rtnl.Link{}, err
	}
	return b.rt.LinkByName(name)
}
