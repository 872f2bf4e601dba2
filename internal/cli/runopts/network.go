package runopts

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// endpoints builds the settings per network. The stand-alone flags
// (--network-alias, --ip, --mac-address, --link-local-ip, --link) belong to
// the first network and conflict with the same setting in its long form.
func (o *Options) endpoints() (map[string]*network.EndpointSettings, error) {
	out := map[string]*network.EndpointSettings{}
	nets := o.nets.Value()
	if len(nets) == 0 {
		ep, err := o.firstEndpoint(opts.NetworkAttachmentOpts{Target: "default"})
		if err != nil {
			return nil, err
		}
		out["default"] = ep
		return out, nil
	}
	user, builtin := false, false
	for i, n := range nets {
		if container.NetworkMode(n.Target).IsUserDefined() {
			user = true
		} else {
			builtin = true
		}
		build := endpoint
		if i == 0 {
			build = o.firstEndpoint
		}
		ep, err := build(n)
		if err != nil {
			return nil, err
		}
		if _, ok := out[n.Target]; ok {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("network %q is specified multiple times", n.Target))
		}
		if len(nets) == 1 && reflect.ValueOf(*ep).IsZero() {
			continue // the engine fills in a plain endpoint by itself
		}
		out[n.Target] = ep
	}
	if user && builtin {
		return nil, errdefs.ErrInvalidArgument.WithMessage("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
	}
	return out, nil
}

func (o *Options) firstEndpoint(n opts.NetworkAttachmentOpts) (*network.EndpointSettings, error) {
	for _, c := range []struct {
		conflict bool
		flag     string
		what     string
	}{
		{len(n.Aliases) > 0 && o.aliases.Len() > 0, "--network-alias", "per-network alias"},
		{len(n.Links) > 0 && o.links.Len() > 0, "--link", "per-network links"},
		{n.IPv4Address.IsValid() && o.ip != "", "--ip", "per-network IPv4 address"},
		{n.IPv6Address.IsValid() && o.ip6 != "", "--ip6", "per-network IPv6 address"},
		{n.MacAddress != "" && o.mac != "", "--mac-address", "per-network MAC address"},
		{len(n.LinkLocalIPs) > 0 && o.linkLocal.Len() > 0, "--link-local-ip", "per-network link-local IP addresses"},
	} {
		if c.conflict {
			return nil, errdefs.ErrInvalidArgument.WithMessage("conflicting options: cannot specify both " + c.flag + " and " + c.what)
		}
	}
	if o.aliases.Len() > 0 {
		n.Aliases = o.aliases.GetSlice()
	}
	// On the default bridge a link is the engine's old kind, in HostConfig.
	if container.NetworkMode(n.Target).IsUserDefined() && o.links.Len() > 0 {
		n.Links = o.links.GetSlice()
	}
	for _, f := range []struct {
		flag  string
		value string
		dst   *netip.Addr
		is    func(netip.Addr) bool
	}{{"--ip", o.ip, &n.IPv4Address, netip.Addr.Is4}, {"--ip6", o.ip6, &n.IPv6Address, netip.Addr.Is6}} {
		if f.value == "" {
			continue
		}
		a, err := netip.ParseAddr(f.value)
		if err != nil || !f.is(a) {
			return nil, fmt.Errorf("invalid address for %s: %s", f.flag, f.value)
		}
		*f.dst = a
	}
	if o.mac != "" {
		n.MacAddress = o.mac
	}
	for _, s := range o.linkLocal.GetSlice() {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("invalid address for --link-local-ip: %s", s)
		}
		n.LinkLocalIPs = append(n.LinkLocalIPs, a)
	}
	return endpoint(n)
}

func endpoint(n opts.NetworkAttachmentOpts) (*network.EndpointSettings, error) {
	if strings.TrimSpace(n.Target) == "" {
		return nil, errors.New("no name set for network")
	}
	if !container.NetworkMode(n.Target).IsUserDefined() {
		if len(n.Aliases) > 0 {
			return nil, errors.New("network-scoped aliases are only supported for user-defined networks")
		}
		if len(n.Links) > 0 {
			return nil, errors.New("links are only supported for user-defined networks")
		}
	}
	ep := &network.EndpointSettings{GwPriority: n.GwPriority}
	if len(n.Aliases) > 0 {
		ep.Aliases = n.Aliases
	}
	if len(n.DriverOpts) > 0 {
		ep.DriverOpts = n.DriverOpts
	}
	if len(n.Links) > 0 {
		ep.Links = n.Links
	}
	if n.IPv4Address.IsValid() || n.IPv6Address.IsValid() || len(n.LinkLocalIPs) > 0 {
		ep.IPAMConfig = &network.EndpointIPAMConfig{
			IPv4Address: n.IPv4Address, IPv6Address: n.IPv6Address, LinkLocalIPs: n.LinkLocalIPs,
		}
	}
	if n.MacAddress != "" {
		mac, err := net.ParseMAC(strings.TrimSpace(n.MacAddress))
		if err != nil {
			return nil, fmt.Errorf("%s is not a valid mac address", n.MacAddress)
		}
		ep.MacAddress = network.HardwareAddr(mac)
	}
	return ep, nil
}
