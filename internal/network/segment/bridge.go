package segment

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/ipam"
	"github.com/wherry-engine/wherry/internal/network/resolv"
	"github.com/wherry-engine/wherry/internal/network/settings"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// Host makes the links that networks consist of on the host.
type Host struct {
	cfg *settings.Config
	rt  *rtnl.Conn
	reg *Register
}

// NewHost acts on the network namespace of rt.
func NewHost(cfg *settings.Config, rt *rtnl.Conn, reg *Register) *Host { return &Host{cfg, rt, reg} }

// OpenDefault makes the default network as the configuration says.
func (b *Host) OpenDefault() error {
	if b.cfg.BridgeName == "" {
		if err := b.chooseBridge(); err != nil {
			return err
		}
	}
	name := b.cfg.Bridge()
	n := b.reg.ByName(network.NetworkBridge)
	if name == "" {
		if n != nil {
			delete(b.reg.Nets, n.ID)
		}
		return nil
	}
	own := b.cfg.BridgeName == ""
	link, err := b.rt.LinkByName(name)
	if errdefs.IsNotFound(err) && !own {
		return errdefs.ErrPermissionDenied.WithMessage("bridge device with non default name " + name + " must be created manually")
	}
	exists := err == nil
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if exists && link.Kind != "bridge" {
		return invalid("existing interface %s is not a bridge", name)
	}
	own4, err := b.defaultAddress(link, exists, own, V4)
	if err != nil {
		return err
	}
	wanted := []netip.Prefix{own4}
	if b.cfg.IPv6 {
		own6, err := b.defaultAddress(link, exists, own, V6)
		if err != nil {
			return err
		}
		wanted = append(wanted, own6)
	}
	if own && !exists {
		if link, err = b.makeBridge(name, b.cfg.MTU); err != nil {
			return err
		}
	}
	n.UserBridge, n.EnableIPv6 = !own, b.cfg.IPv6
	if own {
		var batch rtnl.Batch
		batch.SetAlias(link.Index, b.alias())
		if err := b.rt.Do(&batch); err != nil {
			return err
		}
		if err := b.setAddresses(n, link, wanted, true); err != nil {
			return err
		}
		if err := b.standIn(link.Name); err != nil {
			return err
		}
	}
	bind := "0.0.0.0"
	if b.cfg.DefaultBindIP.IsValid() {
		bind = b.cfg.DefaultBindIP.String()
	}
	n.Options = map[string]string{
		spec.OptDefaultBridge: "true",
		spec.OptICC:           strconv.FormatBool(b.cfg.ICC),
		spec.OptMasquerade:    strconv.FormatBool(b.cfg.IPMasq),
		spec.OptBindIP:        bind,
		spec.OptBridgeName:    name,
		spec.OptMTU:           strconv.Itoa(b.cfg.MTU),
	}
	n.IPAM = network.IPAM{Driver: "default"}
	n.Link = link.Index
	for i, addr := range wanted {
		if err := b.openFamily(n, Family(i), addr); err != nil {
			return err
		}
	}
	return b.run(n, link)
}

// openFamily serves an address family of the default network.
func (b *Host) openFamily(n *Segment, f Family, addr netip.Prefix) error {
	fixed, other := b.cfg.FixedCIDR, b.cfg.DefaultGateway
	if f == V6 {
		fixed, other = b.cfg.FixedCIDR6, b.cfg.DefaultGateway6
	}
	c := network.IPAMConfig{Subnet: addr.Masked(), Gateway: addr.Addr()}
	if fixed.IsValid() && fixed.Masked() != c.Subnet {
		c.IPRange = fixed.Masked()
	} else if fixed.IsValid() && f == V4 {
		c.IPRange = fixed.Masked() // docker shows it even so
	}
	gateway := addr.Addr()
	if other.IsValid() {
		if !addr.Contains(other) {
			return invalid("default gateway %s is not in the bridge's subnet %s", other, addr.Masked())
		}
		gateway = other
		c.AuxAddress = map[string]netip.Addr{[]string{"DefaultGatewayIPv4", "DefaultGatewayIPv6"}[f]: other}
	}
	n.IPAM.Config = append(n.IPAM.Config, c)
	return n.serve(f, c, addr.Addr(), gateway)
}

