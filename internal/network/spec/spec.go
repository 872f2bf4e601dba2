// Package spec owns what a network is: the record that is kept of it, the
// options of its driver and of its endpoints, and the checks of what a client
// asks for, in dockerd's words. It touches nothing outside its memory.
package spec

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/id"
)

// Network is the record of a network.
type Network struct {
	ID          string
	Name        string
	Driver      string
	Created     time.Time
	DisableIPv4 bool              `json:",omitempty"`
	EnableIPv6  bool              `json:",omitempty"`
	Internal    bool              `json:",omitempty"`
	Attachable  bool              `json:",omitempty"`
	ConfigOnly  bool              `json:",omitempty"` // nothing but a template for ConfigFrom of others
	ConfigFrom  string            `json:",omitempty"`
	UserBridge  bool              `json:",omitempty"` // the bridge is the administrator's: never created or removed
	UserParent  bool              `json:",omitempty"` // likewise the parent of a macvlan or ipvlan network
	Options     map[string]string `json:",omitempty"`
	Labels      map[string]string `json:",omitempty"`
	IPAM        network.IPAM
	Pools       []*Pool `json:",omitempty"` // its subnets, where a plugin has the addresses
}

// Pool is a subnet of a network that a plugin manages the addresses of.
type Pool struct {
	ID      string       // the plugin's
	Space   string       // the address space that it is of
	Subnet  netip.Prefix // of the network
	Range   netip.Prefix `json:",omitzero"` // what was asked for
	Gateway netip.Addr   `json:",omitzero"` // is kept by the plugin for the network; invalid for none
	Aux     []netip.Addr `json:",omitempty"`
	Chosen  bool         `json:",omitempty"` // by the plugin, for want of a wish
}

// Plugged reports whether the network's driver is a plugin.
func (n *Network) Plugged() bool {
	switch n.Driver {
	case Bridge, Macvlan, Ipvlan, Host, Null:
		return false
	}
	return true
}

// The engine's own ways to have addresses: by itself, and not at all.
const (
	ipamDefault = "default"
	ipamNull    = "null"
)

// PluggedIPAM reports whether a plugin has the addresses.
func (n *Network) PluggedIPAM() bool {
	return n.IPAM.Driver != "" && n.IPAM.Driver != ipamDefault && n.IPAM.Driver != ipamNull
}

// Addressless reports whether the engine chooses no addresses: the network's driver does.
func (n *Network) Addressless() bool { return n.IPAM.Driver == ipamNull }

// PoolOf is the plugin's pool that is this subnet; nil for none.
func (n *Network) PoolOf(subnet netip.Prefix) *Pool {
	for _, p := range n.Pools {
		if p.Subnet == subnet {
			return p
		}
	}
	return nil
}

// Chosen reports whether a plugin chose the subnet.
func (n *Network) Chosen(subnet netip.Prefix) bool {
	p := n.PoolOf(subnet)
	return p != nil && p.Chosen
}

// Space is the space that the network's addresses are unique in.
func (n *Network) Space(subnet netip.Prefix) string {
	if p := n.PoolOf(subnet); p != nil && n.Plugged() {
		return n.IPAM.Driver + "/" + p.Space
	}
	return "" // of this host
}

// The drivers served.
const (
	Bridge  = "bridge"
	Macvlan = "macvlan"
	Ipvlan  = "ipvlan"
	Host    = "host"
	Null    = "null"
)

// Predefined are the networks that always exist: name and driver.
var Predefined = [][2]string{{network.NetworkBridge, Bridge}, {network.NetworkHost, Host}, {network.NetworkNone, Null}}

// IsPredefined reports whether a network of that name always exists.
func IsPredefined(name string) bool {
	for _, p := range Predefined {
		if p[0] == name {
			return true
		}
	}
	return false
}

