package acceptance

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestUpgrade: another wherryd with another keeper takes over a running
// container with its log, its attached client and its exit code.
func TestUpgrade(t *testing.T) {
	harness.Require(t, "busybox")
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	newer := nextRelease(t)
	code, body, err := e.API("POST", "/containers/create?name=box", map[string]any{
		"Image": "busybox", "OpenStdin": true, "StdinOnce": true, "AttachStdin": true, "AttachStdout": true,
		"Cmd": []string{"sh", "-c", "while read x; do echo $x; done; exit 7"},
	})
	if err != nil || code != 201 {
		t.Fatalf("create: %d %s %v", code, body, err)
	}
	a := hijack(t, e, "/containers/box/attach?stream=1&stdin=1&stdout=1", upgrade, "")
	if code, body, err := e.API("POST", "/containers/box/start", nil); err != nil || code != 204 {
		t.Fatalf("start: %d %s %v", code, body, err)
	}
	a.SetDeadline(time.Now().Add(time.Minute))
	echo := func(word string) {
		t.Helper()
		fmt.Fprintln(a, word)
		frame := make([]byte, 8+len(word)+1)
		if err := readFull(a.r, frame); err != nil || string(frame[8:]) != word+"\n" {
			t.Fatalf("%s: %q %v", word, frame, err)
		}
	}
	echo("first")
	before, err := e.Inspect("box")
	if err != nil {
		t.Fatal(err)
	}
	keeper, hash := keeperOf(t, e)
	t.Setenv("WHERRY_BIN", newer)
	if err := e.Restart(); err != nil {
		t.Fatal(err)
	}
	after, err := e.Inspect("box")
	if err != nil || after.State.Pid != before.State.Pid || !after.State.Running {
		t.Fatalf("after the upgrade: %+v %v, before %+v", after, err, before)
	}
	echo("second")
	// A keeper of the new release holds it, or will at the latest when it is asked to.
	start(t, e, "late", "true")
	if code, err := e.Wait("late"); err != nil || code != 0 {
		t.Errorf("a container of the new engine: %d %v", code, err)
	}
	now, nowHash := keeperOf(t, e)
	if nowHash == hash {
		t.Errorf("keeper %d runs the program of keeper %d still", now, keeper)
	}
	echo("third")
	// Down again to where it came from.
	t.Setenv("WHERRY_BIN", filepath.Dir(oldBinary))
	if err := e.Restart(); err != nil {
		t.Fatal(err)
	}
	echo("fourth")
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if code, err := e.Wait("box"); err != nil || code != 7 {
		t.Errorf("exit code %d %v, want 7", code, err)
	}
	if out, _, _, err := e.CLI("logs", "box"); err != nil || out != "first\nsecond\nthird\nfourth\n" {
		t.Errorf("logs: %q %v", out, err)
	}
}

// oldBinary is the program of the release that is tested.
var oldBinary = harness.Binary("wherryd")