// standIn lets the host answer for the containers of a default bridge whose
// ports are kept apart: what they send each other comes to the rules, which
// know who is linked.
func (b *Host) standIn(bridge string) error {
	value := "0"
	if !b.cfg.ICC {
		value = "1"
		if err := rtnl.WriteSysctl("net/ipv4/neigh/"+bridge+"/proxy_delay", "0"); err != nil {
			return err
		}
	}
	return rtnl.WriteSysctl("net/ipv4/conf/"+bridge+"/proxy_arp_pvlan", value)
}

// AliasPrefix marks our default bridges; the engine's data root follows.
const AliasPrefix = "wherry engine "

func (b *Host) alias() string {
	s := AliasPrefix + b.cfg.Root
	return s[:min(len(s), 255)]
}

// chooseBridge takes the first of wherry0, wherry1, … that is nobody's, or
// this engine's already, or of an engine whose data root is gone. The lock of
// the namespace is held.
func (b *Host) chooseBridge() error {
	links, err := b.rt.Links()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Kind == "bridge" && l.Alias == b.alias() && strings.HasPrefix(l.Name, strings.TrimSuffix(settings.DefaultBridge, "0")) {
			b.cfg.OwnBridge = l.Name
			return nil
		}
	}
	for i := range 1000 {
		name := strings.TrimSuffix(settings.DefaultBridge, "0") + strconv.Itoa(i)
		at := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == name })
		if at < 0 || links[at].Alias == "" || b.orphaned(links[at].Alias) {
			b.cfg.OwnBridge = name
			return nil
		}
	}
	return errors.New("no name is free for the default bridge")
}

// orphaned reports whether an alias names an engine that cannot come back.
func (b *Host) orphaned(alias string) bool {
	root, ours := strings.CutPrefix(alias, AliasPrefix)
	if !ours || len(alias) >= 255 {
		return false
	}
	_, err := os.Stat(root)
	return errors.Is(err, fs.ErrNotExist)
}

// run makes a network whose bridge is there usable.
func (b *Host) run(n *Segment, link rtnl.Link) error {
	n.Link = link.Index
	if n.LinkMTU = n.MTU(); n.LinkMTU == 0 {
		n.LinkMTU = settings.DefaultMTU
	}
	if b.cfg.Firewall && !b.cfg.NoLocalPublish && n.Stacks[V4].Addrs != nil {
		// Packets of the host to a published port of 127.0.0.1 leave by the
		// bridge with a loopback source; the guard chain keeps the way back shut.
		if err := rtnl.WriteSysctl("net/ipv4/conf/"+link.Name+"/route_localnet", "1"); err != nil {
			return err
		}
	}
	return nil
}

// bringUp makes the link of a user-defined network, or takes the one that is
// there since an earlier engine.
func (b *Host) bringUp(n *Segment) error {
	if n.Plugged() {
		if n.Created.IsZero() {
			n.Created = time.Now().UTC()
		}
		return n.serveAll()
	}
	if !n.Bridged() {
		return b.bringUpParent(n)
	}
	name := n.BridgeName()
	link, err := b.rt.LinkByName(name)
	switch {
	case errdefs.IsNotFound(err):
		if link, err = b.makeBridge(name, n.MTU()); err != nil {
			return err
		}
	case err != nil:
		return err
	case link.Kind != "bridge":
		return invalid("existing interface %s is not a bridge", name)
	case n.Link == 0 && n.Created.IsZero():
		n.UserBridge = true // it was there before the network
	}
	if n.Created.IsZero() {
		n.Created = time.Now().UTC()
	}
	n.Link = link.Index
	var wanted []netip.Prefix
	for _, f := range Families {
		for _, c := range n.Subnets(f.Six()) {
			gateway, own := c.Gateway, c.Gateway
			if n.Internal {
				gateway = netip.Addr{} // nowhere to go
			}
			if !n.BridgeAddress(f.Six()) {
				own = netip.Addr{}
			} else {
				wanted = append(wanted, netip.PrefixFrom(own, c.Subnet.Bits()))
			}
			if err := n.serve(f, *c, own, gateway); err != nil {
				b.TakeDown(n)
				return err
			}
		}
	}
	if err = b.setAddresses(n, link, wanted, !n.UserBridge); err == nil {
		err = b.run(n, link)
	}
	if err != nil {
		b.TakeDown(n)
	}
	return err
}

