package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/atomicfile"
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

func (m *Manager) recordFile() string { return filepath.Join(m.cfg.Root, "network", "networks.json") }

// loadNetworks reads the records and adds the predefined networks that are
// missing from them.
func (m *Manager) loadNetworks() error {
	if m.cfg.Root != "" {
		data, err := os.ReadFile(m.recordFile())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil {
			var f recordFile
			if err := json.Unmarshal(data, &f); err != nil {
				return fmt.Errorf("%s: %w", m.recordFile(), err)
			}
			if f.Version != 1 {
				return fmt.Errorf("%s: version %d is not known to this engine", m.recordFile(), f.Version)
			}
			for _, r := range f.Networks {
				m.nets[r.ID] = &segment{record: r}
			}
		}
	}
	added := false
	for _, p := range predefined {
		n := m.byName(p[0])
		if n == nil {
			n = &segment{record: record{ID: id.New(), Name: p[0], Driver: p[1], Created: time.Now().UTC()}}
			m.nets[n.ID] = n
			added = true
		}
		n.IPAM = network.IPAM{Driver: "default"}
	}
	if !added {
		return nil
	}
	return m.saveNetworks()
}

func (m *Manager) saveNetworks() error {
	if m.cfg.Root == "" {
		return nil
	}
	f := recordFile{Version: 1}
	for _, n := range m.ordered() {
		f.Networks = append(f.Networks, n.record)
	}
	data, err := json.MarshalIndent(f, "", "\t")
	if err != nil {
		return err
	}
	// An id that is lost costs nothing; a user's network would.
	d := atomicfile.Cached
	if len(f.Networks) > len(predefined) {
		d = atomicfile.Synced
	}
	return atomicfile.Write(m.recordFile(), data, 0o600, d)
}

func (m *Manager) byName(name string) *segment {
	for _, n := range m.nets {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// ordered lists the networks, the newest first as docker does, names deciding.
func (m *Manager) ordered() []*segment {
	out := make([]*segment, 0, len(m.nets))
	for _, n := range m.nets {
		out = append(out, n)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// find resolves an id, a name or a unique prefix of an id, in this order.
// m.mu is held.
func (m *Manager) find(ref string) (*segment, error) {
	if n := m.nets[ref]; n != nil {
		return n, nil
	}
	if ref == network.NetworkDefault {
		ref = network.NetworkBridge
	}
	if n := m.byName(ref); n != nil {
		return n, nil
	}
	var found []*segment
	if ref != "" {
		for _, n := range m.nets {
			if strings.HasPrefix(n.ID, ref) {
				found = append(found, n)
			}
		}
	}
	switch len(found) {
	case 0:
		return nil, errdefs.ErrNotFound.WithMessage("network " + ref + " not found")
	case 1:
		return found[0], nil
	}
	return nil, invalid("network %s is ambiguous (%d matches found based on ID prefix)", ref, len(found))
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
	for _, n := range m.ordered() {
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
	n, err := m.find(ref)
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
