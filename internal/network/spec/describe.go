package spec

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/network/ipam"
)

// Describe checks a request and makes the record from it. defaults are driver
// options by driver that the request may lack.
func Describe(r network.CreateRequest, defaults map[string]map[string]string) (Network, error) {
	n := Network{ID: id.New(), Name: r.Name, Driver: r.Driver, Internal: r.Internal, Attachable: r.Attachable, ConfigOnly: r.ConfigOnly,
		Options: maps.Clone(r.Options), Labels: maps.Clone(r.Labels), IPAM: network.IPAM{Driver: ipamDefault}}
	if IsPredefined(r.Name) || r.Name == network.NetworkDefault {
		return n, forbidden("operation is not permitted on predefined %s network ", r.Name)
	}
	// dockerd takes any name; what would be a path or a line of its own in some file is refused here.
	if strings.TrimSpace(r.Name) == "" {
		return n, invalid("invalid network name %q: it is empty", r.Name)
	}
	if strings.ContainsFunc(r.Name, func(c rune) bool { return c == '/' || !unicode.IsPrint(c) }) || len(r.Name) > 255 {
		return n, invalid("invalid network name %q: a slash, characters that cannot be printed and more than 255 bytes are not allowed", r.Name)
	}
	if r.ConfigFrom != nil {
		n.ConfigFrom = r.ConfigFrom.Network
	}
	switch {
	case n.ConfigOnly && (r.Internal || r.Attachable || r.Ingress || r.Scope != ""):
		return n, forbidden("configuration network can only contain network specific fields. Network operator fields like [ ingress | internal | attachable | scope ] are not supported.")
	case n.ConfigOnly && n.ConfigFrom != "":
		return n, invalid("a configuration network cannot depend on another configuration network")
	case n.ConfigOnly && (n.Driver == "" || n.Driver == Bridge):
		n.Driver = Null // as docker shows it
	case n.ConfigOnly:
		return n, forbidden("Config only network cannot have a driver")
	}
	switch n.Driver {
	case "":
		n.Driver = Bridge
	case Bridge, Macvlan, Ipvlan:
	case Null:
		if !n.ConfigOnly {
			return n, forbidden("only one instance of %q network is allowed", r.Driver)
		}
	case Host:
		return n, forbidden("only one instance of %q network is allowed", r.Driver)
	case "overlay":
		return n, errdefs.ErrUnavailable.WithMessage(`This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`)
	}
	if r.Ingress || r.Scope != "" && r.Scope != "local" {
		return n, errdefs.ErrUnavailable.WithMessage(`This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`)
	}
	if r.IPAM != nil {
		if r.IPAM.Driver != "" {
			n.IPAM.Driver = r.IPAM.Driver
		}
		if n.Addressless() && (!n.Plugged() || len(r.IPAM.Config) > 0) {
			return n, invalid("the IPAM driver null gives no addresses: it goes with a network driver that is a plugin, and without --subnet")
		}
		n.IPAM.Options = maps.Clone(r.IPAM.Options)
		n.IPAM.Config = slices.Clone(r.IPAM.Config)
	}
	if n.ConfigFrom == "" {
		for k, v := range defaults[n.Driver] {
			if _, given := n.Options[k]; !given {
				if n.Options == nil {
					n.Options = map[string]string{}
				}
				n.Options[k] = v
			}
		}
	}
	if err := n.families(r.EnableIPv4, r.EnableIPv6); err != nil {
		return n, err
	}
	if n.ConfigFrom != "" { // what it has is checked when it is there
		if len(n.Options) > 0 || len(n.IPAM.Config) > 0 {
			return n, forbidden("user specified configurations are not supported if the network depends on a configuration network")
		}
		return n, nil
	}
	return n, n.Check()
}

// families reads which address families are asked for, by flag or by option.
func (n *Network) families(v4, v6 *bool) error {
	for _, f := range []struct {
		asked  *bool
		option string
		to     func(bool)
	}{{v4, OptEnableIPv4, func(on bool) { n.DisableIPv4 = !on }}, {v6, OptEnableIPv6, func(on bool) { n.EnableIPv6 = on }}} {
		if f.asked != nil {
			f.to(*f.asked)
			continue
		}
		if text, ok := n.Options[f.option]; ok {
			on, err := strconv.ParseBool(text)
			if err != nil {
				return invalid("invalid value for %s: %q: must be true or false", f.option, text)
			}
			f.to(on)
		}
	}
	if n.DisableIPv4 && !n.EnableIPv6 {
		return invalid("IPv4 or IPv6 must be enabled")
	}
	return nil
}

// Inherit takes over what a configuration network says.
func (n *Network) Inherit(from *Network) error {
	if !from.ConfigOnly {
		return forbidden("failed to apply network configuration: %q is not a configuration network", from.Name)
	}
	n.Options, n.IPAM = maps.Clone(from.Options), from.IPAM
	n.IPAM.Config = slices.Clone(from.IPAM.Config)
	n.DisableIPv4, n.EnableIPv6 = from.DisableIPv4, from.EnableIPv6
	if n.Labels == nil {
		n.Labels = maps.Clone(from.Labels)
	}
	return n.Check()
}

