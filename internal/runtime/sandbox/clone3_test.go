package sandbox_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
)

// withoutClone3 makes these tests run under a seccomp filter that answers clone3
// as one does that has never heard of it.
const withoutClone3 = "WHERRY_TEST_WITHOUT_CLONE3"

func TestMain(m *testing.M) {
	if os.Getenv(withoutClone3) != "" {
		if err := denyClone3(); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

func denyClone3() error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_CLONE3},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if e != 0 {
		return e
	}
	return nil
}

// TestWithoutClone3 runs what depends on clone3 where there is none: each way to
// start a process has another one then.
func TestWithoutClone3(t *testing.T) {
	requireRoot(t)
	if os.Getenv(withoutClone3) != "" {
		testReserveDenied(t)
		return
	}
	tests := []string{"TestWithoutClone3", "TestReserveGroup", "TestUserNamespace", "TestExec", "TestJoin", "TestTerminal"}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run=^("+strings.Join(tests, "|")+")$")
	cmd.Env = append(os.Environ(), withoutClone3+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for _, name := range tests {
		if !strings.Contains(string(out), "--- PASS: "+name+" ") {
			t.Errorf("%s did not pass:\n%s", name, out)
		}
	}
}

// testReserveDenied: what waits cannot go on in another process and tells so; all
// starts work without it.
func testReserveDenied(t *testing.T) {
	if _, _, e := unix.Syscall(unix.SYS_CLONE3, 0, 0, 0); e != unix.ENOSYS {
		t.Fatalf("clone3: %v", e)
	}
	b := newBox(t, "sh", "-c", "echo $$; ls /proc/self/fd | wc -l; cat; hostname >&2")
	b.stdin = "in\n"
	var r sandbox.Reserve
	t.Cleanup(r.Drop)
	for range 20 {
		waiting := r.PID()
		p, err := beginWith(t, r.Start, b.plan(), b.stdin, b.extra)
		must(t, err)
		if got := p.wait(); got.out != "1\n4\nin\n" || got.err != "boxed\n" || got.exit.Status() != 0 {
			t.Errorf("stdout %q, stderr %q, %d", got.out, got.err, got.exit.Status())
		}
		if waiting != 0 {
			reaped(t, waiting)
		}
		must(t, r.Prepare())
		if r.PID() == 0 {
			t.Fatal("nothing waits")
		}
	}
	// Into the user namespace of another and a group of its own.
	b, running := sleeper(t, remap)
	b.opt.CgroupDir = unifiedGroup(t)
	got, err := b.exec(running, &container.ExecCreateRequest{Cmd: []string{"cat", "/proc/self/uid_map", "/proc/self/cgroup"}})
	must(t, err)
	if !strings.Contains(got.out, " 100000 ") || !strings.Contains(got.out, filepath.Base(b.opt.CgroupDir)+"\n") {
		t.Errorf("exec: %q %q", got.out, got.err)
	}
}

// reaped checks that what waited is no child any more.
func reaped(t *testing.T, pid int) {
	t.Helper()
	if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("%d is still a child: %v", pid, err)
	}
}

// TestReaperAlone: what --init starts does not run when nobody is left to know of it.
func TestReaperAlone(t *testing.T) {
	init := initFile(t)
	for _, gone := range []bool{false, true} {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
		if gone {
			ours.Close()
		}
		cmd := exec.Command("/proc/"+itoa(os.Getpid())+"/fd/"+itoa(int(init.Fd())), "--", "/bin/sh", "-c", "echo ran")
		cmd.Args[0] = "docker-init"
		cmd.ExtraFiles = []*os.File{theirs}
		out, err := cmd.Output()
		theirs.Close()
		ours.Close()
		if ran := string(out) == "ran\n" && err == nil; ran == gone {
			t.Errorf("keeper gone %v: %q, %v", gone, out, err)
		}
	}
}
