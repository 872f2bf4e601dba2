// Package netfiles owns what a container is told about its networks: the files
// hosts, hostname and resolv.conf in its /etc, at the start and when networks
// change under a running container, and the names and variables of links.
package netfiles

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	apicontainer "github.com/moby/moby/api/types/container"
	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/network"
	"github.com/wherry-engine/wherry/internal/network/resolv"
)

// nameServer is where containers of user-defined networks ask.
var nameServer = netip.MustParseAddr("127.0.0.11")

// Config is the engine's part.
type Config struct {
	DNS                   []netip.Addr
	DNSSearch, DNSOptions []string
	HostGatewayIPs        []netip.Addr // nil is the default bridge's address
}

// Files writes them. Its methods may be called concurrently, for one container
// while its Op is held.
type Files struct {
	cfg        Config
	networks   *network.Manager
	linkage    network.Links
	containers *container.Store

	mu     sync.Mutex
	linked map[string]bool // targets of links; nil before the first question
}

// New joins the parts.
func New(cfg Config, n *network.Manager, c *container.Store) *Files {
	return &Files{cfg: cfg, networks: n, linkage: network.Links{Manager: n}, containers: c}
}

// Write makes the files of a container that is about to start; own gives each
// to the container's root.
func (f *Files) Write(c *container.Container, own func(path string) error) error {
	r := c.Snapshot()
	hosts, err := f.hosts(&r)
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{"hosts": hosts, "hostname": resolv.Hostname(r.Config.Hostname), "resolv.conf": f.resolvConf(&r)} {
		path := filepath.Join(c.Dir(), name)
		if err := write(path, data); err != nil {
			return err
		}
		if err := own(path); err != nil {
			return err
		}
	}
	return nil
}

// write keeps the file, which a container may have mounted.
func write(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

func (f *Files) hosts(r *container.Record) ([]byte, error) {
	h := r.HostConfig
	if h.NetworkMode.IsHost() && len(h.ExtraHosts) == 0 {
		hosts, err := os.ReadFile("/etc/hosts") // the host's own, as dockerd does
		if !errors.Is(err, os.ErrNotExist) {
			return hosts, err
		}
	}
	in := resolv.HostsInput{Hostname: r.Config.Hostname, Domainname: r.Config.Domainname, Addresses: addresses(r), Extra: h.ExtraHosts}
	for _, l := range f.links(r) {
		in.Links = append(in.Links, resolv.Link{Addr: l.addr, Names: l.names})
	}
	if in.Gateway = f.cfg.HostGatewayIPs; len(in.Gateway) == 0 {
		in.Gateway = f.hostGateway()
	}
	return resolv.Hosts(in)
}

// addresses are the container's own, by the names of the networks.
func addresses(r *container.Record) []netip.Addr {
	var out []netip.Addr
	for _, name := range slices.Sorted(maps.Keys(r.Networks)) {
		if ep := r.Networks[name]; ep != nil {
			for _, a := range []netip.Addr{ep.IPAddress, ep.GlobalIPv6Address} {
				if a.IsValid() {
					out = append(out, a)
				}
			}
		}
	}
	return out
}

// served reports whether the name service answers the container.
func served(r *container.Record) bool {
	for name, ep := range r.Networks {
		if ep != nil && (ep.IPAddress.IsValid() || ep.GlobalIPv6Address.IsValid()) && apicontainer.NetworkMode(name).IsUserDefined() {
			return true
		}
	}
	return false
}

func hasIPv6(r *container.Record) bool {
	for _, ep := range r.Networks {
		if ep != nil && ep.GlobalIPv6Address.IsValid() {
			return true
		}
	}
	return false
}

func (f *Files) resolvConf(r *container.Record) []byte {
	h := r.HostConfig
	o := resolv.Overrides{Servers: h.DNS, Search: h.DNSSearch, Options: h.DNSOptions}
	if len(o.Servers) == 0 {
		o.Servers = f.cfg.DNS
	}
	if len(o.Search) == 0 {
		o.Search = f.cfg.DNSSearch
	}
	if len(o.Options) == 0 {
		o.Options = f.cfg.DNSOptions
	}
	switch host := resolv.Host(); {
	case served(r):
		conf, _ := host.Internal(nameServer, o)
		return conf
	case h.NetworkMode.IsHost():
		return host.Plain(o)
	default:
		return host.Legacy(o, hasIPv6(r))
	}
}

// hostGateway is the default bridge's address on the host.
func (f *Files) hostGateway() []netip.Addr {
	n, err := f.networks.Inspect(apinetwork.NetworkBridge, false)
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, c := range n.IPAM.Config {
		if c.Gateway.IsValid() {
			out = append(out, c.Gateway)
		}
	}
	return out
}
