package acceptance

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestManyRuns: after many `run --rm` nothing of them is there: no container,
// file, process, descriptor, goroutine. WHERRY_RUNS says how many (10000 is what
// is promised); only then the engine's speed is judged: runs on it and on a new
// engine take turns, one by one, and the median of 100 pairs is within 10 %.
func TestManyRuns(t *testing.T) {
	harness.Require(t, "busybox")
	n, judged := 200, false
	if s := os.Getenv("WHERRY_RUNS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
		judged = true
	}
	engine := func() *harness.Engine {
		e := harness.Run(t, harness.Options{})
		if err := e.LoadBusybox(); err != nil {
			t.Fatal(err)
		}
		return e
	}
	run := func(e *harness.Engine) error {
		out, stderr, code, err := e.CLI("run", "--rm", "-v", "/data", "busybox", "echo", "hi")
		if err != nil || code != 0 || out != "hi\n" {
			return fmt.Errorf("%q %q %d %w", out, stderr, code, err)
		}
		return nil
	}
	e := engine()
	// The first ones make what an engine keeps: the keeper, pools, connections.
	each(t, 20, 4, func(int) error { return run(e) })
	before := settle(t, e, nil)
	memory, _, _ := e.Memory()
	began := time.Now()
	each(t, n, 4, func(int) error { return run(e) })
	t.Logf("%d runs in %v", n, time.Since(began))
	settle(t, e, before)
	after, _, _ := e.Memory()
	t.Logf("memory of daemon and keeper: %d KB before, %d KB after", memory>>10, after>>10)
	if !judged {
		return
	}
	fresh := engine()
	each(t, 20, 4, func(int) error { return run(fresh) })
	var ratios, olds, news []float64
	for i := range 100 {
		var took [2]float64
		order := []int{i % 2, 1 - i%2} // neither is always the first
		for _, which := range order {
			began := time.Now()
			if err := run([]*harness.Engine{e, fresh}[which]); err != nil {
				t.Fatal(err)
			}
			took[which] = float64(time.Since(began)) / 1e6
		}
		ratios, olds, news = append(ratios, took[0]/took[1]), append(olds, took[0]), append(news, took[1])
	}
	for _, l := range [][]float64{ratios, olds, news} {
		slices.Sort(l)
	}
	t.Logf("100 runs each, by turns: median %.1f ms (least %.1f) after %d runs, %.1f ms (least %.1f) on a new engine; median ratio %.3f", olds[50], olds[0], n, news[50], news[0], ratios[50])
	if ratios[50] < 0.9 || ratios[50] > 1.1 {
		t.Errorf("a run takes %.3f times what it takes on a new engine", ratios[50])
	}
}

// held is what an engine has.
type held struct {
	containers, volumes      []string
	files                    int // under the data root
	descriptors, keeper, run int // of the daemon, of its keeper; goroutines
	processes                []string
}

// settle gives what the engine has when nothing is asked of it, or, with what
// it had before, waits until it has no more than that.
func settle(t *testing.T, e *harness.Engine, before *held) *held {
	t.Helper()
	var last string
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		h := look(t, e)
		now := fmt.Sprintf("%+v", *h)
		switch {
		case before == nil && now == last:
			return h
		case before != nil && len(h.containers) == 0 && len(h.volumes) == len(before.volumes) && len(h.processes) <= len(before.processes) &&
			h.files <= before.files && h.descriptors <= before.descriptors && h.keeper <= before.keeper && h.run <= before.run:
			return h
		case time.Now().After(deadline) && before == nil:
			return h // it never stands still; no more than this is allowed afterwards
		case time.Now().After(deadline):
			t.Fatalf("left over: %s\nbefore: %+v", now, *before)
		}
		last = now
	}
}

func look(t *testing.T, e *harness.Engine) *held {
	t.Helper()
	h := &held{run: goroutines(t, e), processes: e.Processes()}
	out, errOut, code, err := e.CLI("ps", "-aq")
	if err != nil || code != 0 {
		t.Fatalf("ps: %s %d %v", errOut, code, err)
	}
	h.containers = strings.Fields(out)
	if out, errOut, code, err = e.CLI("volume", "ls", "-q"); err != nil || code != 0 {
		t.Fatalf("volume ls: %s %d %v", errOut, code, err)
	}
	h.volumes = strings.Fields(out)
	// What is removed during the walk is not there. The directories of two letters
	// that containers are spread over stay: they are 256, however many runs.
	if err := filepath.WalkDir(e.DataRoot(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !(d.IsDir() && len(filepath.Base(path)) == 2) {
			h.files++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	h.descriptors = descriptors(t, e.PID())
	for _, p := range h.processes {
		if pid, err := strconv.Atoi(strings.Fields(p)[0]); err == nil && strings.Contains(p, " wherry-keeper ") {
			h.keeper += descriptors(t, pid)
		}
	}
	return h
}

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// goroutines asks the daemon for the stacks of its goroutines and counts them.
func goroutines(t *testing.T, e *harness.Engine) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	const told = "goroutine stacks written to "
	count := func() int { return strings.Count(e.LogTail(1<<20), told) }
	n := count()
	if err := syscall.Kill(e.PID(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	for count() == n {
		if ctx.Err() != nil {
			t.Fatal("the daemon does not tell its goroutines")
		}
		time.Sleep(5 * time.Millisecond)
	}
	log := e.LogTail(1 << 20)
	path, _, _ := strings.Cut(log[strings.LastIndex(log, told)+len(told):], "\"")
	data, err := os.ReadFile(strings.TrimSpace(path))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(strings.TrimSpace(path)); err != nil {
		t.Fatal(err)
	}
	return strings.Count("\n\n"+string(data), "\n\ngoroutine ")
}
