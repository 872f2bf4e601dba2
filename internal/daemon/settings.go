package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/moby/moby/api/types/system"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	buildapi "github.com/wherry-engine/wherry/internal/build/api"
	"github.com/wherry-engine/wherry/internal/config"
	"github.com/wherry-engine/wherry/internal/cp"
	"github.com/wherry-engine/wherry/internal/httpapi"
	"github.com/wherry-engine/wherry/internal/httpapi/listen"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/idmap"
	"github.com/wherry-engine/wherry/internal/lifecycle"
	"github.com/wherry-engine/wherry/internal/lifecycle/membership"
	"github.com/wherry-engine/wherry/internal/network"
	"github.com/wherry-engine/wherry/internal/network/ipam"
	"github.com/wherry-engine/wherry/internal/network/resolv"
	"github.com/wherry-engine/wherry/internal/plugin"
	"github.com/wherry-engine/wherry/internal/query"
	"github.com/wherry-engine/wherry/internal/runtime/cdi"
	"github.com/wherry-engine/wherry/internal/runtime/foreign"
)

// cgroupParent is where the groups of containers lie.
func cgroupParent(c *config.Config) string {
	switch {
	case c.CgroupParent != "" && c.CgroupDriver != "systemd":
		return filepath.Join("/", c.CgroupParent)
	case c.CgroupParent != "":
		return c.CgroupParent
	case c.CgroupDriver == "systemd":
		return "system.slice"
	}
	return "/wherry"
}

// initPath is where the program behind --init lies.
func initPath(c *config.Config) string { return filepath.Join(c.ExecRoot, "docker-init") }

// live is what a reload changes for containers.
func live(c *config.Config) lifecycle.Live {
	return lifecycle.Live{CgroupNamespace: c.CgroupnsMode, IpcMode: c.IpcMode, ShmSize: c.ShmSize, StopTimeout: c.DefaultStopTimeout, StopAtClose: !c.LiveRestore}
}

func lifecycleConfig(c *config.Config) (lifecycle.Config, error) {
	lc := lifecycle.Config{
		DataRoot: c.DataRoot, ExecRoot: c.ExecRoot, CgroupParent: cgroupParent(c), Live: live(c),
		Ulimits: c.Ulimits, Init: c.Init, InitPath: initPath(c), NoNewPrivileges: c.NoNewPrivileges, LogDriver: c.LogDriver, LogOptions: c.LogOpts,
		DNS: c.DNS.Servers, DNSSearch: c.DNS.Search, DNSOptions: c.DNS.Options, HostGatewayIPs: c.DNS.HostGateway,
		CDI: cdiDirectories(c), WritableSize: c.WritableSize,
	}
	lc.Runtimes = foreign.Set{Dir: filepath.Join(c.ExecRoot, "runtimes"), Systemd: c.CgroupDriver == "systemd", Programs: map[string]foreign.Program{}}
	for name, r := range c.Runtimes {
		lc.Runtimes.Programs[name] = foreign.Program{Path: r.Path, Args: r.Args}
	}
	if lc.DefaultRuntime = c.DefaultRuntime; c.DefaultRuntime == config.DefaultRuntime {
		lc.DefaultRuntime = lifecycle.DefaultRuntime
	} else if _, ok := lc.Runtimes.Find(c.DefaultRuntime); !ok {
		return lc, fmt.Errorf("default runtime %q: no such program is installed", c.DefaultRuntime)
	}
	lc.AppArmor, _ = appArmor() // why not is a warning of info
	lc.LoadAppArmor = loadAppArmor
	remap, err := idmap.Load(c.UsernsRemap, "/etc")
	if err != nil {
		return lc, err
	}
	lc.UIDMaps, lc.GIDMaps = idMaps(remap.UIDs), idMaps(remap.GIDs)
	switch c.SeccompProfile {
	case "", "builtin":
	case "unconfined":
		lc.SeccompUnconfined = true
	default:
		var err error
		if lc.SeccompProfile, err = os.ReadFile(c.SeccompProfile); err != nil {
			return lc, fmt.Errorf("opening seccomp profile failed: %w", err)
		}
	}
	return lc, nil
}

