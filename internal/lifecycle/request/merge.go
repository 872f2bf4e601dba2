package request

import (
	"slices"
	"strings"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ImageConfig is the part of an image that a container takes over.
type ImageConfig struct {
	ocispec.ImageConfig
	Healthcheck *dockerspec.HealthcheckConfig
	Shell       []string
	OnBuild     []string
}

// MergeImage fills what the user left open in cfg from the image, by docker's
// rules: environment and labels are united (the user's win), Cmd is taken only
// when the user gave neither Entrypoint nor Cmd, everything else when empty.
func MergeImage(cfg *container.Config, img ImageConfig) error {
	if cfg.User == "" {
		cfg.User = img.User
	}
	for p := range img.ExposedPorts {
		port, err := network.ParsePort(p)
		if err != nil {
			return err
		}
		if cfg.ExposedPorts == nil {
			cfg.ExposedPorts = network.PortSet{}
		}
		cfg.ExposedPorts[port] = struct{}{}
	}
	have := map[string]bool{}
	for _, e := range cfg.Env {
		k, _, _ := strings.Cut(e, "=")
		have[k] = true
	}
	for _, e := range img.Env {
		if k, _, _ := strings.Cut(e, "="); !have[k] {
			cfg.Env = append(cfg.Env, e)
		}
	}
	for k, v := range img.Labels {
		if _, ok := cfg.Labels[k]; !ok {
			if cfg.Labels == nil {
				cfg.Labels = map[string]string{}
			}
			cfg.Labels[k] = v
		}
	}
	if len(cfg.Entrypoint) == 0 {
		if len(cfg.Cmd) == 0 {
			cfg.Cmd = slices.Clone(img.Cmd)
			cfg.ArgsEscaped = img.ArgsEscaped //nolint:staticcheck // the API still carries it
		}
		if cfg.Entrypoint == nil {
			cfg.Entrypoint = slices.Clone(img.Entrypoint)
		}
	} else if len(cfg.Entrypoint) == 1 && cfg.Entrypoint[0] == "" {
		cfg.Entrypoint = nil // --entrypoint "" takes the image's away
	}
	switch h := cfg.Healthcheck; {
	case img.Healthcheck == nil:
	case h == nil:
		cfg.Healthcheck = img.Healthcheck
	default:
		if len(h.Test) == 0 {
			h.Test = img.Healthcheck.Test
		}
		if h.Interval == 0 {
			h.Interval = img.Healthcheck.Interval
		}
		if h.Timeout == 0 {
			h.Timeout = img.Healthcheck.Timeout
		}
		if h.StartPeriod == 0 {
			h.StartPeriod = img.Healthcheck.StartPeriod
		}
		if h.StartInterval == 0 {
			h.StartInterval = img.Healthcheck.StartInterval
		}
		if h.Retries == 0 {
			h.Retries = img.Healthcheck.Retries
		}
	}
	if cfg.WorkingDir == "" {
		cfg.WorkingDir = img.WorkingDir
	}
	for v := range img.Volumes {
		if cfg.Volumes == nil {
			cfg.Volumes = map[string]struct{}{}
		}
		cfg.Volumes[v] = struct{}{}
	}
	if cfg.StopSignal == "" {
		cfg.StopSignal = img.StopSignal
	}
	if len(cfg.Shell) == 0 {
		cfg.Shell = img.Shell
	}
	if len(cfg.OnBuild) == 0 {
		cfg.OnBuild = img.OnBuild
	}
	return nil
}
