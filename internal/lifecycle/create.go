package lifecycle

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/go-units"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/lifecycle/request"
	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/logs/driver"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
	"github.com/wherry-engine/wherry/internal/snapshot"
	"github.com/wherry-engine/wherry/internal/undo"
)

// maker turns requests into records: what the user left open is filled in from
// the image and the engine's configuration, and everything is checked.
type maker struct{ *parts }

// CreateRequest is what a client asks for.
type CreateRequest struct {
	Name       string
	Config     *apicontainer.Config
	HostConfig *apicontainer.HostConfig
	Networking *apinetwork.NetworkingConfig
	Platform   string // os/arch[/variant], "" is the host's
}

// Create makes a container that does not run yet. When it returns without
// error the record is on disk (handed to the kernel only, for --rm).
func (e *Engine) Create(ctx context.Context, r CreateRequest) (apicontainer.CreateResponse, error) {
	var resp apicontainer.CreateResponse
	if r.Config == nil {
		return resp, invalid("config cannot be empty in order to create a container")
	}
	if r.HostConfig == nil {
		r.HostConfig = &apicontainer.HostConfig{}
	}
	c := &container.Container{Record: container.Record{
		ID: id.New(), Created: time.Now().UTC(), Config: r.Config, HostConfig: r.HostConfig, Platform: "linux", Driver: e.snapshots.Driver(),
	}}
	// Before the image is looked for: a client would fetch one in vain.
	e.make.applyDefaults(c.HostConfig)
	warnings, err := request.Validate(c.Config, c.HostConfig, e.cgroups.Features())
	if err != nil {
		return resp, err
	}
	if err := errors.Join(e.make.validateUser(c.HostConfig), e.make.validateRuntime(c.HostConfig), e.make.checkExtensions(c.HostConfig)); err != nil {
		return resp, err
	}
	if _, err := spec.Capabilities(c.HostConfig); err != nil {
		return resp, err
	}
	lower, foreign, err := e.make.applyImage(ctx, c, r.Platform)
	if err != nil {
		return resp, err
	}
	if _, err := request.Validate(c.Config, nil, e.cgroups.Features()); err != nil {
		return resp, err // the image's
	}
	if len(c.Config.Volumes) == 0 {
		c.Config.Volumes = nil
	}
	argv := append(append([]string{}, c.Config.Entrypoint...), c.Config.Cmd...)
	if len(argv) == 0 {
		return resp, invalid("no command specified")
	}
	c.Path, c.Args = argv[0], argv[1:]
	if err := e.make.applyNetworking(c, r.Networking); err != nil {
		return resp, err
	}
	if err := e.make.applyNames(c); err != nil {
		return resp, err
	}
	if err := e.make.applySecurity(c); err != nil {
		return resp, err
	}

	var u undo.Stack
	defer u.Run()
	if err := e.make.reserve(c, r.Name); err != nil {
		return resp, err
	}
	u.Add(func() { e.store.Free(c.Name, c.ID) })
	u.Add(func() { e.mounts.Drop(c, true) })
	if err := e.mounts.Resolve(ctx, c); err != nil {
		return resp, err
	}
	if err := e.mounts.Populate(ctx, c, lower.Dirs); err != nil {
		return resp, err
	}
	if err := e.make.applyLog(c); err != nil {
		return resp, err
	}
	c.CgroupPath = e.cgroupPath(&c.Record)
	if err := e.make.writable(c, lower); err != nil {
		return resp, err
	}
	u.Add(func() { warn("take back writable layer", c.ID, e.snapshots.RemoveWritable(c.ID)) })
	durability := atomicfile.Synced
	if c.HostConfig.AutoRemove {
		durability = atomicfile.Cached
	}
	if err := e.store.Add(c, durability); err != nil {
		return resp, err
	}
	u.Keep()
	e.publish(c, events.ActionCreate, nil)
	if foreign != "" {
		warnings = append(warnings, foreign)
	}
	resp.ID, resp.Warnings = c.ID, append([]string{}, warnings...)
	return resp, nil
}

