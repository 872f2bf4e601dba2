package lifecycle

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/linux/cgroup"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// cgroupPath is where the container's group lies: below --cgroup-parent, or
// the engine's own place.
func (e *Engine) cgroupPath(c *container.Record) string {
	parent := c.HostConfig.CgroupParent
	if parent == "" {
		parent = e.cfg.CgroupParent
	}
	if e.cgroups.Driver() == cgroup.Systemd {
		return parent + ":wherry:" + c.ID
	}
	return filepath.Join("/", parent, c.ID)
}

// namespaces says how each kind of namespace is got.
func (e *Engine) namespaces(c *container.Record, n *networking) (map[specs.LinuxNamespaceType]spec.NS, error) {
	h := c.HostConfig
	ns := map[specs.LinuxNamespaceType]spec.NS{
		specs.MountNamespace: {Kind: spec.New}, specs.PIDNamespace: {Kind: spec.New}, specs.IPCNamespace: {Kind: spec.New}, specs.UTSNamespace: {Kind: spec.New},
	}
	join := func(t specs.LinuxNamespaceType, file, ref string) error {
		other, err := e.runningContainer(ref)
		if err != nil {
			return err
		}
		ns[t] = spec.NS{Kind: spec.Path, Path: fmt.Sprintf("/proc/%d/ns/%s", other.State.Pid, file)}
		return nil
	}
	switch {
	case h.PidMode.IsHost():
		ns[specs.PIDNamespace] = spec.NS{Kind: spec.Host}
	case h.PidMode.IsContainer():
		if err := join(specs.PIDNamespace, "pid", h.PidMode.Container()); err != nil {
			return nil, err
		}
	}
	switch {
	case h.IpcMode.IsHost():
		ns[specs.IPCNamespace] = spec.NS{Kind: spec.Host}
	case h.IpcMode.IsContainer():
		if err := join(specs.IPCNamespace, "ipc", h.IpcMode.Container()); err != nil {
			return nil, err
		}
	}
	if h.UTSMode.IsHost() {
		ns[specs.UTSNamespace] = spec.NS{Kind: spec.Host}
	}
	switch {
	case h.CgroupnsMode.IsPrivate():
		ns[specs.CgroupNamespace] = spec.NS{Kind: spec.New}
	default:
		ns[specs.CgroupNamespace] = spec.NS{Kind: spec.Host}
	}
	switch {
	case n == nil, h.NetworkMode.IsHost():
		ns[specs.NetworkNamespace] = spec.NS{Kind: spec.Host}
	case n.path != "":
		ns[specs.NetworkNamespace] = spec.NS{Kind: spec.Path, Path: n.path}
	default:
		ns[specs.NetworkNamespace] = spec.NS{Kind: spec.Extra, Index: 0}
	}
	return ns, nil
}

func mountsOf(c *container.Record) []spec.Mount {
	var out []spec.Mount
	for _, m := range c.Mounts {
		s := spec.Mount{Destination: m.Destination, Source: m.Source, ReadOnly: !m.RW, Propagation: string(m.Propagation), Type: "bind"}
		if m.Type == mount.TypeTmpfs {
			s.Type, s.Options = "tmpfs", strings.FieldsFunc(m.TmpfsOptions, func(r rune) bool { return r == ',' })
		}
		out = append(out, s)
	}
	return out
}

func (e *Engine) rootfs(c *container.Record) (*snapshot.Writable, error) {
	return e.snapshots.OpenWritable(c.ID, snapshot.Lower{})
}
