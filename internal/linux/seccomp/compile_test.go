package seccomp

import (
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var dockerCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

func defaultProfile(t testing.TB, caps ...string) *specs.LinuxSeccomp {
	t.Helper()
	s, err := Default(append(dockerCaps[:len(dockerCaps):len(dockerCaps)], caps...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSize(t *testing.T) {
	prog, flags, err := Compile(defaultProfile(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d instructions, flags %#x", len(prog), flags)
	if len(prog) > 1200 {
		t.Errorf("%d instructions for the default profile, want at most 1200", len(prog))
	}
}

func TestRefused(t *testing.T) {
	errno := uint(1 << 15)
	allow := func(c specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{c}}
	}
	for want, s := range map[string]*specs.LinuxSeccomp{
		`seccomp action SCMP_ACT_NOTIFY is not supported`:      {DefaultAction: specs.ActNotify},
		`seccomp listenerPath is not supported`:                {DefaultAction: specs.ActAllow, ListenerPath: "/run/x"},
		`invalid seccomp action "SCMP_ACT_NONE"`:               {DefaultAction: "SCMP_ACT_NONE"},
		`unknown architecture "SCMP_ARCH_Z80"`:                 {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_Z80"}},
		`seccomp flag "X" not known`:                           {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}},
		`errnoRet 32768 is out of range`:                       {DefaultAction: specs.ActErrno, DefaultErrnoRet: &errno},
		`a rule names no syscall`:                              allow(specs.LinuxSyscall{Action: specs.ActLog}),
		`argument index 6`:                                     allow(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActLog, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}),
		`invalid seccomp operator "SCMP_CMP_XX"`:               allow(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActLog, Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_XX"}}}),
		`WAIT_KILLABLE_RECV needs SCMP_ACT_NOTIFY, which is n`: {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}},
	} {
		if _, _, err := Compile(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestLoad(t *testing.T) {
	const profile = `{
	  "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
	  "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}, {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
	  "syscalls": [
	    {"names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
	    {"name": "getpid", "action": "SCMP_ACT_LOG"},
	    {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
	    {"names": ["mount"], "action": "SCMP_ACT_TRAP", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
	    {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "3.0"}},
	    {"names": ["acct"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
	    {"names": ["setns"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
	    {"names": ["chroot"], "action": "SCMP_ACT_KILL_PROCESS"},
	    {"names": ["unshare"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
	    {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 9, "op": "SCMP_CMP_EQ"}]}
	  ]}`
	m := families[runtime.GOARCH][0]
	for _, admin := range []bool{false, true} {
		caps := []string{"CAP_CHOWN"}
		mount := uint32(unix.SECCOMP_RET_TRAP)
		if admin {
			caps, mount = append(caps, "CAP_SYS_ADMIN"), unix.SECCOMP_RET_ALLOW
		}
		s, err := Load([]byte(profile), caps)
		if err != nil {
			t.Fatal(err)
		}
		prog, _, err := Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		nosys := uint32(unix.SECCOMP_RET_ERRNO | unix.ENOSYS)
		for name, want := range map[string]uint32{
			"read": unix.SECCOMP_RET_ALLOW, "getpid": unix.SECCOMP_RET_LOG, "mount": mount, "ptrace": unix.SECCOMP_RET_ALLOW,
			"acct": nosys, "setns": nosys, "chroot": unix.SECCOMP_RET_KILL_PROCESS, "unshare": unix.SECCOMP_RET_TRACE | 7, "personality": nosys,
		} {
			nr, _ := m.number(name)
			if got, _ := run(prog, &call{nr: nr, arch: m.audit}); got != want {
				t.Errorf("%s: %#x, want %#x", name, got, want)
			}
		}
		nr, _ := m.number("personality")
		for value, want := range map[uint64]uint32{8: unix.SECCOMP_RET_ALLOW, 9: unix.SECCOMP_RET_ALLOW, 10: nosys, 8 | 1<<32: nosys} {
			if got, _ := run(prog, &call{nr: nr, arch: m.audit, args: [6]uint64{value}}); got != want {
				t.Errorf("personality(%#x): %#x, want %#x", value, got, want)
			}
		}
		if got, _ := run(prog, &call{arch: unix.AUDIT_ARCH_S390X}); got != unix.SECCOMP_RET_KILL_THREAD {
			t.Errorf("foreign architecture: %#x", got)
		}
	}
	if _, err := Load([]byte("{"), nil); err == nil || !strings.Contains(err.Error(), "Decoding seccomp profile failed") {
		t.Errorf("broken JSON: %v", err)
	}
	if s, err := Load([]byte(`{}`), nil); s != nil || err != nil {
		t.Errorf("empty profile: %v, %v", s, err)
	}
}

func TestCache(t *testing.T) {
	var c Cache
	a, err := c.Default([]string{"CAP_B", "CAP_A"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Default([]string{"CAP_A", "CAP_B"})
	if err != nil {
		t.Fatal(err)
	}
	if a != b {
		t.Error("the order of the capabilities makes another profile")
	}
	p, _, err := c.Compile(a)
	if err != nil {
		t.Fatal(err)
	}
	q, _, err := c.Compile(b)
	if err != nil {
		t.Fatal(err)
	}
	if &p[0] != &q[0] {
		t.Error("compiled twice")
	}
	other := *a // the caller's own: may change under the same address
	if p, _, err = c.Compile(&other); err != nil || &p[0] != &q[0] {
		t.Errorf("an equal profile was compiled again (%v)", err)
	}
	other.DefaultAction = specs.ActAllow
	if p, _, err = c.Compile(&other); err != nil || &p[0] == &q[0] {
		t.Errorf("a changed profile was not compiled (%v)", err)
	}
	if p, _, err := c.Compile(nil); p != nil || err != nil {
		t.Errorf("no profile: %v, %v", p, err)
	}
}

func BenchmarkCompile(b *testing.B) {
	s := defaultProfile(b)
	for b.Loop() {
		if _, _, err := Compile(s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCached(b *testing.B) {
	var c Cache
	for b.Loop() {
		s, err := c.Default(dockerCaps)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := c.Compile(s); err != nil {
			b.Fatal(err)
		}
	}
}
