package spec

import (
	"bytes"
	"strings"

	"github.com/moby/moby/api/types/network"
)

// Options of endpoints, by docker's names.
const (
	OptIfName  = "com.docker.network.endpoint.ifname"
	OptSysctls = "com.docker.network.endpoint.sysctls"
)

// Sysctl is a setting of a container's link: Path with the link's name below
// net/, and the value.
type Sysctl struct{ Path, Value string }

// Sysctls reads the settings that an endpoint asks for; link is the link's name.
func Sysctls(ep *network.EndpointSettings, link string) ([]Sysctl, error) {
	text := ep.DriverOpts[OptSysctls]
	if text == "" {
		return nil, nil
	}
	var out []Sysctl
	for s := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(s), "=")
		parts := strings.Split(key, ".")
		if !ok || len(parts) != 5 || parts[0] != "net" || strings.Contains(key, "/") {
			return nil, invalid("unrecognised network interface sysctl '%s'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V'", s)
		}
		if !strings.EqualFold(parts[3], "IFNAME") { // the docker CLI writes it small
			return nil, invalid("unrecognised network interface sysctl '%s'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V'", s)
		}
		for _, p := range parts {
			if p == "" || p == ".." {
				return nil, invalid("unrecognised network interface sysctl '%s'", s)
			}
		}
		parts[3] = link
		out = append(out, Sysctl{strings.Join(parts, "/"), value})
	}
	return out, nil
}

// CheckEndpoint refuses wishes that no network could fulfil.
func CheckEndpoint(ep *network.EndpointSettings) error {
	for _, a := range ep.Aliases {
		if a == "" || strings.ContainsAny(a, " \t\n/") {
			return invalid("invalid network alias %q", a)
		}
	}
	if name, ok := ep.DriverOpts[OptIfName]; ok && (!validLink(name) || strings.Contains(name, "%")) {
		return invalid("invalid interface name %q: 1 to 15 characters without '/', ':' and blanks", name)
	}
	if err := CheckMAC(ep.MacAddress); err != nil {
		return err
	}
	if c := ep.IPAMConfig; c != nil {
		if c.IPv4Address.IsValid() && !c.IPv4Address.Is4() {
			return invalid("invalid endpoint settings:\ninvalid IPv4 address: %s", c.IPv4Address)
		}
		if c.IPv6Address.IsValid() && (!c.IPv6Address.Is6() || c.IPv6Address.Is4In6()) {
			return invalid("invalid endpoint settings:\ninvalid IPv6 address: %s", c.IPv6Address)
		}
		for _, a := range c.LinkLocalIPs {
			if !a.IsLinkLocalUnicast() {
				return invalid("invalid endpoint settings:\ninvalid link-local IP address: %s", a)
			}
		}
	}
	_, err := Sysctls(ep, "eth0")
	return err
}

// CheckMAC refuses addresses that no link can have; an empty one is none.
func CheckMAC(mac network.HardwareAddr) error {
	if len(mac) == 0 {
		return nil
	}
	if len(mac) != 6 || mac[0]&1 != 0 || bytes.Equal(mac, make([]byte, 6)) {
		return invalid("invalid MAC address %s: a link needs a unicast address of 6 bytes", mac)
	}
	return nil
}

// Accepts refuses wishes that a network cannot fulfil, in dockerd's words.
func Accepts(name, driver string, configOnly bool, ep *network.EndpointSettings) error {
	if err := CheckEndpoint(ep); err != nil {
		return err
	}
	if configOnly {
		return forbidden("container cannot be attached to the configuration-only network %s", name)
	}
	if name != network.NetworkBridge && driver != Null {
		return nil
	}
	if len(ep.Aliases) > 0 {
		return invalid("invalid endpoint settings:\nnetwork-scoped aliases are only supported for user-defined networks")
	}
	if c := ep.IPAMConfig; c != nil && (c.IPv4Address.IsValid() || c.IPv6Address.IsValid()) {
		return invalid("invalid endpoint settings:\nuser specified IP address is supported on user defined networks only")
	}
	return nil
}
