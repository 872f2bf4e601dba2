package compile

import (
	"errors"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/ns"
	"github.com/wherry-engine/wherry/internal/runtime/initproto"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
)

// ExecOptions is what an exec needs to know of the container it enters.
type ExecOptions struct {
	PID   int         // the container's first process, in the engine's pid namespace
	Main  *specs.Spec // of the container: which namespaces it has of its own
	Extra int         // files passed to sandbox.Start as extra

	CgroupDir   string   // v2
	CgroupTasks []string // v1

	Seccomp *Seccomp // nil = unconfined

	// Lookup, User and Groups as in Options.
	Lookup bool
	User   string
	Groups []string
}

// Exec compiles a further process of a running container.
func Exec(p *specs.Process, o ExecOptions) (*sandbox.Plan, error) {
	if o.PID <= 0 || o.Main == nil || o.Main.Linux == nil || len(p.Args) == 0 {
		return nil, errors.New("incomplete exec: pid, spec and arguments are needed")
	}
	b := &builder{spec: o.Main, plan: &sandbox.Plan{
		CgroupDir: o.CgroupDir, CgroupTasks: o.CgroupTasks, Terminal: p.Terminal, OOMScoreAdj: p.OOMScoreAdj,
	}, o: &Options{Extras: o.Extra, Seccomp: o.Seccomp, Lookup: o.Lookup, User: o.User, Groups: o.Groups}}
	head := *b
	body := *b
	var flags uintptr
	for _, n := range o.Main.Linux.Namespaces {
		flags |= ns.Flag(fileName(n.Type))
	}
	flags |= unix.CLONE_NEWNS | unix.CLONE_NEWNET
	if flags&unix.CLONE_NEWPID != 0 {
		b.plan.PIDNamespace = namespaceFile(o.PID, specs.PIDNamespace)
	}
	if flags&unix.CLONE_NEWUSER != 0 {
		// Only a process of one thread can join a user namespace: the fork does it all.
		b.plan.UserTarget, b.plan.TargetFlags = o.PID, flags&^unix.CLONE_NEWPID
		b.plan.UIDMappings, b.plan.GIDMappings = idMaps(o.Main.Linux.UIDMappings), idMaps(o.Main.Linux.GIDMappings)
		body.add(initproto.Op{Code: initproto.CodeEnter})
	} else {
		for _, t := range []specs.LinuxNamespaceType{
			specs.IPCNamespace, specs.UTSNamespace, specs.NetworkNamespace, specs.CgroupNamespace, specs.MountNamespace,
		} {
			// Also those shared with the host: joining one's own namespace is
			// cheap, and the process decides where it is, not the spec.
			flag := ns.Flag(fileName(t))
			body.add(initproto.Op{Code: initproto.CodeEnter, Number: b.open(namespaceFile(o.PID, t)), Flags: uint64(flag)})
		}
	}
	if p.Terminal {
		body.add(initproto.Op{Code: initproto.CodeConsole})
	}
	if err := body.process(p, ""); err != nil {
		return nil, err
	}
	head.cgroups()
	b.plan.Program = append(head.program, body.program...)
	size(b.plan, p)
	return b.plan, nil
}
