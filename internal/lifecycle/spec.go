package lifecycle

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/cgroup"
	"github.com/wherry-engine/wherry/internal/runtime/compile"
	"github.com/wherry-engine/wherry/internal/runtime/foreign"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// cgroupPath is where the container's group lies: below --cgroup-parent, or
// the engine's own place.
func (p *parts) cgroupPath(c *container.Record) string {
	parent := c.HostConfig.CgroupParent
	if parent == "" {
		parent = p.cfg.CgroupParent
	}
	if p.cgroups.Driver() == cgroup.Systemd {
		return parent + ":wherry:" + c.ID
	}
	return filepath.Join("/", parent, c.ID)
}

// namespaces says how each kind of namespace is got. Without n, for an exec, it
// only matters which ones are not the host's: they are joined through the
// container's process.
func (l *launcher) namespaces(c *container.Record, n *networking) (map[specs.LinuxNamespaceType]spec.NS, error) {
	h := c.HostConfig
	ns := map[specs.LinuxNamespaceType]spec.NS{
		specs.MountNamespace: {Kind: spec.New}, specs.PIDNamespace: {Kind: spec.New}, specs.IPCNamespace: {Kind: spec.New}, specs.UTSNamespace: {Kind: spec.New},
	}
	join := func(t specs.LinuxNamespaceType, file, ref string) error {
		if n == nil {
			return nil
		}
		other, err := l.donors.Find(file, ref)
		if err != nil {
			return err
		}
		if err := l.join(n, &other); err != nil {
			return err
		}
		if err := l.shareUser(ns, h, other.State.Pid, ref); err != nil {
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
	case h.NetworkMode.IsHost():
		ns[specs.NetworkNamespace] = spec.NS{Kind: spec.Host}
	case n == nil:
		ns[specs.NetworkNamespace] = spec.NS{Kind: spec.New}
	case n.path != "":
		if err := join(specs.NetworkNamespace, "net", h.NetworkMode.ConnectedContainer()); err != nil {
			return nil, err
		}
	case n.held:
		ns[specs.NetworkNamespace] = spec.NS{Kind: spec.New}
	default:
		ns[specs.NetworkNamespace] = spec.NS{Kind: spec.Extra, Index: 0, Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.ns.Fd())}
	}
	return ns, nil
}

func mountsOf(c *container.Record) []spec.Mount {
	var out []spec.Mount
	for _, m := range c.Mounts {
		s := spec.Mount{
			Destination: m.Destination, Source: m.Source, ReadOnly: !m.RW, Propagation: string(m.Propagation), Type: "bind",
			NonRecursive: m.NonRecursive, ReadOnlyNonRecursive: m.ReadOnlyNonRecursive, DefaultPropagation: m.DefaultPropagation,
		}
		s.Mapped = m.Type == mount.TypeVolume && m.IDMap == "" // binds are the host's business
		if m.Type == mount.TypeTmpfs {
			s.Type, s.Options = "tmpfs", strings.FieldsFunc(m.TmpfsOptions, func(r rune) bool { return r == ',' })
		}
		out = append(out, s)
	}
	return out
}

// specInput gathers what the OCI specification is made from. n is nil for an
// exec, which joins the namespaces that there are.
func (l *launcher) specInput(c *container.Record, dir string, n *networking) (*spec.Input, error) {
	w, err := l.snapshots.OpenWritable(c.ID, snapshot.Lower{})
	if err != nil {
		return nil, err
	}
	ns, err := l.namespaces(c, n)
	if err != nil {
		return nil, err
	}
	if n != nil && n.filesOf != "" {
		dir = n.filesOf
	}
	in := &spec.Input{
		ID: c.ID, Config: c.Config, HostConfig: c.HostConfig, Hostname: c.Config.Hostname, Domainname: c.Config.Domainname,
		Rootfs: spec.Rootfs{Lower: w.Lower, Upper: w.Upper, Work: w.Work, Options: w.MountOptions(), Dir: w.Dir},
		Mounts: mountsOf(c), Files: spec.Files{ResolvConf: dir + "/resolv.conf", Hosts: dir + "/hosts", Hostname: dir + "/hostname"},
		Namespaces: ns, CgroupPath: c.CgroupPath, Cgroup2: l.cgroups.Version() == 2,
		Init: l.cfg.Init, InitPath: l.cfg.InitPath, AppArmor: l.cfg.AppArmor, DefaultUlimits: l.cfg.Ulimits,
	}
	if env := l.files.Environment(c); len(env) > 0 {
		cfg := *c.Config
		cfg.Env = append(env, cfg.Env...)
		in.Config = &cfg
	}
	if c.HostConfig.Init != nil {
		in.Init = *c.HostConfig.Init
	}
	if l.remapped(c.HostConfig) {
		in.UIDMaps, in.GIDMaps = l.cfg.UIDMaps, l.cfg.GIDMaps
	}
	if err := l.loadProfile(c); err != nil {
		return nil, err
	}
	in.Seccomp, err = l.seccompProfile(c)
	return in, err
}

