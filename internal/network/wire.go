package network

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"

	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
)

// wire is a link into a container's namespace.
type wire struct {
	seg      *segment
	want     *network.EndpointSettings
	endpoint string // endpoint id
	ns       *os.File
	addr     netip.Addr
	mac      network.HardwareAddr
	slot     int    // eth<slot>
	gateway  bool   // the default route goes this way
	veth     string // the host's end
}

// macOf makes the link's address from its IP address, as docker did for long:
// whoever gets the IP address next has the same one, so that no neighbour's
// table is ever wrong.
func macOf(a netip.Addr) network.HardwareAddr {
	b := a.As4()
	return network.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
}

// settings is the endpoint as inspect shows it.
func (w *wire) settings() *network.EndpointSettings {
	ep := &network.EndpointSettings{}
	if w.want != nil {
		ep = w.want.Copy()
	}
	ep.NetworkID, ep.EndpointID = w.seg.ID, w.endpoint
	if w.addr.IsValid() {
		ep.IPAddress, ep.IPPrefixLen = w.addr, w.seg.subnet.Bits()
		ep.Gateway = w.seg.gateway
		ep.MacAddress = w.mac
	}
	return ep
}

func vethName() string {
	var b [4]byte
	rand.Read(b[:])
	return "veth" + hex.EncodeToString(b[:])[:7]
}

// fitter makes namespaces and their links.
type fitter struct {
	home *os.File
	rt   *rtnl.Conn
}

// spawn makes a namespace with these links.
func (f *fitter) spawn(wires []*wire) (*os.File, error) {
	return rtnl.Spawn(f.home, func(ns *os.File, in *rtnl.Conn) error {
		return f.furnish(ns, in, wires, true)
	})
}

// enter wires an existing namespace; fresh says that nothing was set in it yet.
func (f *fitter) enter(ns *os.File, wires []*wire, fresh bool) error {
	return rtnl.Enter(f.home, ns, func(in *rtnl.Conn) error { return f.furnish(ns, in, wires, fresh) })
}

// furnish runs inside the namespace: links, addresses, routes and the settings
// that docker gives a container's namespace.
func (f *fitter) furnish(ns *os.File, in *rtnl.Conn, wires []*wire, fresh bool) error {
	var inner, outer rtnl.Batch
	if fresh {
		if err := settings(); err != nil {
			return err
		}
		inner.SetUp(rtnl.LoopbackIndex)
	}
	for _, w := range wires {
		if err := f.addVeth(ns, w); err != nil {
			return err
		}
		// Before the link comes up, so that no link-local address is ever made.
		err := rtnl.WriteSysctl("net/ipv6/conf/"+w.device()+"/disable_ipv6", "1")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	index := map[string]int{}
	if len(wires) > 0 {
		links, err := in.Links()
		if err != nil {
			return err
		}
		for _, l := range links {
			index[l.Name] = l.Index
		}
	}
	for _, w := range wires {
		dev := index[w.device()]
		inner.SetUp(dev)
		inner.AddAddr(dev, netip.PrefixFrom(w.addr, w.seg.subnet.Bits()))
		if w.gateway && w.seg.gateway.IsValid() {
			inner.AddRoute(dev, netip.Prefix{}, w.seg.gateway)
		}
		inner.Sync(w.device())
		outer.Sync(w.veth)
		outer.Sync(w.seg.bridgeName()) // has a carrier from its first port on
	}
	if err := in.Do(&inner); err != nil {
		return err
	}
	return f.rt.Do(&outer)
}

func (w *wire) device() string { return "eth" + strconv.Itoa(w.slot) }

// settings are what docker sets in every private network namespace: programs
// without privileges may open low ports and ping.
func settings() error {
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
func (f *fitter) addVeth(ns *os.File, w *wire) error {
	for {
		w.veth = vethName()
		var b rtnl.Batch
		b.AddVeth(rtnl.Veth{
			Name: w.veth, Master: w.seg.link, MTU: w.seg.mtu, Isolated: !w.seg.icc(),
			Peer: w.device(), PeerMAC: []byte(w.mac), PeerNS: int(ns.Fd()),
		})
		err := f.rt.Do(&b)
		if errors.Is(err, unix.EEXIST) {
			if _, lookup := f.rt.LinkByName(w.veth); lookup == nil {
				continue // that name is taken
			}
		}
		return err
	}
}

func dupFile(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
