package seccomp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/test/promise"
)

// buildReference compiles testdata/reference.c against libseccomp.
func buildReference(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "reference")
	msg, err := exec.Command("gcc", "-Wall", "-O1", "-o", out, "testdata/reference.c", "-lseccomp").CombinedOutput()
	if err != nil {
		promise.Lacks(t, "libseccomp", "gcc and the headers: ", err, "\n", string(msg))
	}
	return out
}

func runReference(t testing.TB, tool, mode, input string) []byte {
	t.Helper()
	cmd := exec.Command(tool, mode)
	cmd.Stdin = strings.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("reference %s: %v\n%s", mode, err, stderr.Bytes())
	}
	return out
}

// libraryNames gives the names that this libseccomp knows, and checks the
// generated table against its numbers.
func libraryNames(t *testing.T, tool string) map[string]bool {
	var in strings.Builder
	for _, s := range syscalls {
		fmt.Fprintln(&in, s.name)
	}
	known := map[string]bool{}
	var unknown []string
	lines := strings.Split(strings.TrimSpace(string(runReference(t, tool, "names", in.String()))), "\n")
	if len(lines) != len(syscalls) {
		t.Fatalf("%d answers for %d names", len(lines), len(syscalls))
	}
	for i, line := range lines {
		f := strings.Fields(line)
		if f[1] == "?" {
			unknown = append(unknown, f[0])
			continue
		}
		known[f[0]] = true
		var want []string
		for c, nr := range syscalls[i].nr {
			// libseccomp gives the carrier's number for a carried call.
			if c == 1 && socketcalls[f[0]] != 0 {
				nr = 102
			} else if c == 1 && ipcs[f[0]] != 0 {
				nr = 117
			}
			want = append(want, fmt.Sprint(nr))
		}
		if got := strings.Join(f[1:], " "); got != strings.Join(want, " ") {
			t.Errorf("%s: libseccomp has %s, the table %s", f[0], got, strings.Join(want, " "))
		}
	}
	t.Logf("libseccomp knows %d of %d names, not %v", len(known), len(syscalls), unknown)
	return known
}

var operators = map[specs.LinuxSeccompOperator]int{
	specs.OpNotEqual: 1, specs.OpLessThan: 2, specs.OpLessEqual: 3, specs.OpEqualTo: 4,
	specs.OpGreaterEqual: 5, specs.OpGreaterThan: 6, specs.OpMaskedEqual: 7,
}

