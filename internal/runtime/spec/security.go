package spec

import (
	"os"
	"strings"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
)

// security reads --security-opt. The seccomp profile was chosen by the caller.
func (b *builder) security() error {
	profile, labels, err := b.options()
	if err != nil {
		return err
	}
	if err := b.appArmor(profile); err != nil {
		return err
	}
	return b.selinux(labels)
}

func (b *builder) options() (profile string, labels []string, err error) {
	for _, opt := range b.in.HostConfig.SecurityOpt {
		if opt == "no-new-privileges" {
			b.spec.Process.NoNewPrivileges = true
			continue
		}
		if opt == "disable" {
			labels = append(labels, "disable")
			continue
		}
		key, value, ok := strings.Cut(opt, "=")
		if !ok {
			// docker's older spelling
			if key, value, ok = strings.Cut(opt, ":"); !ok {
				return "", nil, invalid("invalid --security-opt 1: %q", opt)
			}
		}
		switch key {
		case "label":
			labels = append(labels, value)
		case "apparmor":
			profile = value
		case "seccomp":
		case "no-new-privileges":
			on, err := boolean(value)
			if err != nil {
				return "", nil, invalid("invalid --security-opt 2: %q", opt)
			}
			b.spec.Process.NoNewPrivileges = on
		case "writable-cgroups":
			on, err := boolean(value)
			if err != nil {
				return "", nil, invalid("invalid --security-opt 2: %q", opt)
			}
			b.writableCgroups = &on
		default:
			return "", nil, invalid("invalid --security-opt 2: %q", opt)
		}
	}
	return profile, labels, nil
}

func boolean(s string) (bool, error) {
	switch s {
	case "1", "t", "T", "true", "TRUE", "True":
		return true, nil
	case "0", "f", "F", "false", "FALSE", "False":
		return false, nil
	}
	return false, invalid("not a boolean: %q", s)
}

func (b *builder) appArmor(profile string) error {
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	on := err == nil && len(enabled) > 0 && enabled[0] == 'Y'
	if !on {
		if profile != "" && profile != "unconfined" {
			return invalid("AppArmor is not supported on this host, but the profile '%s' is specified", profile)
		}
		return nil
	}
	if profile == "" {
		profile = b.in.AppArmor
		if b.in.HostConfig.Privileged {
			profile = "unconfined"
		}
	}
	b.spec.Process.ApparmorProfile = profile
	return nil
}

func (b *builder) selinux(opts []string) error {
	if !selinux.GetEnabled() {
		return nil // who asked for labels was told at create
	}
	if b.in.HostConfig.Privileged && len(opts) == 0 {
		opts = []string{"disable"}
	}
	process, file, err := label.InitLabels(opts)
	if err != nil {
		return invalid("%v", err)
	}
	b.spec.Process.SelinuxLabel, b.spec.Linux.MountLabel = process, file
	return nil
}
