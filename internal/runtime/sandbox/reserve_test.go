package sandbox_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/runtime/compile"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
	"github.com/wherry-engine/wherry/test/promise"
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
	start := func() {
		t.Helper()
		p, err := beginWith(t, r.Start, b.plan(), b.stdin, b.extra)
		must(t, err)
		if got := p.wait(); got.out != want || got.err != "boxed\n" || got.exit.Status() != 0 {
			t.Errorf("stdout %q, stderr %q, %d", got.out, got.err, got.exit.Status())
		}
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
	start()
	if r.PID() != 0 {
		t.Error("used and still waiting")
	}
	// It went on in another, without which it would have been killed.
	var status unix.WaitStatus
	if _, err := unix.Wait4(waiting, &status, 0, nil); err != nil || !status.Exited() || status.ExitStatus() != 0 {
		t.Errorf("what waited ended with %v, %v", status, err)
	}
	// A program that is not there: what it went on in tells so and is reaped.
	must(t, r.Prepare())
	waiting = r.PID()
	none := newBox(t, "nope")
	_, err = r.Start(initFile(t), none.plan(), sandbox.Stdio{}, none.extra)
	if f := (*sandbox.StartError)(nil); !errors.As(err, &f) || !strings.Contains(f.Message, "not found in $PATH") {
		t.Errorf("a program that is not there: %v", err)
	}
	if _, err := unix.Wait4(waiting, &status, 0, nil); err != nil || !status.Exited() || status.ExitStatus() != 0 {
		t.Errorf("what waited ended with %v, %v", status, err)
	}
	// Killed while it waits.
	must(t, r.Prepare())
	gone := r.PID()
	must(t, unix.Kill(gone, unix.SIGKILL))
	_, err = unix.Wait4(gone, nil, 0, nil)
	must(t, err)
	start()
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

// TestReserveGroup: on cgroup v2 the process that waits is not in the group, but
// what it becomes is born there.
func TestReserveGroup(t *testing.T) {
	b := newBox(t, "cat")
	dir := unifiedGroup(t)
	var r sandbox.Reserve
	t.Cleanup(r.Drop)
	for _, ahead := range []bool{false, true} {
		plan := b.plan()
		plan.CgroupDir = dir
		in, feed, err := os.Pipe()
		must(t, err)
		if ahead {
			must(t, r.Prepare())
		}
		waiting := r.PID()
		p, err := r.Start(initFile(t), plan, sandbox.Stdio{In: in}, b.extra)
		in.Close()
		must(t, err)
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if want := itoa(p.PID) + "\n"; string(procs) != want || err != nil {
			t.Errorf("the group has %q, want %q (%v)", procs, want, err)
		}
		feed.Close()
		p.PIDFD.Close()
		left := []int{p.PID}
		switch {
		case waiting == 0:
		case os.Getenv(withoutClone3) != "":
			reaped(t, waiting)
		default:
			left = append(left, waiting)
		}
		for _, pid := range left {
			var status unix.WaitStatus
			if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || !status.Exited() || status.ExitStatus() != 0 {
				t.Errorf("%d ended with %v, %v", pid, status, err)
			}
		}
	}
}

// unifiedGroup makes a group of cgroup v2, which v1 machines have beside.
func unifiedGroup(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) > 2 && f[2] == "cgroup2" {
			dir := filepath.Join(f[1], "wherry-sandbox-"+itoa(os.Getpid()))
			must(t, os.Mkdir(dir, 0o755))
			t.Cleanup(func() {
				for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // no event tells that the dead have left
					err := os.Remove(dir)
					if err == nil {
						return
					}
					if time.Now().After(deadline) {
						t.Fatal(err)
					}
				}
			})
			return dir
		}
	}
	promise.Lacks(t, "cgroup", "v2 is not mounted")
	return ""
}

// TestReserveSignals: when what waited, or the process that it goes on in, is killed
// before the program is started, there is no start, and neither is left.
func TestReserveSignals(t *testing.T) {
	b := newBox(t, "echo", "there")
	b.opt.Hold = true
	var r sandbox.Reserve
	t.Cleanup(r.Drop)
	start := func() (waiting int, p *process) {
		t.Helper()
		must(t, r.Prepare())
		waiting = r.PID()
		p, err := beginWith(t, r.Start, b.plan(), "", b.extra)
		must(t, err)
		return waiting, p
	}
	_, p := start() // tells what is wanted
	must(t, p.Release())
	if got := p.wait(); got.out != "there\n" || got.exit.Status() != 0 {
		t.Errorf("stdout %q, stderr %q, %d", got.out, got.err, got.exit.Status())
	}
	for _, kill := range []struct {
		first, reap bool
		signal      unix.Signal
	}{{true, false, unix.SIGKILL}, {true, true, unix.SIGKILL}, {false, false, unix.SIGTERM}, {false, false, unix.SIGKILL}} {
		waiting, p := start()
		var status unix.WaitStatus
		if kill.first {
			must(t, unix.Kill(waiting, kill.signal))
			must(t, unix.Waitid(unix.P_PID, waiting, nil, unix.WEXITED|unix.WNOWAIT, nil))
			if kill.reap {
				_, err := unix.Wait4(waiting, &status, 0, nil)
				must(t, err)
			}
		} else {
			must(t, unix.Kill(p.PID, kill.signal))
		}
		if err := p.Release(); err == nil {
			t.Errorf("%+v: started", kill)
		}
		p.reaped = true
		p.done.Wait()
		reaped(t, p.PID)
		if !kill.reap {
			_, err := unix.Wait4(waiting, &status, 0, nil)
			must(t, err)
		}
		if kill.first != status.Signaled() || !kill.first && status.ExitStatus() != 0 {
			t.Errorf("%+v: what waited ended with %v", kill, status)
		}
	}
}

// TestReserveExec: what waits becomes a further process of a container, too, in all
// its namespaces and in none of those it waited in.
func TestReserveExec(t *testing.T) {
	b, running := sleeper(t)
	var r sandbox.Reserve
	t.Cleanup(r.Drop)
	p, err := beginWith(t, r.Start, newBox(t, "true").plan(), "", nil) // tells what is wanted
	must(t, err)
	p.wait()
	s, _, err := spec.Build(b.in)
	must(t, err)
	kinds := []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"}
	process, err := spec.BuildExec(s, &container.ExecCreateRequest{Cmd: []string{"sh", "-c", "for n in " + strings.Join(kinds, " ") +
		"; do readlink /proc/self/ns/$n; done; echo $PPID; ls /proc/self/fd | wc -l"}})
	must(t, err)
	want := ""
	for _, k := range kinds {
		link, err := os.Readlink("/proc/" + itoa(running.PID) + "/ns/" + k)
		must(t, err)
		want += link + "\n"
	}
	want += "0\n4\n"
	for range 3 {
		must(t, r.Prepare())
		waiting := r.PID()
		plan, err := compile.Exec(process, compile.ExecOptions{PID: running.PID, Main: s, Lookup: true})
		must(t, err)
		p, err := beginWith(t, r.Start, plan, "", nil)
		must(t, err)
		if got := p.wait(); got.out != want || got.exit.Status() != 0 {
			t.Errorf("stdout %q, want %q, stderr %q, %d", got.out, want, got.err, got.exit.Status())
		}
		var status unix.WaitStatus
		if _, err := unix.Wait4(waiting, &status, 0, nil); err != nil || !status.Exited() || status.ExitStatus() != 0 {
			t.Errorf("what waited ended with %v, %v", status, err)
		}
	}
}
