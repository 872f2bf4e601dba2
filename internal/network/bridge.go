package network

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

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/ipam"
	"github.com/wherry-engine/wherry/internal/network/resolv"
)

// Options of the bridge driver, by docker's names.
const (
	optDefaultBridge = "com.docker.network.bridge.default_bridge"
	optICC           = "com.docker.network.bridge.enable_icc"
	optMasquerade    = "com.docker.network.bridge.enable_ip_masquerade"
	optBindIP        = "com.docker.network.bridge.host_binding_ipv4"
	optBridgeName    = "com.docker.network.bridge.name"
	optMTU           = "com.docker.network.driver.mtu"
)

// bridges makes the links that networks consist of on the host.
type bridges struct {
	cfg *Config
	rt  *rtnl.Conn
	reg *register
}

// openDefault makes the default network as the configuration says.
func (b *bridges) openDefault() error {
	if b.cfg.BridgeName == "" {
		if err := b.chooseBridge(); err != nil {
			return err
		}
	}
	name := b.cfg.bridge()
	n := b.reg.byName(network.NetworkBridge)
	if name == "" {
		if n != nil {
			delete(b.reg.nets, n.ID)
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
	addr, err := b.defaultAddress(link, exists, own)
	if err != nil {
		return err
	}
	if own && !exists {
		if link, err = b.makeBridge(name, b.cfg.MTU); err != nil {
			return err
		}
	}
	if own {
		var batch rtnl.Batch
		batch.SetAlias(link.Index, b.alias())
		if err := b.rt.Do(&batch); err != nil {
			return err
		}
		if err := b.setAddress(link, addr, true); err != nil {
			return err
		}
	}
	bind := "0.0.0.0"
	if b.cfg.DefaultBindIP.IsValid() {
		bind = b.cfg.DefaultBindIP.String()
	}
	n.UserBridge = !own
	n.Options = map[string]string{
		optDefaultBridge: "true",
		optICC:           strconv.FormatBool(b.cfg.ICC),
		optMasquerade:    strconv.FormatBool(b.cfg.IPMasq),
		optBindIP:        bind,
		optBridgeName:    name,
		optMTU:           strconv.Itoa(b.cfg.MTU),
	}
	n.IPAM = network.IPAM{Driver: "default", Config: []network.IPAMConfig{{Subnet: addr.Masked(), Gateway: addr.Addr()}}}
	if b.cfg.FixedCIDR.IsValid() {
		n.IPAM.Config[0].IPRange = b.cfg.FixedCIDR.Masked()
	}
	n.gateway = addr.Addr()
	if b.cfg.DefaultGateway.IsValid() {
		if !addr.Contains(b.cfg.DefaultGateway) {
			return invalid("default gateway %s is not in the bridge's subnet %s", b.cfg.DefaultGateway, addr.Masked())
		}
		n.gateway = b.cfg.DefaultGateway
		n.IPAM.Config[0].AuxAddress = map[string]netip.Addr{"DefaultGatewayIPv4": b.cfg.DefaultGateway}
	}
	return b.run(n, link, addr, b.cfg.FixedCIDR)
}

// aliasPrefix marks our default bridges; the engine's data root follows.
const aliasPrefix = "wherry engine "

func (b *bridges) alias() string {
	s := aliasPrefix + b.cfg.Root
	return s[:min(len(s), 255)]
}

// chooseBridge takes the first of wherry0, wherry1, … that is nobody's, or
// this engine's already, or of an engine whose data root is gone. The lock of
// the namespace is held.
func (b *bridges) chooseBridge() error {
	links, err := b.rt.Links()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Kind == "bridge" && l.Alias == b.alias() && strings.HasPrefix(l.Name, strings.TrimSuffix(DefaultBridge, "0")) {
			b.cfg.ownBridge = l.Name
			return nil
		}
	}
	for i := range 1000 {
		name := strings.TrimSuffix(DefaultBridge, "0") + strconv.Itoa(i)
		at := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == name })
		if at < 0 || links[at].Alias == "" || b.orphaned(links[at].Alias) {
			b.cfg.ownBridge = name
			return nil
		}
	}
	return errors.New("no name is free for the default bridge")
}

// orphaned reports whether an alias names an engine that cannot come back.
func (b *bridges) orphaned(alias string) bool {
	root, ours := strings.CutPrefix(alias, aliasPrefix)
	if !ours || len(alias) >= 255 {
		return false
	}
	_, err := os.Stat(root)
	return errors.Is(err, fs.ErrNotExist)
}

