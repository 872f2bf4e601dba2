package seccomp

import (
	"fmt"
	"math"
	"runtime"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxInstructions is the kernel's limit for one program (BPF_MAXINSNS).
const maxInstructions = 4096

// Compile turns a profile into a program and the flags for
// seccomp(SECCOMP_SET_MODE_FILTER). A nil profile gives a nil program.
//
// The meaning is that of runc with libseccomp: a rule without arguments beats
// rules with arguments of the same call; several conditions on one argument are
// alternatives; names that an architecture does not have are skipped there; an
// architecture that the profile does not name kills the thread. If the default
// action is restrictive, calls numbered above every call that the profile names
// fail with ENOSYS, so that programs fall back to what the profile's author
// knew. Where two rules of different actions match, the first one wins
// (libseccomp takes an order of its own there).
func Compile(s *specs.LinuxSeccomp) ([]unix.SockFilter, uint, error) {
	if s == nil {
		return nil, 0, nil
	}
	f, ok := families[runtime.GOARCH]
	if !ok {
		return nil, 0, errdefs.ErrNotImplemented.WithMessage("seccomp profiles are not supported on " + runtime.GOARCH)
	}
	flags, err := flags(s)
	if err != nil {
		return nil, 0, err
	}
	prog, err := compile(f, s, true)
	return prog, flags, err
}

func flags(s *specs.LinuxSeccomp) (uint, error) {
	if s.Flags == nil {
		// As runc: without a word in the profile, the mitigation that makes
		// every memory access of the process slower stays off.
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	var out uint
	for _, f := range s.Flags {
		switch f {
		case specs.LinuxSeccompFlagLog:
			out |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			out |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case "SECCOMP_FILTER_FLAG_TSYNC":
			out |= unix.SECCOMP_FILTER_FLAG_TSYNC
		case specs.LinuxSeccompFlagWaitKillableRecv:
			return 0, errdefs.ErrNotImplemented.WithMessage("seccomp flag " + string(f) + " needs SCMP_ACT_NOTIFY, which is not supported")
		default:
			return 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("seccomp flag %q not known", f))
		}
	}
	return out, nil
}

// verdict gives the value that a filter returns for an action.
func verdict(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		if *errno > math.MaxInt16 {
			return 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("seccomp profile: errnoRet %d is out of range", *errno))
		}
		data = uint32(*errno)
	}
	switch a {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return 0, errdefs.ErrNotImplemented.WithMessage("seccomp action SCMP_ACT_NOTIFY is not supported")
	}
	return 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid seccomp action %q", a))
}

// rule answers with a verdict when all conditions hold.
type rule struct {
	verdict uint32
	conds   []cond
}

// filter is what the calls of one machine get.
type filter struct {
	m     machine
	rules map[uint32][]rule
	last  uint32 // the highest number that the profile names
	named bool
}

func compile(f family, s *specs.LinuxSeccomp, enosys bool) ([]unix.SockFilter, error) {
	if s.ListenerPath != "" {
		return nil, errdefs.ErrNotImplemented.WithMessage("seccomp listenerPath is not supported")
	}
	def, err := verdict(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	machines, err := f.choose(s.Architectures)
	if err != nil {
		return nil, err
	}
	filters := make([]filter, len(machines))
	for i, m := range machines {
		filters[i] = filter{m: m, rules: map[uint32][]rule{}}
	}
	for _, call := range s.Syscalls {
		v, err := verdict(call.Action, call.ErrnoRet)
		if err != nil {
			return nil, err
		}
		sets, err := conditions(call.Args)
		if err != nil {
			return nil, err
		}
		if len(call.Names) == 0 {
			return nil, errdefs.ErrInvalidArgument.WithMessage("seccomp profile: a rule names no syscall")
		}
		for i := range filters {
			for _, name := range call.Names {
				if name == "" {
					return nil, errdefs.ErrInvalidArgument.WithMessage("seccomp profile: empty syscall name")
				}
				filters[i].add(name, v, sets, v == def)
			}
		}
	}
	permissive := def == unix.SECCOMP_RET_ALLOW || def == unix.SECCOMP_RET_LOG || def&^uint32(unix.SECCOMP_RET_DATA) == unix.SECCOMP_RET_TRACE
	spans := func(fs ...filter) []span {
		unknown := uint32(unix.SECCOMP_RET_ERRNO | unix.ENOSYS)
		if !enosys || permissive {
			unknown = def
		}
		return layout(fs, def, unknown)
	}
	p := &program{}
	entries := []entry{}
	for i, fl := range filters {
		switch fl.m.arch {
		case specs.ArchX32:
			continue // joined with x86-64: the kernel tells them apart by number
		case specs.ArchX86_64:
			if j := slices.IndexFunc(filters, func(o filter) bool { return o.m.arch == specs.ArchX32 }); j >= 0 {
				entries = append(entries, entry{fl.m.audit, spans(fl, filters[j])})
				continue
			}
			entries = append(entries, entry{fl.m.audit, rejectX32(spans(fl), def)})
		default:
			entries = append(entries, entry{fl.m.audit, spans(filters[i])})
		}
	}
	out := p.assemble(entries)
	if len(out) > maxInstructions {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("seccomp profile: %d instructions, the kernel takes %d", len(out), maxInstructions))
	}
	return out, nil
}

// conditions gives the alternatives: each set must hold as a whole.
func conditions(args []specs.LinuxSeccompArg) ([][]cond, error) {
	all := []cond{}
	seen, twice := map[uint]bool{}, false
	for _, a := range args {
		if a.Index > 5 {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("seccomp profile: argument index %d, there are 6 arguments", a.Index))
		}
		c := cond{arg: a.Index, op: a.Op, value: a.Value, mask: math.MaxUint64}
		switch a.Op {
		case specs.OpMaskedEqual:
			c.mask, c.value = a.Value, a.ValueTwo
		case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan:
		default:
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid seccomp operator %q", a.Op))
		}
		twice = twice || seen[a.Index]
		seen[a.Index] = true
		all = append(all, c)
	}
	if !twice {
		return [][]cond{all}, nil
	}
	var alternatives [][]cond
	for _, c := range all {
		alternatives = append(alternatives, []cond{c})
	}
	return alternatives, nil
}

// add enters a rule for a name, also where it hides in a multiplexed call.
// A rule that only repeats the default action counts as a mention.
func (f *filter) add(name string, v uint32, sets [][]cond, mention bool) {
	put := func(nr uint32, sets [][]cond) {
		f.last, f.named = max(f.last, nr), true
		if mention {
			return
		}
		for _, conds := range sets {
			f.rules[nr] = append(f.rules[nr], rule{v, f.m.reduce(conds)})
		}
	}
	carried := func(nr uint32, op uint64) {
		var out [][]cond
		for _, conds := range sets {
			// The carrier's first argument takes the place of the call's
			// own, which lies behind a pointer where no filter can see it.
			with := []cond{{arg: 0, op: specs.OpEqualTo, value: op, mask: math.MaxUint64}}
			for _, c := range conds {
				if c.arg != 0 {
					with = append(with, c)
				}
			}
			out = append(out, with)
		}
		put(nr, out)
	}
	if op := socketcalls[name]; op != 0 && f.m.socketcall != 0 {
		carried(f.m.socketcall, op)
	}
	if op := ipcs[name]; op != 0 && f.m.ipc != 0 {
		carried(f.m.ipc, op)
	}
	if nr, ok := f.m.number(name); ok {
		put(nr, sets)
	}
}