// applyImage finds the image and takes its configuration over. warning says
// that it is for other machines.
func (mk *maker) applyImage(ctx context.Context, c *container.Container, platform string) (lower snapshot.Lower, warning string, err error) {
	if c.Config.Image == "" {
		return lower, "", invalid("no image specified")
	}
	img, err := mk.images.Resolve(ctx, c.Config.Image)
	if err != nil {
		return lower, "", err
	}
	if warning, err = request.Platform(c.Config.Image, platform, img.Config.Platform); err != nil {
		return lower, "", err
	}
	if lower, err = mk.images.Layers(ctx, img); err != nil {
		return lower, "", err
	}
	c.ImageID, c.ImageManifest = img.ID.String(), &img.Manifest
	ic := request.ImageConfig{ImageConfig: img.Config.Config.ImageConfig, Healthcheck: img.Config.Config.Healthcheck, Shell: img.Config.Config.Shell, OnBuild: img.Config.Config.OnBuild}
	return lower, warning, request.MergeImage(c.Config, ic)
}

// writable makes the layer that the container writes to.
func (mk *maker) writable(c *container.Container, lower snapshot.Lower) error {
	o := snapshot.WritableOptions{Volatile: c.HostConfig.AutoRemove, SizeLimit: mk.cfg.WritableSize}
	for k, v := range c.HostConfig.StorageOpt {
		if k != "size" {
			return invalid("Unknown option %s", k)
		}
		n, err := units.RAMInBytes(v)
		if err != nil {
			return invalid("invalid storage option size=%s: %v", v, err)
		}
		o.SizeLimit = n
	}
	_, err := mk.snapshots.CreateWritable(c.ID, lower, o)
	return err
}

// applyDefaults fills the host's part with what the engine was configured for.
func (mk *maker) applyDefaults(h *apicontainer.HostConfig) {
	if h.Runtime == "" {
		h.Runtime = mk.cfg.DefaultRuntime
	}
	if h.ShmSize == 0 && !h.IpcMode.IsHost() && !h.IpcMode.IsContainer() {
		h.ShmSize = mk.live.Load().ShmSize
	}
	if h.IpcMode == "" {
		h.IpcMode = apicontainer.IpcMode(mk.live.Load().IpcMode)
	}
	if h.CgroupnsMode == "" {
		switch {
		case mk.live.Load().CgroupNamespace != "":
			h.CgroupnsMode = apicontainer.CgroupnsMode(mk.live.Load().CgroupNamespace)
		case mk.cgroups.Version() == 2 && !h.Privileged:
			h.CgroupnsMode = apicontainer.CgroupnsModePrivate
		default:
			h.CgroupnsMode = apicontainer.CgroupnsModeHost
		}
	}
	if h.NetworkMode == "" || h.NetworkMode.IsDefault() {
		h.NetworkMode = apinetwork.NetworkBridge
	}
	if h.Memory > 0 && h.MemorySwap == 0 {
		h.MemorySwap = 2 * h.Memory
	}
	if h.PidsLimit != nil && *h.PidsLimit <= 0 {
		h.PidsLimit = nil // both 0 and -1 say "no limit"
	}
	if !h.Privileged && len(h.MaskedPaths) == 0 && h.MaskedPaths == nil {
		h.MaskedPaths = spec.MaskedPaths()
	}
	if !h.Privileged && h.ReadonlyPaths == nil {
		h.ReadonlyPaths = spec.ReadonlyPaths()
	}
	l := driver.Merge(driver.Config{Type: h.LogConfig.Type, Options: h.LogConfig.Config}, driver.Config{Type: mk.cfg.LogDriver, Options: mk.cfg.LogOptions})
	h.LogConfig.Type, h.LogConfig.Config = l.Type, l.Options
	if h.RestartPolicy.Name == "" {
		h.RestartPolicy.Name = apicontainer.RestartPolicyDisabled
	}
}

