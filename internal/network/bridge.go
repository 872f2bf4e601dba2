package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

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

// openBridge makes the default network as the configuration says.
func (m *Manager) openBridge() error {
	name := m.cfg.bridge()
	n := m.byName(network.NetworkBridge)
	if name == "" {
		if n != nil {
			delete(m.nets, n.ID)
		}
		return nil
	}
	own := m.cfg.BridgeName == ""
	link, err := m.rt.LinkByName(name)
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
	addr, err := m.defaultAddress(link, exists, own)
	if err != nil {
		return err
	}
	if own && !exists {
		if link, err = m.makeBridge(name, m.cfg.MTU); err != nil {
			return err
		}
	}
	if own {
		if err := m.setAddress(link, addr); err != nil {
			return err
		}
	}
	bind := "0.0.0.0"
	if m.cfg.DefaultBindIP.IsValid() {
		bind = m.cfg.DefaultBindIP.String()
	}
	n.UserBridge = !own
	n.Options = map[string]string{
		optDefaultBridge: "true",
		optICC:           strconv.FormatBool(m.cfg.ICC),
		optMasquerade:    strconv.FormatBool(m.cfg.IPMasq),
		optBindIP:        bind,
		optBridgeName:    name,
		optMTU:           strconv.Itoa(m.cfg.MTU),
	}
	n.IPAM = network.IPAM{Driver: "default", Config: []network.IPAMConfig{{Subnet: addr.Masked(), Gateway: addr.Addr()}}}
	if m.cfg.FixedCIDR.IsValid() {
		n.IPAM.Config[0].IPRange = m.cfg.FixedCIDR.Masked()
	}
	n.gateway = addr.Addr()
	if m.cfg.DefaultGateway.IsValid() {
		if !addr.Contains(m.cfg.DefaultGateway) {
			return invalid("default gateway %s is not in the bridge's subnet %s", m.cfg.DefaultGateway, addr.Masked())
		}
		n.gateway = m.cfg.DefaultGateway
		n.IPAM.Config[0].AuxAddress = map[string]netip.Addr{"DefaultGatewayIPv4": m.cfg.DefaultGateway}
	}
	return m.run(n, link, addr, m.cfg.FixedCIDR)
}

// run makes a network whose bridge is there usable.
func (m *Manager) run(n *segment, link rtnl.Link, addr netip.Prefix, dynamic netip.Prefix) error {
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
	if m.cfg.Firewall && !m.cfg.NoLocalPublish {
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
func (m *Manager) defaultAddress(link rtnl.Link, exists, own bool) (netip.Prefix, error) {
	if m.cfg.BIP.IsValid() {
		return m.cfg.BIP, m.checkFixed(m.cfg.BIP)
	}
	if exists {
		addrs, err := m.rt.Addrs()
		if err != nil {
			return netip.Prefix{}, err
		}
		for _, a := range addrs {
			if a.Link != link.Index || !a.Prefix.Addr().Is4() {
				continue
			}
			if own && m.cfg.FixedCIDR.IsValid() && m.checkFixed(a.Prefix) != nil {
				continue // --fixed-cidr has changed
			}
			return a.Prefix, m.checkFixed(a.Prefix)
		}
		if !own {
			return netip.Prefix{}, invalid("bridge %s has no IPv4 address", link.Name)
		}
	}
	if m.cfg.FixedCIDR.IsValid() {
		return netip.PrefixFrom(ipam.First(m.cfg.FixedCIDR), m.cfg.FixedCIDR.Bits()), nil
	}
	subnet, err := m.chooseSubnet()
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(ipam.First(subnet), subnet.Bits()), nil
}

func (m *Manager) checkFixed(addr netip.Prefix) error {
	f := m.cfg.FixedCIDR
	if f.IsValid() && (f.Bits() < addr.Bits() || !addr.Contains(f.Addr())) {
		return invalid("invalid --fixed-cidr %s: not inside the bridge's subnet %s", f, addr.Masked())
	}
	return nil
}

// chooseSubnet takes the first subnet of the pools that this host and the
// networks that we know do not use.
func (m *Manager) chooseSubnet() (netip.Prefix, error) {
	taken, err := m.taken()
	if err != nil {
		return netip.Prefix{}, err
	}
	pools := m.cfg.AddressPools
	if pools == nil {
		pools = ipam.DefaultRanges()
	}
	return ipam.Choose(pools, taken)
}

// taken lists what a new subnet must not overlap: routes, addresses and
// resolvers of the host, and the subnets of the networks.
func (m *Manager) taken() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, n := range m.nets {
		for _, c := range n.IPAM.Config {
			if c.Subnet.IsValid() {
				out = append(out, c.Subnet)
			}
		}
	}
	routes, err := m.rt.Routes()
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		out = append(out, r.Dst)
	}
	addrs, err := m.rt.Addrs()
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
func (m *Manager) makeBridge(name string, mtu int) (rtnl.Link, error) {
	mac := make(net.HardwareAddr, 6)
	rand.Read(mac)
	mac[0] = mac[0]&^1 | 2 // locally administered, not a group
	var b rtnl.Batch
	b.AddBridge(rtnl.Bridge{Name: name, MAC: mac, MTU: mtu})
	if err := m.rt.Do(&b); err != nil && !errors.Is(err, unix.EEXIST) {
		return rtnl.Link{}, err
	}
	return m.rt.LinkByName(name)
}

// setAddress gives the bridge exactly one IPv4 address and brings it up.
func (m *Manager) setAddress(link rtnl.Link, want netip.Prefix) error {
	addrs, err := m.rt.Addrs()
	if err != nil {
		return err
	}
	var b rtnl.Batch
	have := false
	for _, a := range addrs {
		switch {
		case a.Link != link.Index || !a.Prefix.Addr().Is4():
		case a.Prefix == want:
			have = true
		default:
			b.DelAddr(link.Index, a.Prefix)
		}
	}
	if !have {
		b.AddAddr(link.Index, want)
	}
	b.SetUp(link.Index)
	if err := m.rt.Do(&b); err != nil {
		return fmt.Errorf("bridge %s: %w", link.Name, err)
	}
	return nil
}
