package network

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/api"
	"github.com/wherry-engine/wherry/internal/network/segment"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// Sight tells who can reach what.
type Sight struct{ *Manager }

// Reach tells of the published ports of all running containers who can reach
// them, by container id.
func (s Sight) Reach() map[string][]api.PortReach {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string][]api.PortReach{}
	for id, b := range s.boxes {
		if list := s.of(b); len(list) > 0 {
			out[id] = list
		}
	}
	return out
}

// ReachOf is Reach for one container.
func (s Sight) ReachOf(containerID string) []api.PortReach {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.boxes[containerID]
	if b == nil {
		return nil
	}
	return s.of(b)
}

func (s Sight) of(b *box) []api.PortReach {
	var out []api.PortReach
	for port, bindings := range b.ports {
		for _, binding := range bindings {
			out = append(out, api.PortReach{Port: port.String(), HostIP: binding.HostIP.String(), HostPort: binding.HostPort, From: s.from(b.door, binding)})
		}
	}
	slices.SortFunc(out, func(x, y api.PortReach) int {
		return cmp.Or(cmp.Compare(x.Port, y.Port), cmp.Compare(x.HostIP, y.HostIP), cmp.Compare(x.HostPort, y.HostPort))
	})
	return out
}

// from says it in words.
func (s Sight) from(d door, b network.PortBinding) string {
	ip := b.HostIP.Unmap()
	f := segment.FamilyOf(ip)
	if b.HostPort == "" {
		return fmt.Sprintf("everyone with a route to %s", d.addr[f])
	}
	var who string
	switch {
	case ip.IsLoopback():
		who = "this host"
	case s.cfg.HostPolicy && ip.IsUnspecified():
		who = "whom the host's input rules accept"
	case s.cfg.HostPolicy:
		who = fmt.Sprintf("whom the host's input rules accept at %s", ip)
	case ip.IsUnspecified():
		who = "everyone who reaches this host"
	default:
		who = fmt.Sprintf("everyone who reaches %s", ip)
	}
	n := d.seg[f]
	switch {
	case n == nil:
	case n.Mode(f.Six()) == spec.Unprotected:
		who += fmt.Sprintf("; everyone with a route to %s", d.addr[f])
	case s.cfg.DirectRouting:
		who += fmt.Sprintf("; everyone with a route to %s", d.addr[f])
	case len(n.Trusted()) > 0:
		who += fmt.Sprintf("; %s at %s", strings.Join(n.Trusted(), ", "), d.addr[f])
	}
	return who
}