// TakeDown removes the link of a network, as far as it is ours.
func (b *Host) TakeDown(n *Segment) {
	own := n.Bridged() && !n.UserBridge || !n.Bridged() && !n.UserParent
	for _, other := range b.reg.Nets {
		if own && other != n && !n.Bridged() && !other.Bridged() && other.Link == n.Link && n.Link != 0 {
			other.UserParent, own = false, false // its business now
		}
	}
	if n.Link != 0 && own {
		var batch rtnl.Batch
		batch.DelLink(n.Link)
		if err := b.rt.Do(&batch); err != nil {
			logger().Warn("remove link", "network", n.Name, "error", err)
		}
	}
	n.Link = 0
}

// Reopen brings the user-defined networks up when the engine starts. One that
// cannot be is reported and stays unusable; the others are not its business.
func (b *Host) Reopen() {
	for _, n := range b.reg.Ordered() {
		if spec.IsPredefined(n.Name) || n.ConfigOnly || len(n.IPAM.Config) == 0 {
			continue
		}
		if err := b.bringUp(n); err != nil {
			n.Link = 0
			logger().Warn("network is not available", "network", n.Name, "error", err)
		}
	}
}

// defaultAddress chooses the default bridge's address of a family: what --bip
// says, else what the bridge has, else the first free subnet of the pools.
func (b *Host) defaultAddress(link rtnl.Link, exists, own bool, f Family) (netip.Prefix, error) {
	given, fixed, flag := b.cfg.BIP, b.cfg.FixedCIDR, "--fixed-cidr"
	if f == V6 {
		given, fixed, flag = b.cfg.BIP6, b.cfg.FixedCIDR6, "--fixed-cidr-v6"
	}
	if given.IsValid() {
		return given, within(flag, fixed, given)
	}
	if exists {
		addrs, err := b.rt.Addrs()
		if err != nil {
			return netip.Prefix{}, err
		}
		for _, a := range addrs {
			if a.Link != link.Index || FamilyOf(a.Prefix.Addr()) != f || a.Prefix.Addr().IsLinkLocalUnicast() {
				continue
			}
			if own && fixed.IsValid() && within(flag, fixed, a.Prefix) != nil {
				continue // the flag has changed
			}
			return a.Prefix, within(flag, fixed, a.Prefix)
		}
		if !own {
			return netip.Prefix{}, invalid("bridge %s has no %s address", link.Name, []string{"IPv4", "IPv6"}[f])
		}
	}
	if fixed.IsValid() {
		return netip.PrefixFrom(ipam.First(fixed), fixed.Bits()), nil
	}
	subnet, err := b.chooseSubnet(f)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(ipam.First(subnet), subnet.Bits()), nil
}

func within(flag string, fixed, addr netip.Prefix) error {
	if fixed.IsValid() && (fixed.Bits() < addr.Bits() || !addr.Contains(fixed.Addr())) {
		return invalid("invalid %s %s: not inside the bridge's subnet %s", flag, fixed, addr.Masked())
	}
	return nil
}

