package network

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/network/plumb"
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

func (w *wire) device() string { return "eth" + strconv.Itoa(w.slot) }

// link is what has to be made of the wire.
func (w *wire) link() *plumb.Link {
	l := &plumb.Link{
		Bridge: w.seg.bridgeName(), Master: w.seg.link, MTU: w.seg.mtu, Isolated: !w.seg.icc(),
		Device: w.device(), Addr: netip.PrefixFrom(w.addr, w.seg.subnet.Bits()), MAC: net.HardwareAddr(w.mac),
	}
	if w.gateway {
		l.Gateway = w.seg.gateway
	}
	return l
}

// connect makes the links of wires by fn.
func connect(wires []*wire, fn func(links []*plumb.Link) error) error {
	links := make([]*plumb.Link, len(wires))
	for i, w := range wires {
		links[i] = w.link()
	}
	if err := fn(links); err != nil {
		return err
	}
	for i, w := range wires {
		w.veth = links[i].Veth
	}
	return nil
}

func dupFile(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
