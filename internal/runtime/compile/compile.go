// Package compile owns the step from an OCI runtime spec to a sandbox.Plan: it
// encodes every decision of the spec as operations for wherry-init, so that
// nothing has to be decided or looked up between fork and exec.
package compile

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/caps"
	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/linux/ns"
	"github.com/wherry-engine/wherry/internal/runtime/initproto"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
)

// Overlay is the root as an overlay: Lower topmost first.
type Overlay struct {
	Lower       []string
	Upper, Work string
	Options     []string
}

// Controller is one cgroup v1 controller as a container sees it.
type Controller struct {
	Name string // as mounted: "memory", "cpu,cpuacct"
	Dir  string // absolute path of the group's directory
}

// Seccomp is a compiled filter.
type Seccomp struct {
	Filter []unix.SockFilter
	Flags  uint
}

// Options is what a spec cannot say.
type Options struct {
	ID      string
	Overlay *Overlay // nil: Root.Path of the spec is the root

	// RootTree, when not 0, is 1 + the index of a passed descriptor with the
	// root as a detached tree, whose owners are as the user namespace needs them.
	RootTree int

	// Extra gives the index of the descriptor passed to sandbox.Start for a
	// namespace; all passed files are counted in Extras.
	Extra  map[specs.LinuxNamespaceType]int
	Extras int

	CgroupDir   string       // v2
	CgroupTasks []string     // v1
	Controllers []Controller // v1: what /sys/fs/cgroup shows
	Cgroup2     bool

	Seccomp *Seccomp // nil = unconfined

	// Lookup resolves User (docker's USER string) and Groups inside the root;
	// without it the numbers of the spec are taken.
	Lookup bool
	User   string
	Groups []string

	// Trees gives, by the destination of a bind mount of the spec, the index of
	// a passed descriptor with the detached tree to put there.
	Trees map[string]int

	// Bound makes the process die with the thread that forked it.
	Bound bool

	Reaper bool // the program is wherry-init, bound into the root by --init

	Hold bool // stop before sysctls and exec until Release
}

// builder collects operations.
type builder struct {
	spec    *specs.Spec
	o       *Options
	plan    *sandbox.Plan
	program []byte
	mounts  []*initproto.Mount
	userns  bool
	netns   bool // the network namespace is not the engine's
}

func (b *builder) add(op initproto.Op) { b.program = initproto.Append(b.program, &op) }

// open gives the index of a file that sandbox.Start opens.
func (b *builder) open(path string) uint32 {
	b.plan.Open = append(b.plan.Open, path)
	return uint32(b.o.Extras + len(b.plan.Open) - 1)
}

// Container compiles the main process of a container.
func Container(s *specs.Spec, o Options) (*sandbox.Plan, error) {
	if s.Process == nil || s.Root == nil || s.Linux == nil || len(s.Process.Args) == 0 {
		return nil, errors.New("incomplete spec: process, root and linux are needed")
	}
	b := &builder{spec: s, o: &o, plan: &sandbox.Plan{
		CgroupDir: o.CgroupDir, CgroupTasks: o.CgroupTasks, Terminal: s.Process.Terminal,
		OOMScoreAdj: s.Process.OOMScoreAdj, Hold: o.Hold,
	}}
	// Namespaces first: they add files to open, whose number fixes the indexes
	// of the cgroups' files.
	var head, body builder
	head, body = *b, *b
	if err := head.namespaces(); err != nil {
		return nil, err
	}
	body.userns, body.netns = head.userns, head.netns
	if err := body.root(); err != nil {
		return nil, err
	}
	if err := body.inside(); err != nil {
		return nil, err
	}
	if err := body.process(s.Process, "_ses."+o.ID); err != nil {
		return nil, err
	}
	b.cgroups()
	b.plan.Program = append(append(b.program, head.program...), body.program...)
	size(b.plan, s.Process)
	return b.plan, nil
}

func size(p *sandbox.Plan, proc *specs.Process) {
	if proc.ConsoleSize != nil {
		p.Rows, p.Cols = uint16(proc.ConsoleSize.Height), uint16(proc.ConsoleSize.Width)
	}
}

// cgroups joins the v1 groups before anything else is charged to someone. Its
// files are numbered after all others.
func (b *builder) cgroups() {
	if len(b.plan.CgroupTasks) == 0 {
		return
	}
	var indexes []uint32
	for i := range b.plan.CgroupTasks {
		indexes = append(indexes, uint32(b.o.Extras+len(b.plan.Open)+i))
	}
	b.add(initproto.Op{Code: initproto.CodeCgroup, Numbers: indexes})
}

// fileName of a namespace in /proc/<pid>/ns.
func fileName(t specs.LinuxNamespaceType) string {
	switch t {
	case specs.MountNamespace:
		return "mnt"
	case specs.NetworkNamespace:
		return "net"
	}
	return string(t)
}

