package network

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/forwarding"
	"github.com/wherry-engine/wherry/test/promise"
)

const freshMark = "WHERRY_TEST_FRESH_NETNS"

// fresh runs body, the whole of the calling test, in a process of its own in a
// new network namespace, so that it can do nothing to the host's.
func fresh(t testing.TB, body func()) {
	t.Helper()
	if os.Getenv(freshMark) == t.Name() {
		in, err := rtnl.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		var b rtnl.Batch
		b.SetUp(rtnl.LoopbackIndex)
		if err := in.Do(&b); err != nil {
			t.Fatal(err)
		}
		// A new namespace inherits it from the host's.
		if err := rtnl.WriteSysctl(forwarding.Path, "0"); err != nil {
			t.Fatal(err)
		}
		body()
		return
	}
	promise.Root(t)
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v=" + map[bool]string{true: "true", false: "false"}[testing.Verbose()], "-test.timeout=120s"}
	if b, ok := t.(*testing.B); ok {
		args = []string{"-test.run=^$", "-test.bench=^" + b.Name() + "$"}
		for _, a := range os.Args {
			if strings.HasPrefix(a, "-test.benchtime") || strings.HasPrefix(a, "-test.count") {
				args = append(args, a)
			}
		}
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), freshMark+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is the forking thread's
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in a new network namespace: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}
