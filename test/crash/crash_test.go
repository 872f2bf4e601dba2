// Package crash kills wherryd where it hurts and looks at what is left: no log
// line lost or doubled, no exit code wrong, no container that is neither there
// nor gone.
package crash

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// start gives an engine with busybox and an image named counter.
func start(t *testing.T) *harness.Engine {
	t.Helper()
	harness.Require(t, "busybox")
	e := harness.Run(t, harness.Options{})
	path, err := harness.Program(t.TempDir(), "./test/crash/counter")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	counter := &harness.Image{
		Names:  []string{"counter:latest"},
		Config: harness.Config{Entrypoint: []string{"/counter"}},
		Layers: [][]harness.File{{{Name: "counter", Mode: 0o755, Data: program}}},
	}
	if err := e.Load(counter.DockerArchive()); err != nil {
		t.Fatal(err)
	}
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	return e
}

func create(t *testing.T, e *harness.Engine, name, image string, cmd ...string) {
	t.Helper()
	code, body, err := e.API("POST", "/containers/create?name="+name, map[string]any{"Image": image, "Cmd": cmd})
	if err != nil || code != 201 {
		t.Fatalf("create %s: %d %s %v", name, code, body, err)
	}
	if code, body, err = e.API("POST", "/containers/"+name+"/start", nil); err != nil || code != 204 {
		t.Fatalf("start %s: %d %s %v", name, code, body, err)
	}
}

func inspect(t *testing.T, e *harness.Engine, name string) *harness.Inspection {
	t.Helper()
	i, err := e.Inspect(name)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// logLines strips the frames' headers off a container's whole log.
func logLines(t *testing.T, e *harness.Engine, name string) []string {
	t.Helper()
	code, b, err := e.API("GET", "/containers/"+name+"/logs?stdout=1&stderr=1", nil)
	if err != nil || code != 200 {
		t.Fatalf("logs %s: %d %v", name, code, err)
	}
	var text bytes.Buffer
	// API trims the answer's end; a cut header cannot be at the end of a log.
	for len(b) >= 8 {
		n := min(int(binary.BigEndian.Uint32(b[4:8])), len(b)-8)
		text.Write(b[8 : 8+n])
		b = b[8+n:]
	}
	var lines []string
	for sc := bufio.NewScanner(&text); sc.Scan(); {
		lines = append(lines, sc.Text())
	}
	return lines
}

func wantCounted(t *testing.T, name string, lines []string) {
	t.Helper()
	for i, l := range lines {
		if l != strconv.Itoa(i) {
			t.Fatalf("%s: line %d of %d is %q (before it %q)", name, i, len(lines), l, lines[max(0, i-1):i])
		}
	}
}

// TestKill9 is the promise of the keeper: the containers do not notice.
func TestKill9(t *testing.T) {
	e := start(t)
	create(t, e, "forever", "counter")
	pid := inspect(t, e, "forever").State.Pid
	for round := range 5 {
		name := fmt.Sprintf("short%d", round)
		create(t, e, name, "counter", "400", strconv.Itoa(10+round))
		time.Sleep(100 * time.Millisecond) // in the middle of its lines
		e.Kill()
		if round%2 == 0 {
			time.Sleep(600 * time.Millisecond) // it ends while no engine is there
		}
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		now := inspect(t, e, "forever")
		if now.State.Pid != pid || !now.State.Running {
			t.Fatalf("round %d: pid %d running %v, was %d", round, now.State.Pid, now.State.Running, pid)
		}
		code, err := e.Wait(name)
		if err != nil || code != 10+round {
			t.Errorf("%s: exit code %d %v, want %d", name, code, err, 10+round)
		}
		if got := inspect(t, e, name).State; got.ExitCode != 10+round || got.Status != "exited" || got.FinishedAt.IsZero() {
			t.Errorf("%s: inspect says %+v", name, got)
		}
		lines := logLines(t, e, name)
		wantCounted(t, name, lines)
		if len(lines) != 400 {
			t.Errorf("%s: %d lines, want 400", name, len(lines))
		}
	}
	if code, body, err := e.API("POST", "/containers/forever/kill", nil); err != nil || code != 204 {
		t.Fatalf("kill: %d %s %v", code, body, err)
	}
	if code, err := e.Wait("forever"); err != nil || code != 137 {
		t.Errorf("forever: exit code %d %v, want 137", code, err)
	}
	lines := logLines(t, e, "forever")
	wantCounted(t, "forever", lines)
	if len(lines) < 1000 {
		t.Errorf("forever: only %d lines", len(lines))
	}
}

// TestKill9Exec: an exec that ran when the engine died leaves no stuck state, and
// new ones work.
func TestKill9Exec(t *testing.T) {
	e := start(t)
	create(t, e, "box", "busybox", "sleep", "1000")
	if _, errOut, code, err := e.CLI("exec", "-d", "box", "sleep", "1000"); err != nil || code != 0 {
		t.Fatalf("exec -d: %d %s %v", code, errOut, err)
	}
	e.Kill()
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	out, errOut, code, err := e.CLI("exec", "box", "echo", "still here")
	if err != nil || code != 0 || out != "still here\n" {
		t.Errorf("exec: %q %q %d %v", out, errOut, code, err)
	}
}

// TestKill9Busy kills the engine at random moments of create, start, stop and
// remove, and wants what is left to be of one piece.
func TestKill9Busy(t *testing.T) {
	e := start(t)
	chance := harness.Chance(t)
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					life(e, fmt.Sprintf("r%dw%dn%d", round, w, n))
				}
			})
		}
		time.Sleep(time.Duration(50+chance.IntN(400)) * time.Millisecond)
		e.Kill()
		close(stop)
		wg.Wait()
		if err := e.Start(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		whole(t, e, round)
	}
}

// life is what a busy client does; the engine may die under any of its calls.
func life(e *harness.Engine, name string) {
	e.API("POST", "/containers/create?name="+name, map[string]any{"Image": "busybox", "Cmd": []string{"sleep", "1000"}})
	e.API("POST", "/containers/"+name+"/start", nil)
	e.API("POST", "/containers/"+name+"/stop?t=0", nil)
	e.API("DELETE", "/containers/"+name+"?force=1", nil)
}

// whole checks each container that the engine knows and removes it.
func whole(t *testing.T, e *harness.Engine, round int) {
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
			t.Errorf("round %d: %v is listed but %v", round, c.Names, err)
			continue
		}
		alive := i.State.Pid != 0 && processIs(i.State.Pid, "sleep")
		if i.State.Running != alive {
			t.Errorf("round %d: %s is %s with pid %d, alive: %v", round, i.Name, i.State.Status, i.State.Pid, alive)
		}
		if code, body, err := e.API("DELETE", "/containers/"+c.ID+"?force=1", nil); err != nil || code != 204 {
			t.Errorf("round %d: remove %s (%s): %d %s %v", round, i.Name, i.State.Status, code, body, err)
		}
	}
	if err := e.GetJSON("/containers/json?all=1", &list); err != nil || len(list) != 0 {
		t.Errorf("round %d: %d containers after removing all: %v", round, len(list), err)
	}
	// A program that was ended may take a moment, of which nobody is told.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left := slices.DeleteFunc(e.Processes(), func(p string) bool {
			return strings.Contains(p, "/wherryd ") || strings.Contains(p, " wherry-keeper ") || strings.HasSuffix(p, "wherry-init waiting")
		})
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("round %d: processes of nobody's: %s", round, strings.Join(left, "\n"))
			return
		}
	}
}

func processIs(pid int, name string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && strings.TrimSpace(string(b)) == name
}