// nextRelease builds wherryd and wherry with another version and a keeper of
// other bytes and returns their directory.
func nextRelease(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build := func(out string, args ...string) {
		t.Helper()
		cmd := exec.Command("go", append(append([]string{"build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(dir, out)}, args...), "./cmd/"+out)...)
		cmd.Dir, cmd.Env = harness.Root(), append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
	build("wherry-keeper") // with its symbols, which the Makefile leaves out
	root, err := filepath.Abs(harness.Root())
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(root, "internal/embedded/bin/wherry-keeper"): filepath.Join(dir, "wherry-keeper"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	build("wherryd", "-overlay", file(t, "overlay.json", string(overlay)), "-ldflags=-s -w -X main.version=next")
	if out, err := exec.Command(filepath.Join(dir, "wherryd"), "--version").Output(); err != nil || !strings.Contains(string(out), "version next,") {
		t.Fatalf("%s %v", out, err)
	}
	if err := os.Symlink(harness.Binary("wherry"), filepath.Join(dir, "wherry")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// keeperOf finds the engine's keeper and what program it is.
func keeperOf(t *testing.T, e *harness.Engine) (pid int, size int64) {
	t.Helper()
	for _, p := range e.Processes() {
		var comm string
		if _, err := fmt.Sscan(p, &pid, &comm); err == nil && strings.HasPrefix(comm, "wherry-keeper") {
			st, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
			if err != nil {
				t.Fatal(err)
			}
			return pid, st.Size()
		}
	}
	t.Fatalf("no keeper among %q", e.Processes())
	return 0, 0
}

func readFull(r *bufio.Reader, b []byte) error {
	for n := 0; n < len(b); {
		m, err := r.Read(b[n:])
		if err != nil {
			return err
		}
		n += m
	}
	return nil
}

// TestKilledAtEachStep kills the engine at growing times after a request was
// sent and looks at what the next one makes of it: a container is there whole
// or not at all, and can be removed.
func TestKilledAtEachStep(t *testing.T) {
	harness.Require(t, "busybox")
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	steps := []struct{ name, prepare, do string }{
		{"create", "", "create --name NAME busybox true"},
		{"start", "create --name NAME busybox sleep 1000", "start NAME"},
		{"run", "", "run -d --name NAME busybox sleep 1000"},
		{"run --rm", "", "run -d --rm --name NAME busybox sleep 1000"},
		{"exec", "run -d --name NAME busybox sleep 1000", "exec NAME true"},
		{"stop", "run -d --name NAME busybox sleep 1000", "stop -t 0 NAME"},
		{"restart", "run -d --name NAME busybox sleep 1000", "restart -t 0 NAME"},
		{"pause", "run -d --name NAME busybox sleep 1000", "pause NAME"},
		{"rename", "create --name NAME busybox true", "rename NAME NAME-b"},
		{"update", "run -d --name NAME busybox sleep 1000", "update -m 50m --memory-swap 50m NAME"},
		{"rm", "create --name NAME busybox true", "rm NAME"},
		{"rm -f", "run -d --name NAME busybox sleep 1000", "rm -f NAME"},
		{"volume", "", "run -d --name NAME -v NAME-v:/data busybox sleep 1000"},
	}
	for i, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			for round, wait := range []time.Duration{time.Millisecond, 4 * time.Millisecond, 12 * time.Millisecond, 30 * time.Millisecond} {
				name := fmt.Sprintf("box%d-%d", i, round)
				args := func(s string) []string { return strings.Fields(strings.ReplaceAll(s, "NAME", name)) }
				if s.prepare != "" {
					if _, errOut, code, err := e.CLI(args(s.prepare)...); err != nil || code != 0 {
						t.Fatalf("%s: %d %s %v", s.prepare, code, errOut, err)
					}
				}
				done := make(chan struct{})
				go func() {
					defer close(done)
					e.CLI(args(s.do)...) // how it ends is the engine's death's business
				}()
				time.Sleep(wait) // the point: anywhere in between
				e.Kill()
				<-done
				if err := e.Start(); err != nil {
					t.Fatal(err)
				}
				whole(t, e, wait)
			}
		})
	}
}

// whole looks at every container of an engine that has just come back and
// removes them.
func whole(t *testing.T, e *harness.Engine, wait time.Duration) {
	t.Helper()
	var list []struct {
		ID    string
		Names []string
		State string
	}
	if err := e.GetJSON("/containers/json?all=1", &list); err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		i, err := e.Inspect(c.ID)
		if err != nil {
			t.Errorf("%v after %v: %v", c.Names, wait, err)
			continue
		}
		alive := i.State.Pid > 0 && syscall.Kill(i.State.Pid, 0) == nil
		if i.State.Running != alive || i.State.Status != c.State {
			t.Errorf("%v after %v: listed as %q, %+v, its process is there: %v", c.Names, wait, c.State, i.State, alive)
		}
		if i.State.Status == "running" {
			if _, errOut, code, err := e.CLI("exec", c.ID, "true"); err != nil || code != 0 {
				t.Errorf("exec in %v after %v: %d %s %v", c.Names, wait, code, errOut, err)
			}
		}
		code, body, err := e.API("DELETE", "/containers/"+c.ID+"?force=1&v=1", nil)
		if code == 409 && strings.Contains(string(body), "is already in progress") {
			// The engine finishes the removal that its predecessor began.
			code, body, err = e.API("POST", "/containers/"+c.ID+"/wait?condition=removed", nil)
			if code == 200 || code == 404 {
				continue
			}
		}
		if err != nil || code != 204 {
			t.Errorf("remove %v after %v: %d %s %v", c.Names, wait, code, body, err)
		}
	}
}
