package query

import (
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/logs/driver"
	"github.com/wherry-engine/wherry/internal/runtime/cdi"
)

// Host is what the engine knows of itself and was configured for.
type Host struct {
	Version, GitCommit, BuildTime  string
	APIVersion, MinAPIVersion      string
	ID, DataRoot                   string
	Labels                         []string
	LogDriver                      string
	InitBinary                     string
	LiveRestore, Debug             bool
	HTTPProxy, HTTPSProxy, NoProxy string
	Mirrors, Insecure              []string
	RegistryMirrors                map[string][]string // of other registries than the hub, too
	SecurityOptions                []string
	StorageDriver                  string
	StorageStatus                  [][2]string
	Firewall                       string
	AddressPools                   []system.NetworkAddressPool
	EventListeners                 func() int
	NetworkWarnings                func() []string
	VolumeDrivers, NetworkDrivers  func() []string
	Warnings                       []string
	Runtimes                       map[string]system.RuntimeWithStatus
	DefaultRuntime                 string
	CDI                            cdi.Directories
}

// Info describes the engine and its host, with docker's warnings about what
// this kernel cannot do.
func (v *View) Info(ctx context.Context) (*system.Info, error) {
	f, h := v.cgroups.Features(), v.host.Load()
	i := &system.Info{
		ID: h.ID, Driver: h.StorageDriver, DriverStatus: h.StorageStatus, DockerRootDir: h.DataRoot, Labels: h.Labels,
		Plugins:     system.PluginsInfo{Volume: h.VolumeDrivers(), Network: h.NetworkDrivers(), Log: driver.Names()},
		MemoryLimit: f.Memory, SwapLimit: f.MemorySwap, CPUCfsPeriod: f.CPUQuota, CPUCfsQuota: f.CPUQuota, CPUShares: f.CPUShares, CPUSet: f.Cpuset,
		PidsLimit: f.Pids, OomKillDisable: f.OOMKillDisable, IPv4Forwarding: sysctlOn("/proc/sys/net/ipv4/ip_forward"), Debug: h.Debug,
		NFd: openDescriptors(), NGoroutines: runtime.NumGoroutine(), SystemTime: time.Now().Format(time.RFC3339Nano), LoggingDriver: h.LogDriver,
		CgroupDriver: string(v.cgroups.Driver()), CgroupVersion: strconv.Itoa(v.cgroups.Version()), NEventsListener: h.EventListeners(),
		OSType: runtime.GOOS, Architecture: unameMachine(), IndexServerAddress: "https://index.docker.io/v1/", NCPU: runtime.NumCPU(),
		HTTPProxy: h.HTTPProxy, HTTPSProxy: h.HTTPSProxy, NoProxy: h.NoProxy, ServerVersion: h.Version,
		DefaultRuntime: h.DefaultRuntime, Runtimes: h.Runtimes,
		RegistryConfig: h.registries(), LiveRestoreEnabled: h.LiveRestore, InitBinary: h.InitBinary, SecurityOptions: h.SecurityOptions,
		Swarm: swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive}, CDISpecDirs: append([]string{}, h.CDI...), DefaultAddressPools: h.AddressPools,
		Warnings: append([]string{}, h.Warnings...),
	}
	if h.Firewall != "" {
		i.FirewallBackend = &system.FirewallInfo{Driver: h.Firewall}
	}
	devices, warnings := h.CDI.List()
	i.DiscoveredDevices, i.Warnings = append([]system.DeviceInfo{}, devices...), append(i.Warnings, warnings...)
	for _, c := range v.store.All() {
		r := c.Snapshot()
		i.Containers++
		switch {
		case r.State.Paused:
			i.ContainersPaused++
		case r.State.Running:
			i.ContainersRunning++
		default:
			i.ContainersStopped++
		}
	}
	images, err := v.images.List(ctx, image.ListOptions{Filters: filter.Args{}})
	if err != nil {
		return nil, err
	}
	i.Images = len(images)
	i.Name = v.Name()
	i.KernelVersion = kernelVersion()
	i.OperatingSystem, i.OSVersion = osRelease()
	var mem unix.Sysinfo_t
	if unix.Sysinfo(&mem) == nil {
		i.MemTotal = int64(mem.Totalram) * int64(mem.Unit)
	}
	for _, w := range h.NetworkWarnings() {
		i.Warnings = append(i.Warnings, "WARNING: "+w)
	}
	for _, w := range []struct {
		have bool
		text string
	}{
		{f.Memory, "No memory limit support"}, {f.MemorySwap, "No swap limit support"}, {f.CPUQuota, "No cpu cfs quota support"},
		{f.CPUQuota, "No cpu cfs period support"}, {f.CPUShares, "No cpu shares support"}, {f.Cpuset, "No cpuset support"},
		{f.Pids, "No pids limit support"}, {i.IPv4Forwarding, "IPv4 forwarding is disabled"}, {f.BlkioWeight, "No blkio weight support"},
	} {
		if !w.have {
			i.Warnings = append(i.Warnings, "WARNING: "+w.text)
		}
	}
	return i, nil
}

// Version describes the engine's build.
func (v *View) Version() *system.VersionResponse {
	h := v.host.Load()
	return &system.VersionResponse{
		Platform: system.PlatformInfo{Name: "Wherry Engine"}, Version: h.Version, APIVersion: h.APIVersion, MinAPIVersion: h.MinAPIVersion,
		Os: runtime.GOOS, Arch: runtime.GOARCH, GitCommit: h.GitCommit, GoVersion: runtime.Version(), KernelVersion: kernelVersion(), BuildTime: h.BuildTime,
		Components: []system.ComponentVersion{{Name: "Engine", Version: h.Version, Details: map[string]string{
			"ApiVersion": h.APIVersion, "MinAPIVersion": h.MinAPIVersion, "Arch": runtime.GOARCH, "Os": runtime.GOOS, "GitCommit": h.GitCommit,
			"GoVersion": runtime.Version(), "KernelVersion": kernelVersion(), "BuildTime": h.BuildTime, "Experimental": "false",
		}}},
	}
}

// ID is the engine's own id, kept in its data root.
func (v *View) ID() string { return v.host.Load().ID }

// Name is the host's name.
func (v *View) Name() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}

func kernelVersion() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "<unknown>"
	}
	return unix.ByteSliceToString(u.Release[:])
}

func unameMachine() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return runtime.GOARCH
	}
	return unix.ByteSliceToString(u.Machine[:])
}

// osRelease reads the distribution's name and version, os-release(5).
func osRelease() (name, version string) {
	name = "Linux"
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(data), "\n") {
			k, value, _ := strings.Cut(line, "=")
			value = strings.Trim(value, `"'`)
			switch k {
			case "PRETTY_NAME":
				name = value
			case "VERSION_ID":
				version = value
			}
		}
		break
	}
	return name, version
}

func sysctlOn(path string) bool {
	b, err := os.ReadFile(path)
	return err == nil && strings.TrimSpace(string(b)) != "0"
}

func openDescriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(entries)
}