// referenceProgram compiles with libseccomp what Compile gets.
func referenceProgram(t testing.TB, tool string, f family, s *specs.LinuxSeccomp) []unix.SockFilter {
	t.Helper()
	action := func(a specs.LinuxSeccompAction, errno *uint) uint32 {
		v, err := verdict(a, errno)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	tokens := map[specs.Arch]uint32{
		specs.ArchX86_64: unix.AUDIT_ARCH_X86_64, specs.ArchX86: unix.AUDIT_ARCH_I386, specs.ArchX32: 0x4000003e,
		specs.ArchAARCH64: unix.AUDIT_ARCH_AARCH64, specs.ArchARM: unix.AUDIT_ARCH_ARM,
	}
	var in strings.Builder
	def := action(s.DefaultAction, s.DefaultErrnoRet)
	fmt.Fprintf(&in, "default %x\narch %x\n", def, tokens[f[0].arch])
	for _, a := range s.Architectures {
		if slices.ContainsFunc(f, func(m machine) bool { return m.arch == a }) {
			fmt.Fprintf(&in, "arch %x\n", tokens[a])
		}
	}
	for _, call := range s.Syscalls {
		v := action(call.Action, call.ErrnoRet)
		if v == def {
			continue
		}
		sets, err := conditions(call.Args)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range call.Names {
			for _, set := range sets {
				fmt.Fprintf(&in, "rule %x %s %d", v, name, len(set))
				for _, c := range set {
					a, b := c.value, uint64(0)
					if c.op == specs.OpMaskedEqual {
						a, b = c.mask, c.value
					}
					fmt.Fprintf(&in, " %d %d %x %x", c.arg, operators[c.op], a, b)
				}
				fmt.Fprintln(&in)
			}
		}
	}
	raw := runReference(t, tool, "filter", in.String())
	prog := make([]unix.SockFilter, len(raw)/8)
	if _, err := binary.Decode(raw, binary.LittleEndian, prog); err != nil {
		t.Fatal(err)
	}
	return prog
}

// call is what a filter sees.
type call struct {
	nr, arch uint32
	args     [6]uint64
}

// run interprets a filter; args says whether it looked at an argument.
func run(prog []unix.SockFilter, c *call) (verdict uint32, args bool) {
	var a uint32
	for pc := 0; ; pc++ {
		in := prog[pc]
		var hold bool
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			switch {
			case in.K == 0:
				a = c.nr
			case in.K == 4:
				a = c.arch
			case in.K >= 16 && in.K < 64 && in.K%4 == 0:
				args = true
				a = uint32(c.args[(in.K-16)/8] >> (in.K % 8 * 8))
			default:
				panic(fmt.Sprintf("load at %d", in.K))
			}
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= in.K
			continue
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
			continue
		case unix.BPF_RET | unix.BPF_K:
			return in.K, args
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			hold = a == in.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			hold = a > in.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			hold = a >= in.K
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			hold = a&in.K != 0
		default:
			panic(fmt.Sprintf("instruction %#x", in.Code))
		}
		if hold {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
}

// numbers are the calls to ask about: all that exist, and the edges.
func numbers() []uint32 {
	var out []uint32
	for n := -5; n <= 600; n++ {
		out = append(out, uint32(n), uint32(n)+x32Bit)
	}
	for _, base := range []uint32{0x0f0000, 0x7fffffff, 0x80000000, x32Bit * 3, 0x10000, 0x40010000} {
		for d := -3; d <= 9; d++ {
			out = append(out, base+uint32(d))
		}
	}
	return out
}

// samples are argument values around every value that the profile mentions.
func samples(s *specs.LinuxSeccomp) []uint64 {
	out := []uint64{0, 1, 2, 3, 4, 5, 8, 17, 20, 40, math.MaxUint32, math.MaxUint64, 1 << 32, 1 << 63}
	for _, c := range s.Syscalls {
		for _, a := range c.Args {
			for _, v := range []uint64{a.Value, a.ValueTwo} {
				out = append(out, v, v+1, v-1, ^v, v|1<<32, v+1<<32, v-1<<32, v&math.MaxUint32, v<<32)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

var audits = []uint32{
	unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, unix.AUDIT_ARCH_S390X, 0, math.MaxUint32,
}

// compare asks both programs about everything and reports the first differences.
//
// libseccomp merges the conditions of all rules of a call into one tree and
// equal blocks of all calls into one, and can lose its way in them: for
// "argument <= 65535" and "argument >= 1<<63" it also takes 1<<32-2. A profile
// of many arbitrary conditions may be excused: a difference then counts only if
// the plain reading of its rules (model) is not on our side.
func compare(t *testing.T, label string, f family, s *specs.LinuxSeccomp, ours, theirs []unix.SockFilter, excuse bool) (total, spared int) {
	t.Helper()
	excused := 0
	values := samples(s)
	rng := rand.New(rand.NewPCG(1, 2))
	asked, different := 0, 0
	check := func(c call) (constant bool) {
		asked++
		got, a := run(ours, &c)
		want, b := run(theirs, &c)
		if got != want {
			if _, ok := machineOf(f, s, c.arch, c.nr); excuse && ok && a && got == model(f, s, &c) {
				excused++
				return false
			}
			if different++; different <= 10 {
				t.Errorf("%s: %+v: %#x, libseccomp %#x", label, c, got, want)
			}
		}
		return !a && !b
	}
	for _, arch := range audits {
		for _, nr := range numbers() {
			c := call{nr: nr, arch: arch}
			if check(c) {
				continue // neither looked at an argument
			}
			for i := range c.args {
				for _, v := range values {
					c := c
					c.args[i] = v
					check(c)
					if i > 0 { // the first argument of a carrier
						c.args[0] = uint64(1 + rng.IntN(24))
						check(c)
					}
				}
			}
			for range 30 {
				for i := range c.args {
					c.args[i] = values[rng.IntN(len(values))]
				}
				check(c)
			}
		}
	}
	if different > 0 {
		t.Errorf("%s: %d of %d verdicts differ", label, different, asked)
	}
	t.Logf("%s: %d verdicts (%d excused), %d instructions against %d", label, asked, excused, len(ours), len(theirs))
	return asked, excused
}

// restrict leaves out the names that this libseccomp does not know.
func restrict(s *specs.LinuxSeccomp, known map[string]bool) *specs.LinuxSeccomp {
	out := *s
	out.Syscalls = nil
	for _, c := range s.Syscalls {
		c.Names = slices.DeleteFunc(slices.Clone(c.Names), func(n string) bool { return !known[n] })
		if len(c.Names) > 0 {
			out.Syscalls = append(out.Syscalls, c)
		}
	}
	return &out
}

func TestAgainstLibseccomp(t *testing.T) {
	tool := buildReference(t)
	known := libraryNames(t, tool)
	check := func(label string, f family, s *specs.LinuxSeccomp) {
		t.Helper()
		s = restrict(s, known)
		ours, err := compile(f, s, false)
		if err != nil {
			t.Errorf("%s: %v", label, err)
			return
		}
		compare(t, label, f, s, ours, referenceProgram(t, tool, f, s), false)
	}
	check("docker", amd64, defaultProfile(t))
	for _, extra := range []string{"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_PTRACE", "CAP_BPF"} {
		check("docker with "+extra, amd64, defaultProfile(t, extra))
	}
	arm := *defaultProfile(t)
	arm.Architectures = []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	check("docker on arm64", arm64, &arm)
	native := *defaultProfile(t)
	native.Architectures = nil
	check("native only", amd64, &native)
	check("arm64 native only", arm64, &native)
	native.Architectures = []specs.Arch{specs.ArchX86}
	check("no x32", amd64, &native)
}

func TestRandomAgainstLibseccomp(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	tool := buildReference(t)
	known := libraryNames(t, tool)
	names := []string{
		"socket", "connect", "accept4", "sendmmsg", "semop", "shmctl", "semtimedop", "read", "write", "clone", "clone3",
		"personality", "ioctl", "mmap", "mmap2", "prctl", "execveat", "socketcall", "ipc", "recv", "set_tls", "open",
	}
	ops := []specs.LinuxSeccompOperator{
		specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
		specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual,
	}
	values := []uint64{0, 1, 2, 5, 9, 0x7e020000, 0xffff, math.MaxUint32, 1 << 32, 5<<32 | 7, math.MaxUint64, math.MaxUint64 - 1, 1 << 63}
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKillProcess, specs.ActKill, specs.ActTrap, specs.ActTrace, specs.ActLog}
	rng := rand.New(rand.NewPCG(3, 4))
	asked, excused := 0, 0
	for i := range 400 {
		s := &specs.LinuxSeccomp{DefaultAction: actions[rng.IntN(len(actions))]}
		f := amd64
		if i%3 == 2 {
			f = arm64
		}
		for _, m := range f[1:] {
			if rng.IntN(2) == 0 {
				s.Architectures = append(s.Architectures, m.arch)
			}
		}
		for _, name := range names {
			// One action for all rules of a name: for others the order
			// is a deliberate difference.
			act := actions[rng.IntN(len(actions))]
			if name == "socketcall" || name == "ipc" {
				continue // carried calls have actions of their own
			}
			if socketcalls[name] != 0 || ipcs[name] != 0 {
				act = actions[i%len(actions)]
			}
			for range rng.IntN(3) {
				c := specs.LinuxSyscall{Names: []string{name}, Action: act}
				for _, index := range rng.Perm(6)[:rng.IntN(3)] {
					c.Args = append(c.Args, specs.LinuxSeccompArg{
						Index: uint(index), Op: ops[rng.IntN(len(ops))],
						Value: values[rng.IntN(len(values))], ValueTwo: values[rng.IntN(len(values))],
					})
				}
				s.Syscalls = append(s.Syscalls, c)
			}
		}
		s = restrict(s, known)
		ours, err := compile(f, s, false)
		if err != nil {
			t.Fatal(err)
		}
		n, spared := compare(t, fmt.Sprintf("random %d", i), f, s, ours, referenceProgram(t, tool, f, s), true)
		asked, excused = asked+n, excused+spared
		if t.Failed() {
			for _, c := range s.Syscalls {
				t.Logf("%+v", c)
			}
			return
		}
	}
	if excused > asked/200 {
		t.Errorf("%d of %d verdicts excused", excused, asked)
	}
	t.Logf("%d verdicts, %d excused", asked, excused)
}

// machineOf finds the machine that a call is for.
func machineOf(f family, s *specs.LinuxSeccomp, audit, nr uint32) (machine, bool) {
	chosen, err := f.choose(s.Architectures)
	if err != nil {
		panic(err)
	}
	for _, m := range chosen {
		if m.audit == audit && (m.arch != specs.ArchX86_64 || nr < x32Bit) && (m.arch != specs.ArchX32 || nr >= x32Bit) {
			return m, true
		}
	}
	return machine{}, false
}

// model reads the rules as they stand, for calls of a known machine.
func model(f family, s *specs.LinuxSeccomp, c *call) uint32 {
	def, _ := verdict(s.DefaultAction, s.DefaultErrnoRet)
	m, ok := machineOf(f, s, c.arch, c.nr)
	if !ok {
		panic("no machine")
	}
	found, out := false, def
	for _, r := range s.Syscalls {
		v, _ := verdict(r.Action, r.ErrnoRet)
		sets, _ := conditions(r.Args)
		for _, name := range r.Names {
			for _, set := range sets {
				nr, direct := m.number(name)
				direct = direct && nr == c.nr
				op := uint64(0)
				if m.socketcall != 0 && c.nr == m.socketcall {
					op = socketcalls[name]
				} else if m.ipc != 0 && c.nr == m.ipc {
					op = ipcs[name]
				}
				if !direct && (op == 0 || uint32(c.args[0]) != uint32(op)) {
					continue
				}
				if v != def && holds(m, set, c, op != 0) && !found {
					found, out = true, v
				}
			}
		}
	}
	return out
}

func holds(m machine, set []cond, c *call, carried bool) bool {
	for _, x := range set {
		if carried && x.arg == 0 {
			continue
		}
		a, v, mask := c.args[x.arg], x.value, x.mask
		if !m.wide {
			a, v, mask = a&math.MaxUint32, v&math.MaxUint32, mask&math.MaxUint32
		}
		ok := false
		switch x.op {
		case specs.OpNotEqual:
			ok = a != v
		case specs.OpLessThan:
			ok = a < v
		case specs.OpLessEqual:
			ok = a <= v
		case specs.OpEqualTo:
			ok = a == v
		case specs.OpGreaterEqual:
			ok = a >= v
		case specs.OpGreaterThan:
			ok = a > v
		case specs.OpMaskedEqual:
			ok = a&mask == v&mask
		}
		if !ok {
			return false
		}
	}
	return true
}