// Check refuses what contradicts itself.
func (n *Network) Check() error {
	if err := n.checkOptions(); err != nil {
		return err
	}
	var kept []network.IPAMConfig
	for _, c := range n.IPAM.Config {
		switch {
		case !c.Subnet.IsValid() && !c.Gateway.IsValid() && !c.IPRange.IsValid() && len(c.AuxAddress) == 0:
			continue
		case !c.Subnet.IsValid():
			return invalid("invalid network config:\ninvalid subnet: ip-range and gateway need one")
		case c.Subnet.Addr().Is4() && n.DisableIPv4, c.Subnet.Addr().Is6() && !n.EnableIPv6:
			continue // docker does not look at it either
		}
		kept = append(kept, c)
	}
	n.IPAM.Config = kept
	if n.Driver == Bridge && (len(n.Subnets(false)) > 1 || len(n.Subnets(true)) > 1) {
		return forbidden("bridge driver doesn't support multiple subnets")
	}
	return ipam.Check(n.IPAM.Config)
}

// Subnets lists what is configured of an address family.
func (n *Network) Subnets(six bool) []*network.IPAMConfig {
	var out []*network.IPAMConfig
	for i := range n.IPAM.Config {
		if c := &n.IPAM.Config[i]; c.Subnet.Addr().Is6() == six {
			out = append(out, c)
		}
	}
	return out
}

// checkOptions refuses values that have no meaning. Like dockerd it takes
// options that nobody knows.
func (n *Network) checkOptions() error {
	if n.Plugged() {
		return nil // its driver's business
	}
	for _, o := range []string{OptICC, OptMasquerade, OptInhibitIPv4} {
		if v, ok := n.Options[o]; ok {
			if _, err := strconv.ParseBool(v); err != nil {
				return invalid("invalid value for %s: %q: must be true or false", o, v)
			}
		}
	}
	if v, ok := n.Options[OptMTU]; ok {
		mtu, err := strconv.Atoi(v)
		switch {
		case err != nil || mtu < 0 || mtu > 65535:
			return invalid("invalid value for %s: %q", OptMTU, v)
		case mtu > 0 && mtu < 68:
			return invalid("invalid value for %s: %q: IPv4 needs 68 at least", OptMTU, v)
		case mtu > 0 && mtu < 1280 && n.EnableIPv6:
			return invalid("invalid value for %s: %q: IPv6 needs 1280 at least", OptMTU, v)
		}
	}
	if v := n.Options[OptBridgeName]; v != "" && !validLink(v) {
		return invalid("invalid bridge name %q", v)
	}
	if v := n.Options[OptPrefix]; v != "" && (!validLink(v) || len(v) > maxLink-2) {
		return invalid("invalid interface prefix %q", v)
	}
	for o, six := range map[string]bool{OptBindIP: false, OptHostIPv4: false, OptHostIPv6: true} {
		if v, ok := n.Options[o]; ok && v != "" {
			if a, err := netip.ParseAddr(v); err != nil || a.Is6() != six {
				return invalid("invalid value for %s: %q", o, v)
			}
		}
	}
	for _, o := range []string{OptMode4, OptMode6} {
		switch m := Mode(n.Options[o]); m {
		case "", NAT, Unprotected, Routed:
		case Isolated:
			if !n.Internal {
				return invalid("gateway mode 'isolated' can only be used for an internal network")
			}
		default:
			return invalid("unknown gateway mode %s", m)
		}
	}
	for _, link := range n.Trusted() {
		if !validLink(link) {
			return invalid("invalid value for %s: %q is no name of a link", OptTrusted, link)
		}
	}
	switch n.Driver {
	case Macvlan:
		switch m := n.Options[OptMacvlanMode]; m {
		case "", "bridge", "private", "vepa", "passthru":
		default:
			return invalid("requested macvlan mode '%s' is not valid, 'bridge' mode is the macvlan driver default", m)
		}
	case Ipvlan:
		switch m := n.Options[OptIpvlanMode]; m {
		case "", "l2", "l3", "l3s":
		default:
			return invalid("requested ipvlan mode '%s' is not valid, 'l2' mode is the ipvlan driver default", m)
		}
		switch m := n.Options[OptIpvlanFlag]; m {
		case "", "bridge", "private", "vepa":
		default:
			return invalid("requested ipvlan flag '%s' is not valid, 'bridge' is the ipvlan driver default", m)
		}
	}
	if p := n.Options[OptParent]; p != "" && n.Driver != Bridge {
		if _, _, err := Parent(p); err != nil {
			return err
		}
	}
	return nil
}

// Parent splits the option of that name: eth0.10 is a subinterface of eth0
// with the 802.1q tag 10; without a tag it is the link itself.
func Parent(s string) (link string, tag int, err error) {
	link, text, tagged := strings.Cut(s, ".")
	if !validLink(s) || link == "" {
		return "", 0, invalid("invalid parent %q: not the name of a link", s)
	}
	if !tagged {
		return s, 0, nil
	}
	if tag, err = strconv.Atoi(text); err != nil || tag < 1 || tag > 4094 {
		return "", 0, invalid("vlan id must be between 1-4094, received: %s", text)
	}
	return link, tag, nil
}

const maxLink = 15

func validLink(s string) bool {
	return s != "" && len(s) <= maxLink && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n")
}