// cdiDirectories are where device specifications lie. One empty name turns
// them off, as in dockerd.
func cdiDirectories(c *config.Config) cdi.Directories {
	switch {
	case len(c.CDISpecDirs) == 0:
		return cdi.Directories{"/etc/cdi", "/var/run/cdi"}
	case len(c.CDISpecDirs) == 1 && c.CDISpecDirs[0] == "":
		return nil
	}
	return cdi.Directories(c.CDISpecDirs)
}

func idMaps(list []idmap.Range) []specs.LinuxIDMapping {
	var out []specs.LinuxIDMapping
	for _, r := range list {
		out = append(out, specs.LinuxIDMapping{ContainerID: r.Container, HostID: r.Host, Size: r.Size})
	}
	return out
}

func networkConfig(c *config.Config, plugins *plugin.Set) (network.Config, error) {
	b := c.Bridge
	nc := network.Config{
		Root: c.DataRoot, ExecRoot: c.ExecRoot, Plugins: plugins, BridgeName: b.Name, DefaultGateway: b.Gateway, MTU: b.MTU, DefaultBindIP: b.DefaultIP,
		DNS: c.DNS.Servers, DNSSearch: c.DNS.Search, DNSOptions: c.DNS.Options, HostGatewayIPs: c.DNS.HostGateway,
		IPForward: b.Forward, IPForwardOpen: b.ForwardOpen, UserlandProxy: b.UserlandProxy, Firewall: b.Firewall, IPMasq: b.Masquerade, ICC: b.ICC,
		IPv6: b.IPv6, DefaultGateway6: b.Gateway6, DirectRouting: b.DirectRouting, HostPolicy: b.FirewallMode == "host-policy", NetworkOptions: b.NetworkOptions,
	}
	if c.DNS.File != "" {
		if _, err := os.Stat(c.DNS.File); err != nil {
			return nc, fmt.Errorf("resolv-conf: %w", err)
		}
		resolv.Read(c.DNS.File)
	}
	var err error
	if nc.AcceptMark.Value, nc.AcceptMark.Mask, err = b.Mark(); err != nil {
		return nc, err
	}
	for _, p := range b.AddressPools {
		nc.AddressPools = append(nc.AddressPools, ipam.Range{Base: p.Base, Size: p.Size})
	}
	for _, p := range []struct {
		text string
		to   *netip.Prefix
	}{{b.IP, &nc.BIP}, {b.FixedCIDR, &nc.FixedCIDR}, {b.IP6, &nc.BIP6}, {b.FixedCIDR6, &nc.FixedCIDR6}} {
		if p.text == "" {
			continue
		}
		var err error
		if *p.to, err = netip.ParsePrefix(p.text); err != nil {
			return nc, err
		}
	}
	return nc, nil
}

