package plumb

import (
	"errors"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// Pair is a link made ahead: its near end is no bridge's port yet, its far end
// is down and has neither address nor IPv6. Making links is most of what a network
// costs the start of a container.
type Pair struct {
	veth   string // name of the end on the host
	device string // name of the end in the namespace
	index  int    // of the end in the namespace
}

// SpawnAhead makes a namespace with n pairs whose ends there are eth0 and so on.
func (f *Fitter) SpawnAhead(n int) (ns *os.File, pairs []Pair, err error) {
	ns, err = rtnl.Spawn(f.Home, func(ns *os.File, in *rtnl.Conn) error {
		if err := f.Furnish(ns, in, nil, true); err != nil {
			return err
		}
		for i := range n {
			l := &Link{Kind: spec.Bridge, Device: "eth" + strconv.Itoa(i)}
			if err := errors.Join(f.addVeth(ns, l), l.settings()); err != nil {
				return err
			}
			pairs = append(pairs, Pair{veth: l.Veth, device: l.Device})
		}
		if n == 0 {
			return nil
		}
		present, err := in.Links()
		for i := range pairs {
			at := slices.IndexFunc(present, func(l rtnl.Link) bool { return l.Name == pairs[i].device })
			if err == nil && at < 0 {
				err = errors.New("the link " + pairs[i].device + " made ahead is not there")
			}
			if err != nil {
				return err
			}
			pairs[i].index = present[at].Index
		}
		return nil
	})
	return ns, pairs, err
}

// Owns reports whether the end on the host is a link of that name.
func (p Pair) Owns(name string) bool { return p.veth == name }

// Use gives each pair to one of the links, of which at least as many are bridges':
// those of the same name first, which need no renaming.
func Use(links []*Link, pairs []Pair) {
	left := slices.Clone(pairs)
	for _, same := range []bool{true, false} {
		for _, l := range links {
			at := slices.IndexFunc(left, func(p Pair) bool { return !same || p.device == l.Device })
			if l.Kind == spec.Bridge && l.pair == nil && at >= 0 {
				l.pair = &left[at]
				left = slices.Concat(left[:at], left[at+1:])
			}
		}
	}
}

// adopt makes the link of its pair; its end in the namespace is down.
func (f *Fitter) adopt(in *rtnl.Conn, l *Link) error {
	l.Veth = l.pair.veth
	var outer, inner rtnl.Batch
	outer.SetPort(rtnl.Port{Name: l.Veth, Master: l.Master, MTU: l.MTU, Isolated: l.Isolated})
	if err := f.RT.Do(&outer); err != nil {
		return l.portError(err)
	}
	inner.SetIdentity(l.pair.index, rtnl.Identity{Name: l.Device, MAC: l.MAC, MTU: l.MTU})
	err := in.Do(&inner)
	if errors.Is(err, unix.EEXIST) {
		return l.deviceTaken()
	}
	return err
}
