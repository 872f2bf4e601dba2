package network

import (
	"fmt"
	"hash/fnv"

	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/network/firewall"
)

const defaultMTU = 1500

func invalid(format string, a ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, a...))
}

// check refuses what contradicts itself, in dockerd's words.
func (c *Config) check() error {
	if c.BridgeName != "" && c.BIP.IsValid() {
		return invalid("You specified -b & --bip, mutually exclusive options. Please specify only one")
	}
	if len(c.BridgeName) > 15 {
		return invalid("invalid bridge name %q: longer than 15 characters", c.BridgeName)
	}
	if !c.Firewall && !c.ICC {
		return invalid(`You specified "iptables=false" with "icc=false". ICC=false uses iptables to function. Please set --icc or --iptables to true`)
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
	if c.MTU == 0 {
		c.MTU = defaultMTU
	}
	return nil
}

// bridge is the name of the default bridge's link; "" for no default network.
func (c *Config) bridge() string {
	switch c.BridgeName {
	case "":
		if c.ownBridge != "" {
			return c.ownBridge
		}
		return DefaultBridge
	case "none":
		return ""
	}
	return c.BridgeName
}

// table is the name of this engine's table: the plain one for the engine
// that has the plain bridge, so that several engines on a host, each with a
// data root of its own, do not overwrite one another's.
func (c *Config) table() string {
	switch name := c.bridge(); {
	case c.BridgeName == "" && name == DefaultBridge || c.Root == "":
		return firewall.TableName
	case c.BridgeName == "":
		return name
	}
	sum := fnv.New32a()
	sum.Write([]byte(c.Root))
	return fmt.Sprintf("%s-%08x", firewall.TableName, sum.Sum32())
}
