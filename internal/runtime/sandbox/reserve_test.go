package sandbox_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
)

// TestReserve checks that the process that waits becomes the next container,
// whole and with nothing of the host, and that one which is gone or not wanted
// costs nobody a start.
func TestReserve(t *testing.T) {
	b := newBox(t, "sh", "-c", "echo $$; ls /proc/self/fd | wc -l; cat; hostname >&2")
	b.stdin = "in\n"
	const want = "1\n4\nin\n"
	var r sandbox.Reserve
	t.Cleanup(r.Drop)
	start := func() int {
		t.Helper()
		p, err := beginWith(t, r.Start, b.plan(), b.stdin, b.extra)
		must(t, err)
		if got := p.wait(); got.out != want || got.err != "boxed\n" || got.exit.Status() != 0 {
			t.Errorf("stdout %q, stderr %q, %d", got.out, got.err, got.exit.Status())
		}
		return p.PID
	}
	start() // tells what is wanted
	must(t, r.Prepare())
	waiting := r.PID()
	if waiting == 0 {
		t.Fatal("nothing waits")
	}
	// It sees the host's mounts and holds none of its own.
	runtime.LockOSThread() // other tests leave threads elsewhere
	defer runtime.UnlockOSThread()
	ours, err := os.Readlink("/proc/thread-self/ns/mnt")
	must(t, err)
	if theirs, err := os.Readlink(filepath.Join("/proc", itoa(waiting), "ns/mnt")); err != nil || theirs != ours {
		t.Errorf("mounts %s, want %s (%v)", theirs, ours, err)
	}
	if got := start(); got != waiting {
		t.Errorf("started %d, not %d that waited", got, waiting)
	}
	if r.PID() != 0 {
		t.Error("used and still waiting")
	}
	// Killed while it waits.
	must(t, r.Prepare())
	gone := r.PID()
	must(t, unix.Kill(gone, unix.SIGKILL))
	_, err = unix.Wait4(gone, nil, 0, nil)
	must(t, err)
	if got := start(); got == gone {
		t.Error("a dead process was used")
	}
	// Not wanted: of another kind, then dropped.
	must(t, r.Prepare())
	other := r.PID()
	plan := b.plan()
	plan.CloneFlags &^= unix.CLONE_NEWIPC
	p, err := r.Start(initFile(t), plan, sandbox.Stdio{}, b.extra)
	must(t, err)
	p.PIDFD.Close()
	for _, pid := range []int{p.PID, other} {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
			t.Error(err)
		}
	}
	must(t, r.Prepare())
	last := r.PID()
	r.Drop()
	if _, err := unix.Wait4(last, nil, 0, nil); err != nil {
		t.Error(err)
	}
}
