package network

import (
	"net/netip"
	"strings"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/id"
)

// record is what is kept of a network.
type record struct {
	ID         string
	Name       string
	Driver     string
	Created    time.Time
	EnableIPv6 bool              `json:",omitempty"`
	Internal   bool              `json:",omitempty"`
	Attachable bool              `json:",omitempty"`
	UserBridge bool              `json:",omitempty"` // the bridge is the administrator's: never created or removed
	Options    map[string]string `json:",omitempty"`
	Labels     map[string]string `json:",omitempty"`
	IPAM       network.IPAM
}

type recordFile struct {
	Version  int
	Networks []record
}

// predefined are the networks that always exist: name and driver.
var predefined = [][2]string{{network.NetworkBridge, "bridge"}, {network.NetworkHost, "host"}, {network.NetworkNone, "null"}}

func isPredefined(name string) bool {
	for _, p := range predefined {
		if p[0] == name {
			return true
		}
	}
	return false
}

func (n *segment) bridgeName() string {
	if s := n.Options[optBridgeName]; s != "" {
		return s
	}
	return "br-" + id.Short(n.ID)
}

func (n *segment) flag(option string) bool { return n.Options[option] != "false" }

func (n *segment) icc() bool        { return n.flag(optICC) }
func (n *segment) masquerade() bool { return n.flag(optMasquerade) }

// api is the network as the API shows it.
func (n *segment) api() network.Network {
	out := network.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: "local", Driver: n.Driver,
		EnableIPv4: true, EnableIPv6: n.EnableIPv6, Internal: n.Internal, Attachable: n.Attachable,
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

// List lists the networks that match (driver, id, label, name, scope, type,
// dangling), for GET /networks.
func (m *Manager) List(f filter.Args) ([]network.Summary, error) {
	if err := f.Validate("dangling", "driver", "id", "label", "name", "scope", "type"); err != nil {
		return nil, err
	}
	dangling, err := f.Bool("dangling", false)
	if err != nil {
		return nil, err
	}
	for _, t := range f["type"] {
		if t != "builtin" && t != "custom" {
			return nil, invalid("invalid filter: 'type'='%s'", t)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := []network.Summary{}
	for _, n := range m.reg.ordered() {
		kind := "custom"
		if isPredefined(n.Name) {
			kind = "builtin"
		}
		switch {
		case !f.Exact("driver", n.Driver), !f.Prefix("id", n.ID), !f.Labels("label", n.Labels), !contains(f, "name", n.Name), !f.Exact("scope", "local"), !f.Exact("type", kind):
			continue
		case f.Has("dangling") && dangling != (kind == "custom" && len(m.members(n)) == 0):
			continue
		}
		out = append(out, network.Summary{Network: n.api()})
	}
	return out, nil
}

// contains reports whether value has a wanted text in it, or the key is absent.
func contains(f filter.Args, key, value string) bool {
	if !f.Has(key) {
		return true
	}
	for _, want := range f[key] {
		if strings.Contains(value, want) {
			return true
		}
	}
	return false
}

// Inspect describes one network with its running containers.
func (m *Manager) Inspect(ref string, verbose bool) (*network.Inspect, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.reg.find(ref)
	if err != nil {
		return nil, err
	}
	out := &network.Inspect{Network: n.api(), Containers: m.members(n)}
	if n.addrs != nil {
		// What waits in the pool is nobody's yet.
		waiting := m.pool.held(n)
		out.Status = &network.Status{IPAM: network.IPAMStatus{Subnets: map[netip.Prefix]network.SubnetStatus{n.subnet: {
			IPsInUse:            uint64(n.addrs.Used() - waiting + n.addrs.Reserved()),
			DynamicIPsAvailable: n.addrs.Available() + uint64(waiting),
		}}}}
	}
	return out, nil
}

// members are the endpoints of a network by container id. m.mu is held.
func (m *Manager) members(n *segment) map[string]network.EndpointResource {
	out := map[string]network.EndpointResource{}
	for cid, b := range m.boxes {
		ep := b.endpoints[n.ID]
		if ep == nil {
			continue
		}
		r := network.EndpointResource{Name: b.name, EndpointID: ep.EndpointID, MacAddress: ep.MacAddress}
		if m.names != nil {
			r.Name = m.names(cid)
		}
		if ep.IPAddress.IsValid() {
			r.IPv4Address = netip.PrefixFrom(ep.IPAddress, ep.IPPrefixLen)
		}
		if ep.GlobalIPv6Address.IsValid() {
			r.IPv6Address = netip.PrefixFrom(ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen)
		}
		out[cid] = r
	}
	return out
}
