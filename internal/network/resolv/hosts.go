package resolv

import (
	"bytes"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
)

// HostGateway is the word for "the host's own address" in --add-host.
const HostGateway = "host-gateway"

// HostsInput is what /etc/hosts is made from.
type HostsInput struct {
	Hostname, Domainname string
	Addresses            []netip.Addr // the container's own
	NoIPv6               bool         // the loopback has no IPv6: leave its names out
	Extra                []string     // HostConfig.ExtraHosts: "name:address", address may be host-gateway
	Gateway              []netip.Addr // what host-gateway stands for
	Links                []Link
}

// Link is a name for another container (--link on the default network).
type Link struct {
	Addr  netip.Addr
	Names []string
}

// Hosts is /etc/hosts: the loopback's names, the extra hosts, links, and the
// container's own addresses.
func Hosts(in HostsInput) ([]byte, error) {
	var b bytes.Buffer
	line := func(a, names string) { b.WriteString(a + "\t" + names + "\n") }
	line("127.0.0.1", "localhost")
	if !in.NoIPv6 {
		line("::1", "localhost ip6-localhost ip6-loopback")
		line("fe00::", "ip6-localnet")
		line("ff00::", "ip6-mcastprefix")
		line("ff02::1", "ip6-allnodes")
		line("ff02::2", "ip6-allrouters")
	}
	extra, err := ExtraHosts(in.Extra, in.Gateway)
	if err != nil {
		return nil, err
	}
	b.Write(extra)
	for _, l := range in.Links {
		line(l.Addr.String(), strings.Join(l.Names, " "))
	}
	own := in.Hostname
	if in.Domainname != "" {
		own = in.Hostname + "." + in.Domainname + " " + in.Hostname
	}
	for _, a := range in.Addresses {
		if own != "" {
			line(a.String(), own)
		}
	}
	return b.Bytes(), nil
}

// ExtraHosts are the lines of --add-host entries.
func ExtraHosts(entries []string, gateway []netip.Addr) ([]byte, error) {
	var b bytes.Buffer
	line := func(a, names string) { b.WriteString(a + "\t" + names + "\n") }
	for _, e := range entries {
		// The name ends at the first colon; an IPv6 address has more of them.
		name, addr, ok := strings.Cut(e, ":")
		if !ok || name == "" {
			return nil, errdefs.ErrInvalidArgument.WithMessage("bad format for add-host: \"" + e + "\"")
		}
		if addr == HostGateway {
			if len(gateway) == 0 {
				return nil, errdefs.ErrInvalidArgument.WithMessage("unable to derive the IP value for host-gateway")
			}
			for _, g := range gateway {
				line(g.String(), name)
			}
			continue
		}
		a, err := netip.ParseAddr(strings.Trim(addr, "[]"))
		if err != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage("invalid IP address in add-host: \"" + addr + "\"")
		}
		line(a.String(), name)
	}
	return b.Bytes(), nil
}

// Hostname is /etc/hostname.
func Hostname(name string) []byte { return []byte(name + "\n") }
