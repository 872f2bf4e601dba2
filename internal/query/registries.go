package query

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/registry"
)

// registries is what the settings say of them: the hub's mirrors where docker
// has them, those of other registries with their names.
func (h *Host) registries() *registry.ServiceConfig {
	c := &registry.ServiceConfig{InsecureRegistryCIDRs: []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("127.0.0.0/8")},
		IndexConfigs: map[string]*registry.IndexInfo{}, Mirrors: []string{}}
	index := func(name string) *registry.IndexInfo {
		if c.IndexConfigs[name] == nil {
			c.IndexConfigs[name] = &registry.IndexInfo{Name: name, Mirrors: []string{}, Secure: true}
		}
		return c.IndexConfigs[name]
	}
	hub := index("docker.io")
	hub.Official = true
	for _, host := range slices.Sorted(maps.Keys(h.RegistryMirrors)) {
		index(host).Mirrors = append(index(host).Mirrors, h.RegistryMirrors[host]...)
	}
	for _, m := range h.Mirrors {
		hub.Mirrors = append(hub.Mirrors, strings.TrimSuffix(m, "/")+"/")
	}
	c.Mirrors = hub.Mirrors
	for _, name := range h.Insecure {
		if p, err := netip.ParsePrefix(name); err == nil {
			c.InsecureRegistryCIDRs = append(c.InsecureRegistryCIDRs, p)
			continue
		}
		name = strings.TrimPrefix(strings.TrimPrefix(name, "http://"), "https://")
		index(name).Secure = false
	}
	return c
}