// loadProfile loads the default AppArmor profile, if it is the container's, again
// when a reload of the host's profiles has unloaded it.
func (l *launcher) loadProfile(c *container.Record) error {
	if l.cfg.AppArmor == "" || c.AppArmorProfile != l.cfg.AppArmor {
		return nil
	}
	if err := l.cfg.LoadAppArmor(); err != nil {
		return fmt.Errorf("load AppArmor profile %s: %w", l.cfg.AppArmor, err)
	}
	return nil
}

// seccompProfile picks the profile and resolves it for the capabilities.
func (l *launcher) seccompProfile(c *container.Record) (*specs.LinuxSeccomp, error) {
	s, err := l.parseSecurity(c)
	if err != nil || s.seccomp == "unconfined" {
		return nil, err
	}
	caps, err := spec.Capabilities(c.HostConfig)
	if err != nil {
		return nil, err
	}
	if s.seccomp == "" {
		return l.filters.Default(caps)
	}
	return l.filters.Load([]byte(s.seccomp), caps)
}

// compile turns the specification into the plan for one start. o has Groups
// and Hold; the rest is filled in here.
func (l *launcher) compile(in *spec.Input, s *specs.Spec, g *cgroup.Group, n *networking, o compile.Options) (*sandbox.Plan, error) {
	o.ID, o.CgroupDir, o.CgroupTasks, o.Cgroup2 = in.ID, g.Dir(), g.Tasks(), in.Cgroup2
	o.Lookup, o.User = true, in.Config.User
	o.Reaper = in.Init && s.Process.Args[0] == spec.InitTarget
	if in.Rootfs.Dir == "" {
		o.Overlay = &compile.Overlay{Lower: in.Rootfs.Lower, Upper: in.Rootfs.Upper, Work: in.Rootfs.Work, Options: in.Rootfs.Options}
	}
	if n.ns != nil {
		o.Extra, o.Extras = map[specs.LinuxNamespaceType]int{specs.NetworkNamespace: 0}, 1
	}
	for _, c := range g.Controllers() {
		o.Controllers = append(o.Controllers, compile.Controller{Name: c.Name, Dir: c.Dir})
	}
	var err error
	if o.Seccomp, err = l.filter(s.Linux.Seccomp); err != nil {
		return nil, err
	}
	return compile.Container(s, o)
}

// filter compiles a seccomp profile, once for all containers that share it.
func (l *launcher) filter(p *specs.LinuxSeccomp) (*compile.Seccomp, error) {
	if p == nil {
		return nil, nil
	}
	program, flags, err := l.filters.Compile(p)
	if err != nil {
		return nil, err
	}
	return &compile.Seccomp{Filter: program, Flags: flags}, nil
}

// compileExec turns an exec request into a plan that enters the container.
// done takes back what only the start of it needs.
func (l *launcher) compileExec(c *container.Record, dir string, r *apicontainer.ExecCreateRequest) (plan *sandbox.Plan, done func(), err error) {
	in, err := l.specInput(c, dir, nil)
	if err != nil {
		return nil, nil, err
	}
	// The process decides which user namespace it is in, not today's configuration.
	if in.UIDMaps, in.GIDMaps, err = spec.MappingsOf(c.State.Pid); err != nil {
		return nil, nil, err
	}
	main, _, err := spec.Build(in)
	if err != nil {
		return nil, nil, err
	}
	p, err := spec.BuildExec(main, r)
	if err != nil {
		return nil, nil, err
	}
	user := r.User
	if user == "" {
		user = c.Config.User
	}
	if rt := l.foreign(c.HostConfig); rt != nil {
		return rt.Exec(c.ID, id.New(), p, c.State.Pid, foreign.User{Name: user, Groups: c.HostConfig.GroupAdd})
	}
	g, err := l.cgroups.Open(c.CgroupPath)
	if err != nil {
		return nil, nil, err
	}
	o := compile.ExecOptions{PID: c.State.Pid, Main: main, CgroupDir: g.DirBeside(c.State.Pid), CgroupTasks: g.Tasks(), Lookup: true, User: user, Groups: c.HostConfig.GroupAdd}
	if !r.Privileged {
		if o.Seccomp, err = l.filter(main.Linux.Seccomp); err != nil {
			return nil, nil, err
		}
	}
	plan, err = compile.Exec(p, o)
	return plan, func() {}, err
}