func (b *builder) namespaces() error {
	for _, n := range b.spec.Linux.Namespaces {
		flag := ns.Flag(fileName(n.Type))
		if flag == 0 {
			return fmt.Errorf("unknown namespace %q", n.Type)
		}
		index, passed := b.o.Extra[n.Type]
		if n.Type == specs.NetworkNamespace {
			b.netns = true
		}
		switch {
		case passed:
			b.add(initproto.Op{Code: initproto.CodeEnter, Number: uint32(index), Flags: uint64(flag)})
		case n.Path == "" && n.Type == specs.CgroupNamespace:
			// After the group was joined, or the namespace would be rooted elsewhere.
			b.add(initproto.Op{Code: initproto.CodeUnshare, Flags: uint64(flag)})
		case n.Path == "" && n.Type == specs.TimeNamespace:
			// Only children of the caller get it, and init has none.
			return errors.New("a time namespace cannot be made for the first process")
		case n.Path == "":
			b.plan.CloneFlags |= flag
		case n.Type == specs.PIDNamespace:
			b.plan.PIDNamespace = n.Path
		case n.Type == specs.UserNamespace:
			if _, err := fmt.Sscanf(n.Path, "/proc/%d/ns/user", &b.plan.UserTarget); err != nil {
				return fmt.Errorf("user namespace %q is not that of a process", n.Path)
			}
			b.plan.TargetFlags = unix.CLONE_NEWUSER
		case n.Type == specs.MountNamespace:
			return fmt.Errorf("joining a %s namespace is not possible for the first process", n.Type)
		default:
			b.add(initproto.Op{Code: initproto.CodeEnter, Number: b.open(n.Path), Flags: uint64(flag)})
		}
	}
	b.plan.CloneFlags |= unix.CLONE_NEWNS
	if target := b.plan.UserTarget; target != 0 && b.plan.PIDNamespace != "" {
		if b.plan.PIDNamespace != ns.Path(target, "pid") {
			return errors.New("the pid namespace of one container and the user namespace of another cannot be joined")
		}
		b.plan.PIDNamespace = ""
		b.plan.TargetFlags |= unix.CLONE_NEWPID
	}
	if b.plan.CloneFlags&unix.CLONE_NEWUSER != 0 || b.plan.UserTarget != 0 {
		b.userns = true
		b.plan.UIDMappings = idMaps(b.spec.Linux.UIDMappings)
		b.plan.GIDMappings = idMaps(b.spec.Linux.GIDMappings)
		if len(b.plan.UIDMappings) == 0 || len(b.plan.GIDMappings) == 0 {
			return errors.New("user namespace without mappings")
		}
	}
	return nil
}

func idMaps(list []specs.LinuxIDMapping) []sandbox.IDMap {
	var out []sandbox.IDMap
	for _, m := range list {
		out = append(out, sandbox.IDMap{Container: int(m.ContainerID), Host: int(m.HostID), Size: int(m.Size)})
	}
	return out
}

// root prepares the mounts and the root directory.
func (b *builder) root() error {
	for i := range b.spec.Mounts {
		if err := b.mount(&b.spec.Mounts[i]); err != nil {
			return err
		}
	}
	b.bindDevices()
	mapped := map[string]bool{}
	for _, m := range b.spec.Mounts {
		mapped[path.Clean(m.Destination)] = len(m.UIDMappings) > 0
	}
	b.emit(mapped)
	var r initproto.Root
	switch o := b.o.Overlay; {
	case b.o.RootTree > 0:
		r.Base, r.Tree = "/proc", uint32(b.o.RootTree)
	case b.userns:
		// Overlay's own attributes, and mapped owners, are only for the first
		// user namespace: the parent mounts it and passes the tree.
		b.plan.Root = &mount.Overlay{Base: b.spec.Root.Path}
		if o != nil {
			packed := mount.PackOverlay(o.Lower, o.Upper, o.Work, o.Options)
			b.plan.Root = &packed
		}
		r.Base, r.Tree = "/proc", 1+b.afterFiles()+uint32(len(b.plan.Trees))
	case o == nil:
		r.Base = b.spec.Root.Path
	default:
		packed := mount.PackOverlay(o.Lower, o.Upper, o.Work, o.Options)
		r = initproto.Root{Overlay: true, Base: packed.Base, Data: packed.Data, Paths: packed.Paths}
	}
	b.add(initproto.Op{Code: initproto.CodeRoot, Root: &r})
	b.add(initproto.Op{Code: initproto.CodeAttach})
	return nil
}

