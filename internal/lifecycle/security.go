package lifecycle

import (
	"strconv"
	"strings"

	"github.com/wherry-engine/wherry/internal/container"
)

// security is what --security-opt and the engine's defaults say of one container.
type security struct {
	seccomp         string // "" the default, "unconfined", or a profile's JSON
	apparmor        string // "" the default
	labels          []string
	noNewPrivileges bool
	unconfinedPaths bool // systempaths=unconfined
}

// parseSecurity reads --security-opt in both of its forms, key=value and the
// older key:value.
func (p *parts) parseSecurity(c *container.Record) (security, error) {
	s := security{noNewPrivileges: p.cfg.NoNewPrivileges}
	if p.cfg.SeccompUnconfined || c.HostConfig.Privileged {
		s.seccomp = "unconfined"
	} else if p.cfg.SeccompProfile != nil {
		s.seccomp = string(p.cfg.SeccompProfile)
	}
	for _, opt := range c.HostConfig.SecurityOpt {
		switch opt {
		case "no-new-privileges":
			s.noNewPrivileges = true
			continue
		case "disable":
			s.labels = append(s.labels, "disable")
			continue
		}
		key, value, ok := strings.Cut(opt, "=")
		if !ok {
			if key, value, ok = strings.Cut(opt, ":"); !ok {
				return s, invalid("invalid --security-opt 1: %q", opt)
			}
		}
		switch key {
		case "seccomp":
			s.seccomp = value
			if value == "builtin" {
				s.seccomp = ""
			}
		case "apparmor":
			s.apparmor = value
		case "label":
			s.labels = append(s.labels, value)
		case "no-new-privileges":
			on, err := strconv.ParseBool(value)
			if err != nil {
				return s, invalid("invalid --security-opt 2: %q", opt)
			}
			s.noNewPrivileges = on
		case "systempaths":
			if value != "unconfined" {
				return s, invalid("invalid --security-opt: %q", opt)
			}
			s.unconfinedPaths = true
		case "writable-cgroups":
			return s, invalid("invalid --security-opt: %q is not served by this version of wherryd", opt)
		default:
			return s, invalid("invalid --security-opt 2: %q", opt)
		}
	}
	return s, nil
}

// applySecurity checks the options and keeps what inspect shows of them.
func (mk *maker) applySecurity(c *container.Container) error {
	s, err := mk.parseSecurity(&c.Record)
	if err != nil {
		return err
	}
	if s.unconfinedPaths {
		c.HostConfig.MaskedPaths, c.HostConfig.ReadonlyPaths = []string{}, []string{}
	}
	if s.seccomp != "" && s.seccomp != "unconfined" {
		if _, err := mk.filters.Load([]byte(s.seccomp), nil); err != nil {
			return invalid("decoding seccomp profile failed: %v", err)
		}
	}
	c.AppArmorProfile = s.apparmor
	if s.apparmor == "" && mk.cfg.AppArmor != "" {
		c.AppArmorProfile = mk.cfg.AppArmor
		if c.HostConfig.Privileged {
			c.AppArmorProfile = "unconfined"
		}
	}
	return nil
}