// host is what `info` and `version` say of the engine.
func (s *System) host() (query.Host, error) {
	c := s.config
	engineID, err := engineID(c.DataRoot)
	if err != nil {
		return query.Host{}, err
	}
	h := query.Host{
		Version: s.build.Version, GitCommit: s.build.Commit, APIVersion: httpapi.MaxVersion, MinAPIVersion: c.MinAPIVersion, ID: engineID,
		DataRoot: c.DataRoot, Labels: c.Labels, LogDriver: c.LogDriver, InitBinary: "docker-init", LiveRestore: c.LiveRestore, Debug: c.Debug,
		HTTPProxy: shownProxy(proxyOf(c.Registry.HTTPProxy, "HTTP_PROXY")), HTTPSProxy: shownProxy(proxyOf(c.Registry.HTTPSProxy, "HTTPS_PROXY")),
		NoProxy: proxyOf(c.Registry.NoProxy, "NO_PROXY"), Mirrors: c.Registry.Mirrors, Insecure: c.Registry.Insecure,
		SecurityOptions: []string{"name=seccomp,profile=" + seccompName(c)}, StorageDriver: s.images.Snapshots().Driver(),
		CDI:            cdiDirectories(c),
		EventListeners: s.events.Listeners, DefaultRuntime: c.DefaultRuntime,
		Runtimes: map[string]system.RuntimeWithStatus{config.DefaultRuntime: {Runtime: system.Runtime{Path: "wherry-init"}}}, NetworkWarnings: s.networks.Warnings,
		VolumeDrivers: s.volumes.Drivers, NetworkDrivers: network.Plugged{Manager: s.networks}.Drivers,
	}
	h.RegistryMirrors = map[string][]string{}
	for name, r := range c.Registry.Hosts {
		for _, m := range r.Mirrors {
			h.RegistryMirrors[name] = append(h.RegistryMirrors[name], m.URL)
		}
	}
	for name, r := range c.Runtimes {
		h.Runtimes[name] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: r.Path, Args: r.Args}}
	}
	if _, ok := h.Runtimes["runc"]; !ok {
		if path, err := exec.LookPath("runc"); err == nil {
			h.Runtimes["runc"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: path}}
		}
	}
	switch profile, err := appArmor(); {
	case err != nil:
		h.Warnings = append(h.Warnings, "WARNING: AppArmor is enabled, but containers run unconfined: "+err.Error())
	case profile != "":
		h.SecurityOptions = append([]string{"name=apparmor"}, h.SecurityOptions...)
	}
	h.Warnings = append(h.Warnings, listen.Warnings(c)...)
	if s.cgroups.Version() == 2 {
		h.SecurityOptions = append(h.SecurityOptions, "name=cgroupns")
	}
	if c.UsernsRemap != "" && c.UsernsRemap != "root" {
		h.SecurityOptions = append(h.SecurityOptions, "name=userns")
	}
	if c.NoNewPrivileges {
		h.SecurityOptions = append(h.SecurityOptions, "name=no-new-privileges")
	}
	if c.Bridge.Firewall {
		h.Firewall = "nftables"
	}
	for _, p := range c.Bridge.AddressPools {
		h.AddressPools = append(h.AddressPools, system.NetworkAddressPool{Base: p.Base, Size: p.Size})
	}
	return h, nil
}

func seccompName(c *config.Config) string {
	if c.SeccompProfile == "" {
		return "builtin"
	}
	return c.SeccompProfile
}

// engineID is the id of this data root, made at its first use.
func engineID(root string) (string, error) {
	path := filepath.Join(root, "engine.json")
	var v struct{ ID string }
	data, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := json.Unmarshal(data, &v); err != nil || v.ID == "" {
			return "", fmt.Errorf("%s is damaged; remove it to get a new engine id", path)
		}
		return v.ID, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	v.ID = id.New()
	if data, err = json.Marshal(v); err != nil {
		return "", err
	}
	return v.ID, atomicfile.Write(path, data, 0o600, atomicfile.Synced)
}

// backends gives the API's routes what they stand on.
func (s *System) backends() httpapi.Backends {
	images := removable{s.images, s.builder}
	return httpapi.Backends{
		Lifecycle: s.engine, Changes: s.engine, Sessions: s.sessions, Views: s.view, Images: images, ImagePruner: pruner{images},
		Puller: puller{s.registries, s.images}, Registries: s.registries, Networks: membership.New(s.networks, s.store, s.engine.Files(), s.events), Reach: network.Sight{Manager: s.networks}, Volumes: s.volumes, Usage: s.usage(), Secrets: s.secrets, Builder: buildapi.Server{Builder: s.builder}, Bootstrapper: bootstrapper{s.server.Serve},
		Files: cp.New(s.store, s.images, s.engine, lifecycle.MountsOf(s.engine), s.events), Events: s.events, Cgroup2: s.cgroups.Version() == 2,
	}
}