// inside is what happens in the new root.
func (b *builder) inside() error {
	s := b.spec
	b.devices()
	if s.Process.Terminal {
		b.add(initproto.Op{Code: initproto.CodeConsole, Number: 1})
	}
	if s.Hostname != "" {
		b.add(initproto.Op{Code: initproto.CodeHostname, Text: s.Hostname})
	}
	if s.Domainname != "" {
		b.add(initproto.Op{Code: initproto.CodeDomainname, Text: s.Domainname})
	}
	b.add(initproto.Op{Code: initproto.CodeMkdir, Text: s.Process.Cwd})
	if b.o.Hold {
		b.add(initproto.Op{Code: initproto.CodeHold})
	}
	if pairs := sysctls(s.Linux.Sysctl); len(pairs) > 0 {
		b.add(initproto.Op{Code: initproto.CodeSysctl, Strings: pairs})
	}
	if len(s.Linux.ReadonlyPaths) > 0 {
		b.add(initproto.Op{Code: initproto.CodeReadonly, Strings: s.Linux.ReadonlyPaths})
	}
	if len(s.Linux.MaskedPaths) > 0 {
		b.add(initproto.Op{Code: initproto.CodeMask, Strings: s.Linux.MaskedPaths})
	}
	for _, path := range b.sealed() {
		b.add(initproto.Op{Code: initproto.CodeAttr, Text: path, Flags: unix.MOUNT_ATTR_RDONLY})
	}
	switch strings.TrimPrefix(s.Linux.RootfsPropagation, "r") {
	case "shared":
		b.add(initproto.Op{Code: initproto.CodeShareRoot, Flags: unix.MS_SHARED})
	case "unbindable":
		b.add(initproto.Op{Code: initproto.CodeShareRoot, Flags: unix.MS_UNBINDABLE})
	}
	if s.Root.Readonly {
		b.add(initproto.Op{Code: initproto.CodeSealRoot})
	}
	return nil
}

// sysctls orders names, since one may depend on another's being set, and
// turns them into paths as sysctl(8) does: the separator that comes first rules.
func sysctls(m map[string]string) []string {
	var pairs []string
	for _, name := range sortedKeys(m) {
		path := strings.ReplaceAll(name, ".", "/")
		if slash := strings.IndexByte(name, '/'); slash >= 0 && (strings.IndexByte(name, '.') < 0 || slash < strings.IndexByte(name, '.')) {
			path = name
		} else if slash >= 0 {
			path = strings.NewReplacer(".", "/", "/", ".").Replace(name)
		}
		pairs = append(pairs, path, m[name])
	}
	return pairs
}

// process adds the last operation.
func (b *builder) process(p *specs.Process, keyring string) error {
	out := &initproto.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd, UID: p.User.UID, GID: p.User.GID, GIDs: p.User.AdditionalGids,
		Lookup: b.o.Lookup, User: b.o.User, Groups: b.o.Groups, Umask: 0o022, NoNewPrivs: p.NoNewPrivileges,
		AppArmor: p.ApparmorProfile, SELinux: p.SelinuxLabel, Keyring: keyring, Reaper: b.o.Reaper, Bound: b.o.Bound,
	}
	if p.User.Umask != nil {
		out.Umask = *p.User.Umask
	}
	if out.AppArmor == "unconfined" && !exists("/sys/module/apparmor") {
		out.AppArmor = ""
	}
	if c := p.Capabilities; c != nil {
		for _, set := range []struct {
			names []string
			to    *uint64
		}{{c.Bounding, &out.Bounding}, {c.Permitted, &out.Permitted}, {c.Effective, &out.Effective}, {c.Inheritable, &out.Inheritable}, {c.Ambient, &out.Ambient}} {
			// Names this program does not know are of a newer kernel's and dropped.
			s, _ := caps.Of(set.names)
			*set.to = uint64(s)
		}
	}
	for _, l := range p.Rlimits {
		n, ok := rlimits[l.Type]
		if !ok {
			return fmt.Errorf("wrong rlimit value: %v", l.Type)
		}
		out.Rlimits = append(out.Rlimits, initproto.Rlimit{Resource: n, Soft: l.Soft, Hard: l.Hard})
	}
	if b.o.Seccomp != nil {
		out.Seccomp = encodeFilter(b.o.Seccomp.Filter)
		out.SeccompFlags = uint32(b.o.Seccomp.Flags)
	}
	b.add(initproto.Op{Code: initproto.CodeProcess, Process: out})
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

var rlimits = map[string]uint32{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// encodeFilter lays the instructions out as the kernel reads them.
func encodeFilter(filter []unix.SockFilter) []byte {
	out := make([]byte, 0, 8*len(filter))
	for _, f := range filter {
		out = append(out, byte(f.Code), byte(f.Code>>8), f.Jt, f.Jf, byte(f.K), byte(f.K>>8), byte(f.K>>16), byte(f.K>>24))
	}
	return out
}