// chooseSubnet takes the first subnet of the pools that this host and the
// networks that we know do not use.
func (b *Host) chooseSubnet(f Family) (netip.Prefix, error) {
	taken, err := b.taken()
	if err != nil {
		return netip.Prefix{}, err
	}
	pools := ipam.Of(b.cfg.AddressPools, f.Six())
	if len(pools) == 0 && f == V4 {
		pools = ipam.DefaultRanges()
	} else if len(pools) == 0 {
		machine, _ := os.ReadFile("/etc/machine-id") // where there is none, the data root has to do
		pools = ipam.Local6(string(machine) + b.cfg.Root)
	}
	return ipam.Choose(pools, taken)
}

// taken lists what a new subnet must not overlap: routes, addresses and
// resolvers of the host, and the subnets of the networks.
func (b *Host) taken() ([]netip.Prefix, error) {
	out := b.reg.subnets("")
	routes, err := b.rt.Routes()
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		out = append(out, r.Dst)
	}
	addrs, err := b.rt.Addrs()
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		out = append(out, a.Prefix)
	}
	for _, ns := range resolv.HostServers() {
		out = append(out, netip.PrefixFrom(ns, ns.BitLen()))
	}
	return out, nil
}

// makeBridge creates a bridge that is up, with an address of its own that does
// not change with its ports.
func (b *Host) makeBridge(name string, mtu int) (rtnl.Link, error) {
	mac := make(net.HardwareAddr, 6)
	rand.Read(mac)
	mac[0] = mac[0]&^1 | 2 // locally administered, not a group
	var batch rtnl.Batch
	batch.AddBridge(rtnl.Bridge{Name: name, MAC: mac, MTU: mtu})
	if err := b.rt.Do(&batch); err != nil && !errors.Is(err, unix.EEXIST) {
		return rtnl.Link{}, err
	}
	return b.rt.LinkByName(name)
}

// setAddresses gives the bridge its addresses and brings it up; alone takes
// others away that it has.
func (b *Host) setAddresses(n *Segment, link rtnl.Link, wanted []netip.Prefix, alone bool) error {
	six := slices.ContainsFunc(wanted, func(p netip.Prefix) bool { return p.Addr().Is6() })
	if alone {
		if err := tune(link.Name, n.EnableIPv6); err != nil {
			return err
		}
	} else if six {
		if err := rtnl.WriteSysctl("net/ipv6/conf/"+link.Name+"/disable_ipv6", "0"); err != nil {
			return err
		}
	}
	addrs, err := b.rt.Addrs()
	if err != nil {
		return err
	}
	var batch rtnl.Batch
	missing := slices.Clone(wanted)
	for _, a := range addrs {
		switch {
		case a.Link != link.Index || a.Prefix.Addr().IsLinkLocalUnicast() && a.Prefix.Addr().Is6():
		case slices.Contains(wanted, a.Prefix):
			missing = slices.DeleteFunc(missing, func(p netip.Prefix) bool { return p == a.Prefix })
		case alone:
			batch.DelAddr(link.Index, a.Prefix)
		}
	}
	for _, p := range missing {
		batch.AddAddr(link.Index, p)
	}
	batch.SetUp(link.Index)
	if err := b.rt.Do(&batch); err != nil {
		return fmt.Errorf("bridge %s: %w", link.Name, err)
	}
	return nil
}

// tune makes the settings of a bridge of ours: without IPv6 it has no link-local address by
// which a container could reach the host; with it no container is its router.
func tune(bridge string, six bool) error {
	values := [][2]string{{"disable_ipv6", "1"}}
	if six {
		values = [][2]string{{"disable_ipv6", "0"}, {"accept_ra", "0"}, {"accept_dad", "0"}}
	}
	for _, v := range values {
		err := rtnl.WriteSysctl("net/ipv6/conf/"+bridge+"/"+v[0], v[1])
		if errors.Is(err, fs.ErrNotExist) && six {
			return errdefs.ErrUnavailable.WithMessage("IPv6 is not available in this kernel")
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