// applyNames gives the hostname that the container sees.
func (mk *maker) applyNames(c *container.Container) error {
	switch h := c.HostConfig; {
	case h.UTSMode.IsHost() && c.Config.Hostname != "":
		return invalid("conflicting options: hostname and the UTS mode")
	case h.UTSMode.IsHost() && c.Config.Domainname != "":
		return invalid("conflicting options: domainname and the UTS mode")
	case h.NetworkMode.IsContainer() && c.Config.Hostname != "":
		return invalid("conflicting options: hostname and the network mode")
	case c.Config.Hostname != "":
	case h.NetworkMode.IsHost() || h.UTSMode.IsHost():
		c.Config.Hostname = hostname()
	case h.NetworkMode.IsContainer():
	default:
		c.Config.Hostname = id.Short(c.ID)
	}
	return nil
}

// applyNetworking checks the network mode against the rest.
func (mk *maker) applyNetworking(c *container.Container, n *apinetwork.NetworkingConfig) error {
	h := c.HostConfig
	c.Networks = map[string]*apinetwork.EndpointSettings{}
	if h.NetworkMode.IsContainer() {
		switch {
		case len(h.PortBindings) > 0 || h.PublishAllPorts:
			return invalid("conflicting options: port publishing and the container type network mode")
		case len(c.Config.ExposedPorts) > 0 && c.ImageManifest == nil:
			return invalid("conflicting options: port exposing and the container type network mode")
		case len(h.Links) > 0:
			return invalid("conflicting options: container type network can't be used with links. This would result in undefined behavior")
		case len(h.DNS) > 0:
			return invalid("conflicting options: dns and the network mode")
		case len(h.ExtraHosts) > 0:
			return invalid("conflicting options: custom host-to-IP mapping and the network mode")
		}
		// One that does not exist is found out at the start, as in dockerd: to the
		// docker CLI, "not found" as the answer to a create means the image.
		if other, err := mk.store.Get(h.NetworkMode.ConnectedContainer()); err == nil {
			h.NetworkMode = apicontainer.NetworkMode("container:" + other.ID)
		}
		return nil
	}
	if h.NetworkMode.IsHost() && len(h.Links) > 0 {
		return invalid("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
	}
	name := string(h.NetworkMode)
	c.Networks[name] = &apinetwork.EndpointSettings{}
	if n != nil {
		for k, ep := range n.EndpointsConfig {
			if ep == nil {
				continue
			}
			if k == "default" || k == name {
				c.Networks[name] = ep
				continue
			}
			c.Networks[k] = ep
		}
	}
	return mk.files.CheckLinks(h, c.Networks)
}

// reserve takes the name asked for, or finds one.
func (mk *maker) reserve(c *container.Container, name string) error {
	if name != "" {
		name = strings.TrimPrefix(name, "/")
		if !id.ValidName(name) {
			return invalid("Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name)
		}
		c.Name = name
		return mk.store.Reserve(name, c.ID)
	}
	for attempt := range 8 {
		c.Name = container.RandomName(attempt)
		if mk.store.Reserve(c.Name, c.ID) == nil {
			return nil
		}
	}
	c.Name = id.Short(c.ID)
	return mk.store.Reserve(c.Name, c.ID)
}

// applyLog checks the log driver and its options.
func (mk *maker) applyLog(c *container.Container) error {
	path := filepath.Join(mk.cfg.DataRoot, "containers", c.ID[:2], c.ID)
	cfg := logConfig(&c.Record)
	if err := driver.Validate(cfg); err != nil {
		return err
	}
	if cfg.Type == logs.DriverJSONFile {
		c.LogPath = cfg.Path(path, c.ID)
	}
	_, err := logTarget(&c.Record, path)
	return err
}
