package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/solver/pb"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/cgroup"
	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/runtime/compile"
	"github.com/wherry-engine/wherry/internal/runtime/limits"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
)

// defaultHostname is BuildKit's; steps that differ in it have other cache keys.
const defaultHostname = "buildkitsandbox"

// run does the work of Run on the step's thread.
func (e *Executor) run(ctx context.Context, s *step, src *sources, n *networking, p *executor.ProcessInfo, begun func()) (err error) {
	root := filepath.Join(s.dir, "root")
	if err := os.Mkdir(root, 0o711); err != nil {
		return err
	}
	if err := e.place(src.root.mount, root); err != nil {
		return err
	}
	defer func() {
		if uerr := unix.Unmount(root, unix.MNT_DETACH); uerr != nil && err == nil {
			err = os.NewSyscallError("umount", uerr)
		}
	}()
	mounts := make([]executor.Mount, len(src.other))
	for i, o := range src.other {
		mounts[i] = o.Mount
	}
	defer executor.MountStubsCleaner(context.WithoutCancel(ctx), root, mounts, p.Meta.RemoveMountStubsRecursive)()

	in, err := e.input(s, src, n, p, root)
	if err != nil {
		return err
	}
	var extra []*os.File
	defer func() {
		for _, f := range extra {
			f.Close()
		}
	}()
	if n.ns != nil {
		fd, err := unix.FcntlInt(n.ns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("dup", err)
		}
		extra = append(extra, os.NewFile(uintptr(fd), "netns"))
	}
	trees := map[string]int{}
	for i := range src.other {
		o := &src.other[i]
		tree, err := e.tree(o, s.dir, i)
		if err != nil {
			return fmt.Errorf("failed to mount %s: %w", o.Dest, err)
		}
		trees[path.Join("/", o.Dest)] = len(extra)
		extra = append(extra, os.NewFile(uintptr(tree), o.Dest))
	}
	o := compile.Options{Trees: trees, Extras: len(extra)}
	if n.ns != nil {
		o.Extra = map[specs.LinuxNamespaceType]int{specs.NetworkNamespace: 0}
	}
	if e.owners != nil {
		tree, err := mount.Clone(unix.AT_FDCWD, root, true)
		if err != nil {
			return err
		}
		extra = append(extra, os.NewFile(uintptr(tree), root))
		o.Extras, o.RootTree = len(extra), len(extra)
	}
	plan, err := e.plan(s, in, p, o)
	if err != nil {
		return err
	}
	defer s.group.Remove() //nolint:errcheck // the next start removes what is left
	return e.process(ctx, s, plan, extra, p, func(proc *sandbox.Process) error { return e.ready(ctx, s, n, &p.Meta, proc) }, begun)
}

// input is the step in the words of the runtime.
func (e *Executor) input(s *step, src *sources, n *networking, p *executor.ProcessInfo, root string) (*spec.Input, error) {
	m := &p.Meta
	if e.cfg.AppArmor != "" {
		if err := e.cfg.LoadAppArmor(); err != nil {
			return nil, fmt.Errorf("load AppArmor profile %s: %w", e.cfg.AppArmor, err)
		}
	}
	h := &apicontainer.HostConfig{
		ReadonlyRootfs: m.ReadonlyRootFS || src.root.Readonly,
		Privileged:     m.SecurityMode == pb.SecurityMode_INSECURE,
		Resources:      resources(m),
	}
	if _, err := limits.Check(&h.Resources, e.cfg.Cgroups.Features()); err != nil {
		return nil, err
	}
	if e.cfg.NoNewPrivs && !h.Privileged {
		h.SecurityOpt = append(h.SecurityOpt, "no-new-privileges")
	}
	in := &spec.Input{
		ID: s.id, HostConfig: h, Hostname: hostname(m), Rootfs: spec.Rootfs{Dir: root},
		Config:  &apicontainer.Config{Cmd: m.Args, Env: m.Env, User: m.User, WorkingDir: m.Cwd, Tty: m.Tty},
		Cgroup2: e.cfg.Cgroups.Version() == 2, CgroupPath: e.cgroupPath(s.id, m.CgroupParent),
		AppArmor: e.cfg.AppArmor, DefaultUlimits: e.cfg.Ulimits, UIDMaps: e.cfg.UIDs, GIDMaps: e.cfg.GIDs,
		Namespaces: map[specs.LinuxNamespaceType]spec.NS{
			specs.MountNamespace: {Kind: spec.New}, specs.PIDNamespace: {Kind: spec.New}, specs.IPCNamespace: {Kind: spec.New}, specs.UTSNamespace: {Kind: spec.New},
			specs.NetworkNamespace: {Kind: spec.Extra}, specs.CgroupNamespace: {Kind: spec.New},
		},
	}
	switch {
	case n.held:
		in.Namespaces[specs.NetworkNamespace] = spec.NS{Kind: spec.New}
	case n.ns == nil:
		h.NetworkMode = "host"
		in.Namespaces[specs.NetworkNamespace] = spec.NS{Kind: spec.Host}
	}
	if e.cfg.CgroupHostNS {
		in.Namespaces[specs.CgroupNamespace] = spec.NS{Kind: spec.Host}
	}
	files, err := e.files(s, m, n)
	if err != nil {
		return nil, err
	}
	taken := map[string]bool{}
	for _, o := range src.other {
		dest := path.Join("/", o.Dest)
		taken[dest] = true
		in.Mounts = append(in.Mounts, spec.Mount{Type: "bind", Source: "build", Destination: dest, ReadOnly: o.Readonly})
	}
	for _, f := range files {
		if !taken[f.Destination] {
			in.Mounts = append(in.Mounts, f)
		}
	}
	if h.Privileged || e.cfg.Unconfined {
		return in, nil
	}
	caps, err := spec.Capabilities(h)
	if err != nil {
		return nil, err
	}
	if e.cfg.Seccomp != nil {
		in.Seccomp, err = e.filters.Load(e.cfg.Seccomp, caps)
	} else {
		in.Seccomp, err = e.filters.Default(caps)
	}
	return in, err
}

