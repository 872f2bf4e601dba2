// Package request owns the checks of what a client asks of a container, with
// dockerd's words, and what it takes over from its image.
package request

import (
	"fmt"
	"net/netip"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/sys/signal"
	"github.com/opencontainers/selinux/go-selinux"

	"github.com/wherry-engine/wherry/internal/lifecycle/mountspec"
	"github.com/wherry-engine/wherry/internal/linux/cgroup"
	"github.com/wherry-engine/wherry/internal/network/resolv"
	"github.com/wherry-engine/wherry/internal/runtime/limits"
)

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// Validate checks what a client asks for before anything is made, with
// dockerd's words. It returns warnings about what this kernel cannot do; the
// settings concerned are taken out of h.
func Validate(cfg *container.Config, h *container.HostConfig, f cgroup.Features) ([]string, error) {
	if cfg != nil {
		if err := validateConfig(cfg); err != nil {
			return nil, err
		}
	}
	if h == nil {
		return nil, nil
	}
	if h.AutoRemove && !h.RestartPolicy.IsNone() {
		return nil, invalid("can't create 'AutoRemove' container with restart policy")
	}
	for i := range h.Mounts {
		if cfg == nil {
			break // an update: what is mounted is no part of it, and may have gone
		}
		if _, err := mountspec.Mount(&h.Mounts[i]); err != nil {
			return nil, err
		}
	}
	if err := container.ValidateRestartPolicy(h.RestartPolicy); err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	switch {
	case h.NetworkMode.IsContainer() && h.NetworkMode.ConnectedContainer() == "":
		return nil, invalid("Invalid network mode: invalid container format container:<name|id>")
	case !h.Isolation.IsDefault():
		return nil, invalid("invalid isolation (%s): %s only supports 'default'", h.Isolation, runtime.GOOS)
	case !h.IpcMode.Valid():
		return nil, invalid("invalid IPC mode: %s", h.IpcMode)
	case !h.PidMode.Valid():
		return nil, invalid("invalid PID mode: %s", h.PidMode)
	case !h.UTSMode.Valid():
		return nil, invalid("invalid UTS mode: %s", h.UTSMode)
	case !h.UsernsMode.Valid():
		return nil, invalid("invalid userns mode: %s", h.UsernsMode)
	case !h.CgroupnsMode.Valid():
		return nil, invalid("invalid cgroup namespace mode: %s", h.CgroupnsMode)
	case h.Privileged && !h.UsernsMode.IsHost() && h.UsernsMode != "":
		return nil, invalid("privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode")
	case h.ShmSize < 0:
		return nil, invalid("SHM size can not be less than 0")
	case h.OomScoreAdj < -1000 || h.OomScoreAdj > 1000:
		return nil, invalid("Invalid value %d, range for oom score adj is [-1000, 1000]", h.OomScoreAdj)
	}
	// What host-gateway stands for is found out at the start.
	if _, err := resolv.ExtraHosts(h.ExtraHosts, []netip.Addr{netip.IPv6Unspecified()}); err != nil {
		return nil, err
	}
	for _, bindings := range h.PortBindings {
		for _, b := range bindings {
			if _, err := network.ParsePortRange(b.HostPort); err != nil && b.HostPort != "" {
				return nil, invalid("invalid port specification: %q", b.HostPort)
			}
		}
	}
	for k := range h.Annotations {
		if k == "" {
			return nil, invalid("invalid Annotations: the empty string is not permitted as an annotation key")
		}
	}
	if h.NetworkMode.IsHost() && h.UTSMode == "" && cfg != nil && cfg.Domainname != "" && h.UTSMode.IsHost() {
		return nil, invalid("conflicting options: domainname and the network mode")
	}
	if len(h.Sysctls) > 0 {
		for k := range h.Sysctls {
			if h.IpcMode.IsHost() && (strings.HasPrefix(k, "kernel.") || strings.HasPrefix(k, "fs.mqueue.")) {
				return nil, invalid("sysctl %q is not allowed in the hosts ipc namespace", k)
			}
			if h.NetworkMode.IsHost() && strings.HasPrefix(k, "net.") {
				return nil, invalid("sysctl %q not allowed in host network namespace", k)
			}
		}
	}
	if h.IOMaximumBandwidth != 0 || h.IOMaximumIOps != 0 {
		return nil, invalid("Invalid QoS settings: %s does not support Maximum IO Bandwidth or Maximum IO IOps", runtime.GOOS)
	}
	warnings, err := limits.Check(&h.Resources, f)
	if h.NetworkMode.IsHost() && len(h.PortBindings) > 0 {
		warnings = append(warnings, "Published ports are discarded when using host network mode")
	}
	if cfg != nil && !selinux.GetEnabled() && slices.ContainsFunc(h.SecurityOpt, asksForLabel) {
		warnings = append(warnings, "SELinux is not enabled on this host. Label options discarded.")
	}
	return warnings, err
}

// asksForLabel reports whether a security option sets an SELinux label.
func asksForLabel(opt string) bool {
	for _, sep := range []string{"=", ":"} {
		if what, value, ok := strings.Cut(opt, sep); ok && what == "label" {
			return value != "disable"
		}
	}
	return false
}

func validateConfig(cfg *container.Config) error {
	if cfg.WorkingDir != "" {
		if !path.IsAbs(cfg.WorkingDir) {
			return invalid("the working directory '%s' is invalid, it needs to be an absolute path", cfg.WorkingDir)
		}
		cfg.WorkingDir = path.Clean(cfg.WorkingDir)
	}
	for _, e := range cfg.Env {
		if strings.HasPrefix(e, "=") || e == "" {
			return invalid("invalid environment variable: %s", e)
		}
		if strings.ContainsRune(e, 0) {
			return invalid("invalid environment variable %q: contains a nul byte", e)
		}
	}
	if cfg.StopSignal != "" {
		if _, err := signal.ParseSignal(cfg.StopSignal); err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
	}
	if h := cfg.Healthcheck; h != nil {
		for _, d := range []struct {
			name  string
			value int64
		}{{"Interval", int64(h.Interval)}, {"Timeout", int64(h.Timeout)}, {"StartPeriod", int64(h.StartPeriod)}, {"StartInterval", int64(h.StartInterval)}} {
			if d.value != 0 && d.value < int64(container.MinimumDuration) {
				return invalid("%s in Healthcheck cannot be less than %s", d.name, container.MinimumDuration)
			}
		}
		if h.Retries < 0 {
			return invalid("Retries in Healthcheck cannot be negative")
		}
	}
	return nil
}