// Options of the drivers, by docker's names.
const (
	OptDefaultBridge = "com.docker.network.bridge.default_bridge"
	OptICC           = "com.docker.network.bridge.enable_icc"
	OptMasquerade    = "com.docker.network.bridge.enable_ip_masquerade"
	OptBindIP        = "com.docker.network.bridge.host_binding_ipv4"
	OptBridgeName    = "com.docker.network.bridge.name"
	OptInhibitIPv4   = "com.docker.network.bridge.inhibit_ipv4"
	OptTrusted       = "com.docker.network.bridge.trusted_host_interfaces"
	OptMode4         = "com.docker.network.bridge.gateway_mode_ipv4"
	OptMode6         = "com.docker.network.bridge.gateway_mode_ipv6"
	OptPrefix        = "com.docker.network.container_iface_prefix"
	OptMTU           = "com.docker.network.driver.mtu"
	OptHostIPv4      = "com.docker.network.host_ipv4"
	OptHostIPv6      = "com.docker.network.host_ipv6"
	OptEnableIPv4    = "com.docker.network.enable_ipv4"
	OptEnableIPv6    = "com.docker.network.enable_ipv6"
	OptParent        = "parent"
	OptMacvlanMode   = "macvlan_mode"
	OptIpvlanMode    = "ipvlan_mode"
	OptIpvlanFlag    = "ipvlan_flag"
)

// Mode says how a bridge network is joined to what is around the host.
type Mode string

// The gateway modes.
const (
	NAT         Mode = "nat"             // sources rewritten on the way out, published ports alone on the way in
	Unprotected Mode = "nat-unprotected" // the same, but all ports of the containers' own addresses are open
	Routed      Mode = "routed"          // nothing rewritten; published ports are open at the containers' own addresses
	Isolated    Mode = "isolated"        // an internal network whose bridge has no address of the host's
)

// BridgeName is the name of the network's bridge.
func (n *Network) BridgeName() string {
	if s := n.Options[OptBridgeName]; s != "" {
		return s
	}
	return "br-" + id.Short(n.ID)
}

// flag is a switch that is on unless it was turned off.
func (n *Network) flag(option string) bool {
	on, err := strconv.ParseBool(n.Options[option])
	return err != nil || on
}

// ICC reports whether containers of the network reach each other.
func (n *Network) ICC() bool { return n.flag(OptICC) }

// Mode is the gateway mode of an address family.
func (n *Network) Mode(six bool) Mode {
	o := OptMode4
	if six {
		o = OptMode6
	}
	if m := n.Options[o]; m != "" {
		return Mode(m)
	}
	return NAT
}

// Masquerade reports whether sources of an address family are rewritten on the
// way out.
func (n *Network) Masquerade(six bool) bool {
	m := n.Mode(six)
	return !n.Internal && n.flag(OptMasquerade) && (m == NAT || m == Unprotected)
}

// BridgeAddress reports whether the bridge gets the gateway's address.
func (n *Network) BridgeAddress(six bool) bool {
	if !six {
		if on, _ := strconv.ParseBool(n.Options[OptInhibitIPv4]); on {
			return false
		}
	}
	return n.Mode(six) != Isolated
}

// Trusted are the host's links from which published ports can be reached at
// the containers' own addresses.
func (n *Network) Trusted() []string {
	return strings.FieldsFunc(n.Options[OptTrusted], func(r rune) bool { return r == ':' })
}

// MTU is the option's, 0 without.
func (n *Network) MTU() int {
	mtu, _ := strconv.Atoi(n.Options[OptMTU])
	return mtu
}

// BindIP is where ports are published that name no address; invalid without
// the option.
func (n *Network) BindIP() netip.Addr {
	a, _ := netip.ParseAddr(n.Options[OptBindIP])
	return a
}

// HostIP is the source that packets get on their way out; invalid for the
// address of the link they leave by.
func (n *Network) HostIP(six bool) netip.Addr {
	o := OptHostIPv4
	if six {
		o = OptHostIPv6
	}
	a, _ := netip.ParseAddr(n.Options[o])
	return a
}

// Prefix begins the names of the containers' links.
func (n *Network) Prefix() string {
	if p := n.Options[OptPrefix]; p != "" {
		return p
	}
	return "eth"
}

// API is the network as the API shows it.
func (n *Network) API() network.Network {
	out := network.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: "local", Driver: n.Driver,
		EnableIPv4: !n.DisableIPv4, EnableIPv6: n.EnableIPv6, Internal: n.Internal, Attachable: n.Attachable,
		ConfigOnly: n.ConfigOnly, ConfigFrom: network.ConfigReference{Network: n.ConfigFrom},
		IPAM: n.IPAM, Options: map[string]string{}, Labels: map[string]string{},
	}
	for k, v := range n.Options {
		out.Options[k] = v
	}
	for k, v := range n.Labels {
		out.Labels[k] = v
	}
	return out
}

func invalid(format string, a ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, a...))
}

func forbidden(format string, a ...any) error {
	return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(format, a...))
}