// resources are the step's own limits.
func resources(m *executor.Meta) apicontainer.Resources {
	var r apicontainer.Resources
	for _, u := range m.Ulimit {
		r.Ulimits = append(r.Ulimits, &apicontainer.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	if l := m.LinuxResources; l != nil {
		r.Memory, r.MemorySwap = l.Memory, l.MemorySwap
		r.CPUShares, r.CPUPeriod, r.CPUQuota = int64(l.CpuShares), int64(l.CpuPeriod), l.CpuQuota
		r.CpusetCpus, r.CpusetMems = l.CpusetCpus, l.CpusetMems
	}
	return r
}

func (e *Executor) cgroupPath(id, parent string) string {
	if parent == "" {
		parent = e.cfg.CgroupParent
	}
	if e.cfg.Cgroups.Driver() == cgroup.Systemd {
		return strings.TrimSuffix(parent, ":") + ":wherry:" + id
	}
	return filepath.Join("/", parent, id)
}

// plan makes the control group and what is to be done for the start.
func (e *Executor) plan(s *step, in *spec.Input, p *executor.ProcessInfo, o compile.Options) (*sandbox.Plan, error) {
	built, _, err := spec.Build(in)
	if err != nil {
		return nil, err
	}
	built.Process.Env = environment(p.Meta.Env)
	hooks, err := e.inject(built, p.Meta.CDIDevices)
	if err != nil {
		return nil, err
	}
	s.spec, s.filter = built, in.Seccomp
	// For the next engine, should this one be killed.
	if err := os.WriteFile(filepath.Join(s.dir, "cgroup"), []byte(in.CgroupPath+"\n"), 0o600); err != nil {
		return nil, err
	}
	if s.group, _, err = e.cfg.Cgroups.Create(in.CgroupPath, built.Linux.Resources); err != nil {
		return nil, err
	}
	o.ID, o.CgroupDir, o.CgroupTasks, o.Cgroup2 = s.id, s.group.Dir(), s.group.Tasks(), in.Cgroup2
	o.Lookup, o.User, o.Bound, o.Hold = true, p.Meta.User, true, e.owners != nil || hooks
	for _, c := range s.group.Controllers() {
		o.Controllers = append(o.Controllers, compile.Controller{Name: c.Name, Dir: c.Dir})
	}
	if o.Seccomp, err = e.filter(in.Seccomp); err == nil {
		var plan *sandbox.Plan
		if plan, err = compile.Container(built, o); err == nil {
			return plan, nil
		}
	}
	return nil, errors.Join(err, s.group.Remove())
}

func (e *Executor) filter(p *specs.LinuxSeccomp) (*compile.Seccomp, error) {
	if p == nil {
		return nil, nil
	}
	program, flags, err := e.filters.Compile(p)
	if err != nil {
		return nil, err
	}
	return &compile.Seccomp{Filter: program, Flags: flags}, nil
}

// environment is what the Dockerfile says: no variable of ours may find its way
// into what a step makes.
func environment(env []string) []string {
	if slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		return env
	}
	return append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, env...)
}

// Exec runs a further process in a container that Run has started.
func (e *Executor) Exec(ctx context.Context, name string, p executor.ProcessInfo) error {
	s, err := e.find(ctx, name)
	if err != nil {
		return err
	}
	proc := *s.spec.Process
	proc.Args, proc.Terminal = p.Meta.Args, p.Meta.Tty
	if p.Meta.Cwd != "" {
		proc.Cwd = p.Meta.Cwd
	}
	if len(p.Meta.Env) > 0 {
		proc.Env = environment(p.Meta.Env)
	}
	user := s.user
	if p.Meta.User != "" {
		user = p.Meta.User
	}
	o := compile.ExecOptions{PID: s.pid, Main: s.spec, CgroupDir: s.group.DirBeside(s.pid), CgroupTasks: s.group.Tasks(), Lookup: true, User: user}
	if o.Seccomp, err = e.filter(s.filter); err != nil {
		return err
	}
	plan, err := compile.Exec(&proc, o)
	if err != nil {
		return err
	}
	// Its end comes with that of the container's namespace at the latest.
	return e.process(ctx, nil, plan, nil, &p, nil, func() {})
}

var _ io.Closer = (*Executor)(nil)
var _ executor.Executor = (*Executor)(nil)