// run makes a network whose bridge is there usable.
func (b *bridges) run(n *segment, link rtnl.Link, addr netip.Prefix, dynamic netip.Prefix) error {
	pool, err := ipam.NewPool(addr.Masked(), dynamic)
	if err != nil {
		return err
	}
	if err := pool.Take(addr.Addr()); err != nil {
		return err
	}
	if n.gateway != addr.Addr() && n.gateway.IsValid() {
		if err := pool.Take(n.gateway); err != nil {
			return err
		}
	}
	n.link, n.subnet, n.own, n.addrs = link.Index, addr.Masked(), addr.Addr(), pool
	n.mtu = defaultMTU
	if mtu, err := strconv.Atoi(n.Options[optMTU]); err == nil && mtu > 0 {
		n.mtu = mtu
	}
	if b.cfg.Firewall && !b.cfg.NoLocalPublish {
		// Packets of the host to a published port of 127.0.0.1 leave by the
		// bridge with a loopback source; the guard chain keeps the way back shut.
		if err := rtnl.WriteSysctl("net/ipv4/conf/"+link.Name+"/route_localnet", "1"); err != nil {
			return err
		}
	}
	return nil
}

// defaultAddress chooses the address of the default bridge: what --bip says,
// else what the bridge has, else the first free subnet of the pools.
func (b *bridges) defaultAddress(link rtnl.Link, exists, own bool) (netip.Prefix, error) {
	if b.cfg.BIP.IsValid() {
		return b.cfg.BIP, b.checkFixed(b.cfg.BIP)
	}
	if exists {
		addrs, err := b.rt.Addrs()
		if err != nil {
			return netip.Prefix{}, err
		}
		for _, a := range addrs {
			if a.Link != link.Index || !a.Prefix.Addr().Is4() {
				continue
			}
			if own && b.cfg.FixedCIDR.IsValid() && b.checkFixed(a.Prefix) != nil {
				continue // --fixed-cidr has changed
			}
			return a.Prefix, b.checkFixed(a.Prefix)
		}
		if !own {
			return netip.Prefix{}, invalid("bridge %s has no IPv4 address", link.Name)
		}
	}
	if b.cfg.FixedCIDR.IsValid() {
		return netip.PrefixFrom(ipam.First(b.cfg.FixedCIDR), b.cfg.FixedCIDR.Bits()), nil
	}
	subnet, err := b.chooseSubnet()
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(ipam.First(subnet), subnet.Bits()), nil
}

func (b *bridges) checkFixed(addr netip.Prefix) error {
	f := b.cfg.FixedCIDR
	if f.IsValid() && (f.Bits() < addr.Bits() || !addr.Contains(f.Addr())) {
		return invalid("invalid --fixed-cidr %s: not inside the bridge's subnet %s", f, addr.Masked())
	}
	return nil
}

// chooseSubnet takes the first subnet of the pools that this host and the
// networks that we know do not use.
func (b *bridges) chooseSubnet() (netip.Prefix, error) {
	taken, err := b.taken()
	if err != nil {
		return netip.Prefix{}, err
	}
	pools := b.cfg.AddressPools
	if pools == nil {
		pools = ipam.DefaultRanges()
	}
	return ipam.Choose(pools, taken)
}

// taken lists what a new subnet must not overlap: routes, addresses and
// resolvers of the host, and the subnets of the networks.
func (b *bridges) taken() ([]netip.Prefix, error) {
	out := b.reg.subnets()
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
func (b *bridges) makeBridge(name string, mtu int) (rtnl.Link, error) {
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

// setAddress gives the bridge its IPv4 address and brings it up; alone takes
// others away that it has.
func (b *bridges) setAddress(link rtnl.Link, want netip.Prefix, alone bool) error {
	addrs, err := b.rt.Addrs()
	if err != nil {
		return err
	}
	var batch rtnl.Batch
	have := false
	for _, a := range addrs {
		switch {
		case a.Link != link.Index || !a.Prefix.Addr().Is4():
		case a.Prefix == want:
			have = true
		case alone:
			batch.DelAddr(link.Index, a.Prefix)
		}
	}
	if !have {
		batch.AddAddr(link.Index, want)
	}
	batch.SetUp(link.Index)
	if err := b.rt.Do(&batch); err != nil {
		return fmt.Errorf("bridge %s: %w", link.Name, err)
	}
	return nil
}
