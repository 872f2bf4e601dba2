// Package older owns older API versions: what their requests mean in the newest,
// and the answers that their clients know.
package older

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
)

func invalid(message string) error { return errdefs.ErrInvalidArgument.WithMessage(message) }

// Create rewrites a request of an older version to what it means in the
// newest one: fields that the version did not have are dropped, defaults that
// it had are put in. data is the body, for members that the types no longer have.
func Create(req *container.CreateRequest, data []byte, v int, cgroup2 bool) (warnings []string, err error) {
	host, nets := req.HostConfig, req.NetworkingConfig
	if host.NetworkMode == "" || host.NetworkMode.IsDefault() {
		host.NetworkMode = network.NetworkBridge
		if e, ok := nets.EndpointsConfig[network.NetworkDefault]; ok {
			delete(nets.EndpointsConfig, network.NetworkDefault)
			nets.EndpointsConfig[network.NetworkBridge] = e
		}
	}
	if v < 40 && host.IpcMode.IsEmpty() {
		host.IpcMode = container.IPCModeShareable
	}
	if v < 41 && host.CgroupnsMode.IsEmpty() && !cgroup2 {
		host.CgroupnsMode = container.CgroupnsModeHost
	}
	if v < 42 {
		host.ConsoleSize = [2]uint{}
	}
	if v < 43 {
		host.Annotations = nil
	}
	if v < 44 {
		if req.Healthcheck != nil {
			req.Healthcheck.StartInterval = 0
		}
		if len(nets.EndpointsConfig) > 1 {
			names := slices.Sorted(maps.Keys(nets.EndpointsConfig))
			return nil, invalid("Container cannot be created with multiple network endpoints: " + strings.Join(names, ", "))
		}
	}
	if v < 48 {
		for _, e := range nets.EndpointsConfig {
			if e != nil {
				e.GwPriority = 0
			}
		}
	}
	if v < 56 {
		host.Umask = nil
	}
	for i := range host.Mounts {
		if err := adaptMount(&host.Mounts[i], v); err != nil {
			return nil, err
		}
	}
	if host.PidsLimit != nil && *host.PidsLimit <= 0 {
		host.PidsLimit = nil
	}
	var old struct{ HostConfig struct{ KernelMemory int64 } }
	if bytes.Contains(data, []byte("KernelMemory")) && json.Unmarshal(data, &old) == nil && old.HostConfig.KernelMemory > 0 {
		warnings = append(warnings, "Your kernel does not support kernel memory limit capabilities or the cgroup is not mounted. Limitation discarded.")
	}
	var empty []string
	for port, bindings := range host.PortBindings {
		if len(bindings) == 0 {
			host.PortBindings[port] = []network.PortBinding{{}}
			empty = append(empty, port.String())
		}
	}
	if len(empty) > 0 && v >= 52 {
		slices.Sort(empty)
		warnings = append(warnings, "Following container port(s) have an empty list of port-bindings: "+strings.Join(empty, ", ")+". Such bindings will be discarded in a future version.")
	}
	warning, err := adaptMAC(req, data, v)
	if warning != "" {
		warnings = append(warnings, warning)
	}
	return warnings, err
}

// adaptMount also refuses options of another type of mount, as dockerd does
// since 1.42; before, they were ignored.
func adaptMount(m *mount.Mount, v int) error {
	b := m.BindOptions
	if b != nil && v < 40 {
		b.NonRecursive = false
	}
	if v < 42 {
		if b != nil {
			b.CreateMountpoint = false
		}
		if m.Type != mount.TypeVolume {
			m.VolumeOptions = nil
		}
		if m.Type != mount.TypeTmpfs {
			m.TmpfsOptions = nil
		}
	} else {
		for _, o := range []struct {
			set  bool
			name string
			kind mount.Type
		}{
			{m.VolumeOptions != nil, "VolumeOptions", mount.TypeVolume},
			{b != nil, "BindOptions", mount.TypeBind},
			{m.TmpfsOptions != nil, "TmpfsOptions", mount.TypeTmpfs},
		} {
			if o.set && m.Type != o.kind {
				return invalid(fmt.Sprintf("%s must not be specified on mount type %q", o.name, m.Type))
			}
		}
	}
	if v < 44 && m.Type == mount.TypeBind {
		if b != nil && b.ReadOnlyForceRecursive {
			return invalid("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
		}
		if m.ReadOnly { // read-only was not recursive then
			if b == nil {
				m.BindOptions = &mount.BindOptions{}
			}
			m.BindOptions.ReadOnlyNonRecursive = true
		}
	}
	if v < 45 && m.VolumeOptions != nil && m.VolumeOptions.Subpath != "" {
		return invalid("VolumeOptions.Subpath needs API v1.45 or newer")
	}
	if v < 48 && m.Type == mount.TypeImage {
		return invalid(`Mount type "Image" needs API v1.48 or newer`)
	}
	return nil
}

// adaptMAC moves the hardware address that a container had before 1.44 to the
// endpoint that has it now.
func adaptMAC(req *container.CreateRequest, data []byte, v int) (warning string, err error) {
	var old struct{ MacAddress network.HardwareAddr }
	if !strings.Contains(string(data), "MacAddress") {
		return "", nil
	}
	if err := json.Unmarshal(data, &old); err != nil {
		return "", invalid("invalid JSON: " + err.Error())
	}
	nets, mode := req.NetworkingConfig, req.HostConfig.NetworkMode
	if len(old.MacAddress) == 0 {
		if v < 44 { // endpoints had none then
			for _, e := range nets.EndpointsConfig {
				if e != nil {
					e.MacAddress = nil
				}
			}
		}
		return "", nil
	}
	if v >= 52 {
		return "", nil // dockerd ignores it from here on
	}
	if !mode.IsBridge() && !mode.IsUserDefined() {
		if v < 44 {
			return "", invalid("conflicting options: mac-address and the network mode")
		}
		return "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead.", nil
	}
	e, err := endpointOf(nets, mode.NetworkName(), v)
	if err != nil {
		return "", err
	}
	if v < 44 {
		e.MacAddress = old.MacAddress
		return "", nil
	}
	if len(e.MacAddress) > 0 && !slices.Equal(e.MacAddress, old.MacAddress) {
		return "", invalid("the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty")
	}
	e.MacAddress = old.MacAddress
	return "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead.", nil
}

// endpointOf finds or makes the endpoint of the container's main network.
func endpointOf(nets *network.NetworkingConfig, name string, v int) (*network.EndpointSettings, error) {
	if len(nets.EndpointsConfig) == 0 {
		nets.EndpointsConfig = map[string]*network.EndpointSettings{name: {}}
	}
	if v < 44 { // there is at most one
		for only := range nets.EndpointsConfig {
			name = only
		}
	}
	e, ok := nets.EndpointsConfig[name]
	if !ok {
		return nil, invalid("unable to migrate container-wide MAC address to a specific network: HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks")
	}
	if e == nil {
		e = &network.EndpointSettings{}
		nets.EndpointsConfig[name] = e
	}
	return e, nil
}
