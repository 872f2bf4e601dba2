package daemon

import (
	"net/netip"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/build"
	"github.com/wherry-engine/wherry/internal/build/executor"
	"github.com/wherry-engine/wherry/internal/config"
	"github.com/wherry-engine/wherry/internal/embedded"
)

// openBuilder makes the builder, which opens when it is first used.
func (s *System) openBuilder() {
	s.builder = build.New(build.Config{
		Root: s.config.DataRoot, ExecRoot: s.config.ExecRoot, Version: s.build.Version, Images: s.images, Registries: s.registries, Events: s.events.Publish,
		Cgroups: s.cgroups, Steps: s.steps, Entitlements: entitlements(s.config.Builder), Limits: cacheLimits(s.config.Builder),
	})
}

// entitlements are what the settings let steps be granted.
func entitlements(c config.Builder) []string {
	var out []string
	if c.HostNetwork {
		out = append(out, "network.host")
	}
	if c.Insecure {
		out = append(out, "security.insecure")
	}
	if c.Devices {
		out = append(out, "device")
	}
	return out
}

func cacheLimits(c config.Builder) build.Limits {
	l := build.Limits{Off: c.GC.Disabled, Reserved: c.GC.Reserved, MaxUsed: c.GC.MaxUsed, MinFree: c.GC.MinFree, HistoryAge: c.History.MaxAge, HistoryEntries: c.History.MaxEntries}
	for _, r := range c.GC.Rules {
		l.Rules = append(l.Rules, build.Rule(r))
	}
	return l
}

// steps is what the settings say of the processes of builds.
func (s *System) steps() (executor.Config, error) {
	lc, err := lifecycleConfig(s.config)
	if err != nil {
		return executor.Config{}, err
	}
	init, err := embedded.Init()
	if err != nil {
		return executor.Config{}, err
	}
	c := executor.Config{
		Init: init, Networks: s.networks, Cgroups: s.cgroups, CgroupParent: lc.CgroupParent, CgroupHostNS: s.config.CgroupnsMode == "host",
		Seccomp: lc.SeccompProfile, Unconfined: lc.SeccompUnconfined, AppArmor: lc.AppArmor, LoadAppArmor: lc.LoadAppArmor, Ulimits: lc.Ulimits, NoNewPrivs: lc.NoNewPrivileges,
		DNS: lc.DNS, DNSSearch: lc.DNSSearch, DNSOptions: lc.DNSOptions, HostGateway: lc.HostGatewayIPs,
		MayUseHostNet: s.config.Builder.HostNetwork, MayBeInsecure: s.config.Builder.Insecure, UIDs: lc.UIDMaps, GIDs: lc.GIDMaps, CDI: cdiDirectories(s.config),
	}
	if len(c.HostGateway) == 0 {
		c.HostGateway = s.bridgeAddress()
	}
	return c, nil
}

// bridgeAddress is what host-gateway stands for.
func (s *System) bridgeAddress() []netip.Addr {
	n, err := s.networks.Inspect(network.NetworkBridge, false)
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
