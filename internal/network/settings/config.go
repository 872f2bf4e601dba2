// Package settings owns what an engine is told about its networks: the
// configuration, the checks of it, and the names that follow from it.
package settings

import (
	"fmt"
	"hash/fnv"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/linux/nft"
	"github.com/wherry-engine/wherry/internal/network/firewall"
	"github.com/wherry-engine/wherry/internal/network/ipam"
	"github.com/wherry-engine/wherry/internal/plugin"
)

// DefaultMTU is that of links whose network says nothing else.
const DefaultMTU = 1500

// DefaultBridge is the name of the default network's link on the host.
const DefaultBridge = "wherry0"

// Config is what Open needs. The zero value of a field means docker's default
// unless it says otherwise.
type Config struct {
	Root     string // data root; "" keeps nothing
	ExecRoot string // run-time state; "" keeps nothing

	BridgeName     string       // --bridge: "" is our own wherry0, "none" no default network, else an existing bridge
	BIP            netip.Prefix // --bip: address and prefix length of the default bridge
	FixedCIDR      netip.Prefix // --fixed-cidr: containers' addresses come from here
	DefaultGateway netip.Addr   // --default-gateway: instead of the bridge's address

	IPv6            bool         // --ipv6: the default network has IPv6 too
	BIP6            netip.Prefix // --bip6
	FixedCIDR6      netip.Prefix // --fixed-cidr-v6
	DefaultGateway6 netip.Addr   // --default-gateway-v6

	// NetworkOptions are driver options that new networks get, by driver
	// (--default-network-opt).
	NetworkOptions map[string]map[string]string
	MTU            int          // --mtu; 0 is 1500
	AddressPools   []ipam.Range // --default-address-pool; nil is docker's list
	DefaultBindIP  netip.Addr   // --ip: where ports are published without an address; invalid is every address
	DNS            []netip.Addr // --dns
	DNSSearch      []string     // --dns-search
	DNSOptions     []string     // --dns-opt
	HostGatewayIPs []netip.Addr // --host-gateway-ip; nil is the default bridge's address

	IPForward     bool // --ip-forward: let the host forward packets; docker's default is true
	IPForwardOpen bool // --ip-forward-no-drop: do not drop what other links forward when this engine turned forwarding on
	Firewall      bool // --iptables: write the nftables rules; docker's default is true
	DirectRouting bool // --allow-direct-routing: published ports are open at the containers' own addresses too
	// AcceptMark is the mark of packets that may pass to containers
	// (--bridge-accept-fwmark); without a mask there is none.
	AcceptMark nft.Mark
	// HostPolicy leaves it to the host's own rules who gets in and out
	// (--firewall-mode=host-policy): published ports are sockets of the host, the
	// forward chains of others are not opened.
	HostPolicy     bool
	IPMasq         bool // --ip-masq; docker's default is true
	ICC            bool // --icc; docker's default is true
	UserlandProxy  bool // --userland-proxy: carry IPv6 clients of published ports to containers without IPv6; docker's default is true
	NoLocalPublish bool // published ports are not reachable through 127.0.0.1 (no route_localnet on the bridges)

	// OwnBridge is the bridge chosen by Open: wherry0, or the next free one on
	// a host where another engine has that.
	OwnBridge string

	Plugins *plugin.Set // drivers of networks and of addresses; nil without any

	PoolSize int // wired namespaces kept ready for the default network; < 0 is none, 0 is the usual number
}

func invalid(format string, a ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, a...))
}

// Check refuses what contradicts itself, in dockerd's words.
func (c *Config) Check() error {
	if c.BridgeName != "" && c.BIP.IsValid() {
		return invalid("You specified -b & --bip, mutually exclusive options. Please specify only one")
	}
	if len(c.BridgeName) > 15 {
		return invalid("invalid bridge name %q: longer than 15 characters", c.BridgeName)
	}
	if !c.Firewall && !c.ICC {
		return invalid(`You specified "iptables=false" with "icc=false". ICC=false uses iptables to function. Please set --icc or --iptables to true`)
	}
	if c.HostPolicy && !c.Firewall {
		return invalid(`You specified "iptables=false" with "firewall-mode=host-policy": without rules of ours containers are not kept apart`)
	}
	if c.MTU < 0 {
		return invalid("invalid default MTU: %d", c.MTU)
	}
	if c.BIP.IsValid() && (!c.BIP.Addr().Is4() || c.BIP.Bits() > 30 || c.BIP.Addr() == c.BIP.Masked().Addr()) {
		return invalid("invalid --bip %s: must be the bridge's own IPv4 address with the prefix length of its network", c.BIP)
	}
	if c.FixedCIDR.IsValid() && !c.FixedCIDR.Addr().Is4() {
		return invalid("invalid --fixed-cidr %s: not IPv4", c.FixedCIDR)
	}
	if c.DefaultGateway.IsValid() && !c.DefaultGateway.Is4() {
		return invalid("invalid --default-gateway %s: not IPv4", c.DefaultGateway)
	}
	if c.BIP6.IsValid() && (!c.BIP6.Addr().Is6() || c.BIP6.Addr() == c.BIP6.Masked().Addr()) {
		return invalid("invalid --bip6 %s: must be the bridge's own IPv6 address with the prefix length of its network", c.BIP6)
	}
	if c.FixedCIDR6.IsValid() && !c.FixedCIDR6.Addr().Is6() {
		return invalid("invalid --fixed-cidr-v6 %s: not IPv6", c.FixedCIDR6)
	}
	if c.DefaultGateway6.IsValid() && !c.DefaultGateway6.Is6() {
		return invalid("invalid --default-gateway-v6 %s: not IPv6", c.DefaultGateway6)
	}
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	return nil
}

// Bridge is the name of the default bridge's link; "" for no default network.
func (c *Config) Bridge() string {
	switch c.BridgeName {
	case "":
		if c.OwnBridge != "" {
			return c.OwnBridge
		}
		return DefaultBridge
	case "none":
		return ""
	}
	return c.BridgeName
}

// Table is the name of this engine's table: the plain one for the engine
// that has the plain bridge, so that several engines on a host, each with a
// data root of its own, do not overwrite one another's.
func (c *Config) Table() string {
	switch name := c.Bridge(); {
	case c.BridgeName == "" && name == DefaultBridge || c.Root == "":
		return firewall.TableName
	case c.BridgeName == "":
		return name
	}
	sum := fnv.New32a()
	sum.Write([]byte(c.Root))
	return fmt.Sprintf("%s-%08x", firewall.TableName, sum.Sum32())
}
