package network

import (
	"net/netip"
	"os"
	"slices"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/network/resolv"
)

// Files is what the files of a container about names are made from.
type Files struct {
	// Network is HostConfig.NetworkMode ("host" as well).
	Network              string
	Endpoints            map[string]*network.EndpointSettings // Sandbox.Endpoints
	Hostname, Domainname string
	ExtraHosts           []string      // HostConfig.ExtraHosts
	Links                []resolv.Link // resolved --link on the default network
	DNS                  []netip.Addr  // HostConfig.DNS; empty leaves it to the engine's configuration, then the host
	DNSSearch            []string
	DNSOptions           []string
}

func pick[T any](first, second []T) []T {
	if len(first) > 0 {
		return first
	}
	return second
}

// overrides are the user's words, the engine's where the user said none.
func (m *Manager) overrides(f Files) resolv.Overrides {
	return resolv.Overrides{
		Servers: pick(f.DNS, m.cfg.DNS),
		Search:  pick(f.DNSSearch, m.cfg.DNSSearch),
		Options: pick(f.DNSOptions, m.cfg.DNSOptions),
	}
}

// ResolvConf is the container's /etc/resolv.conf.
func (m *Manager) ResolvConf(f Files) []byte {
	host, o := resolv.Host(), m.overrides(f)
	if f.Network == network.NetworkHost {
		return host.Plain(o)
	}
	return host.Legacy(o, false)
}

// Hosts is the container's /etc/hosts. A container in the host's namespace,
// with no names of its own, has the host's file.
func (m *Manager) Hosts(f Files) ([]byte, error) {
	in := resolv.HostsInput{Hostname: f.Hostname, Domainname: f.Domainname, Extra: f.ExtraHosts, Links: f.Links, Gateway: m.HostGateway()}
	if f.Network == network.NetworkHost {
		extra, err := resolv.ExtraHosts(in.Extra, in.Gateway)
		if err != nil {
			return nil, err
		}
		data, err := os.ReadFile("/etc/hosts")
		if err != nil {
			data = nil // a host without the file: the container has one with the extra names
		}
		if len(data) > 0 && data[len(data)-1] != '\n' {
			data = append(data, '\n')
		}
		return append(data, extra...), nil
	}
	names := make([]string, 0, len(f.Endpoints))
	for name := range f.Endpoints {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if a := f.Endpoints[name].IPAddress; a.IsValid() {
			in.Addresses = append(in.Addresses, a)
		}
	}
	return resolv.Hosts(in)
}

// Hostname is the container's /etc/hostname.
func (m *Manager) Hostname(f Files) []byte { return resolv.Hostname(f.Hostname) }

// HostGateway is what host-gateway stands for: --host-gateway-ip, else the
// default bridge's address.
func (m *Manager) HostGateway() []netip.Addr {
	if len(m.cfg.HostGatewayIPs) > 0 {
		return slices.Clone(m.cfg.HostGatewayIPs)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.byName(network.NetworkBridge); n != nil && n.own.IsValid() {
		return []netip.Addr{n.own}
	}
	return nil
}
