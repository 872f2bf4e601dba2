package container

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/id"
)

func open(t *testing.T, root string) *Store {
	t.Helper()
	s, err := Open(root, func(id string) { os.RemoveAll(dir(root, id)) }, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func add(t *testing.T, s *Store, cid, name string) *Container {
	t.Helper()
	if err := s.Reserve(name, cid); err != nil {
		t.Fatal(err)
	}
	c := &Container{Record: Record{ID: cid, Name: name, Config: &container.Config{}, HostConfig: &container.HostConfig{}}}
	if err := s.Add(c, atomicfile.Cached); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestGet(t *testing.T) {
	s := open(t, t.TempDir())
	a := add(t, s, "aa"+strings.Repeat("0", 62), "first")
	b := add(t, s, "ab"+strings.Repeat("0", 62), "aa")
	for ref, want := range map[string]*Container{
		a.ID: a, "first": a, "/first": a, "aa0": a, "ab": b,
		"aa": b, // a name wins over the prefix of an id
	} {
		if got, err := s.Get(ref); err != nil || got != want {
			t.Errorf("Get(%q) = %v, %v", ref, got, err)
		}
	}
	for ref, is := range map[string]func(error) bool{"a": errdefs.IsInvalidArgument, "nope": errdefs.IsNotFound, "": errdefs.IsInvalidArgument, "ac": errdefs.IsNotFound} {
		if _, err := s.Get(ref); !is(err) {
			t.Errorf("Get(%q): %v", ref, err)
		}
	}
}

func TestNamesAreUniqueAndFreedByRemoval(t *testing.T) {
	s := open(t, t.TempDir())
	c := add(t, s, id.New(), "web")
	if err := s.Reserve("web", "other"); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), `The container name "/web" is already in use by container "`+c.ID) {
		t.Errorf("second reservation: %v", err)
	}
	rest, err := s.Drop(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Reserve("web", "other"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(c.Dir(), "config.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("record is still there: %v", err)
	}
	if err := rest(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory is still there: %v", err)
	}
}

func TestReopen(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	c := add(t, s, id.New(), "kept")
	c.Lock()
	c.SetRunning(42, time.Unix(1, 0).UTC())
	if err := c.Save(atomicfile.Synced); err != nil {
		t.Fatal(err)
	}
	c.Unlock()
	half := id.New() // a creation that a crash interrupted
	if err := os.MkdirAll(dir(root, half), 0o700); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, root).Get("kept")
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != c.ID || !got.State.Running || got.State.Pid != 42 || !got.State.StartedAt.Equal(time.Unix(1, 0)) {
		t.Errorf("came back as %+v", got.Record)
	}
	if _, err := os.Stat(dir(root, half)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the orphan is still there: %v", err)
	}
}

// TestConfigure: who looks at a container meanwhile sees the configuration of
// before or the new one, and it stays as it was when it cannot be written or not
// be brought into force. What cannot be written is not brought into force.
func TestConfigure(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	c := add(t, s, id.New(), "web")
	seen := c.Snapshot()
	applied := 0
	apply := func() error { applied++; return nil }
	set := func(to container.Isolation) error {
		c.Lock()
		defer c.Unlock()
		h := *c.HostConfig
		h.Isolation = to
		return c.Configure(&h, atomicfile.Synced, apply)
	}
	onDisk := func(want container.Isolation) {
		t.Helper()
		if got, err := open(t, root).Get(c.ID); err != nil || got.HostConfig.Isolation != want {
			t.Errorf("on disk: %v, want %q", err, want)
		}
		if now := c.Snapshot().HostConfig.Isolation; now != want {
			t.Errorf("in memory: %q, want %q", now, want)
		}
	}
	if err := set("one"); err != nil || seen.HostConfig.Isolation != "" || applied != 1 {
		t.Errorf("%v: %q was seen, applied %d times", err, seen.HostConfig.Isolation, applied)
	}
	onDisk("one")
	refused := errors.New("refused")
	apply = func() error { return refused }
	if err := set("two"); !errors.Is(err, refused) {
		t.Error(err)
	}
	onDisk("one")
	if names, err := os.ReadDir(c.Dir()); err != nil || len(names) != 1 {
		t.Errorf("left in the directory: %v, %v", names, err)
	}
	applied, apply = 0, func() error { applied++; return nil }
	if err := os.Rename(c.Dir(), c.Dir()+"x"); err != nil {
		t.Fatal(err)
	}
	if err := set("three"); err == nil || c.Snapshot().HostConfig.Isolation != "one" || applied != 0 {
		t.Errorf("%v: now %q, applied %d times", err, c.Snapshot().HostConfig.Isolation, applied)
	}
}

func TestDamagedRecordIsReportedAndKept(t *testing.T) {
	root := t.TempDir()
	c := add(t, open(t, root), id.New(), "x")
	path := filepath.Join(c.Dir(), "config.json")
	for _, text := range []string{"{", `{"Version":99,"ID":"` + c.ID + `"}`, `{"Version":1,"ID":"` + id.New() + `"}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var problems []error
		s, err := Open(root, func(string) { t.Error("taken for an orphan") }, func(err error) { problems = append(problems, err) })
		if err != nil || len(problems) != 1 || len(s.All()) != 0 {
			t.Errorf("%s: err %v, problems %v, %d containers", text, err, problems, len(s.All()))
		}
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

func TestWait(t *testing.T) {
	s := open(t, t.TempDir())
	c := add(t, s, id.New(), "w")
	armed := func(cond container.WaitCondition) <-chan container.WaitResponse {
		ch, _ := c.Wait(cond)
		return ch
	}
	code := func(ch <-chan container.WaitResponse) int64 {
		select {
		case r := <-ch:
			return r.StatusCode
		default:
			return -1
		}
	}
	if got := code(armed(container.WaitConditionNotRunning)); got != 0 {
		t.Errorf("not-running of a created container: %d", got)
	}
	c.Lock()
	c.SetRunning(1, time.Now())
	c.Unlock()
	stopped, next, removed := armed(""), armed(container.WaitConditionNextExit), armed(container.WaitConditionRemoved)
	c.Lock()
	c.SetExited(3, false, true, time.Now()) // restarting by policy
	c.Unlock()
	if got := code(next); got != 3 {
		t.Errorf("next-exit: %d", got)
	}
	if got := code(stopped); got != 3 {
		t.Errorf("not-running at an exit that is followed by a restart: %d", got)
	}
	stopped = armed("")
	if got := code(stopped); got != -1 {
		t.Errorf("not-running asked between two runs: %d", got)
	}
	c.Lock()
	c.SetRunning(2, time.Now())
	c.SetExited(4, false, false, time.Now())
	c.Unlock()
	if got := code(stopped); got != 4 {
		t.Errorf("not-running: %d", got)
	}
	if got := code(removed); got != -1 {
		t.Errorf("removed too early: %d", got)
	}
	if _, err := s.Drop(c); err != nil {
		t.Fatal(err)
	}
	if got := code(removed); got != 4 {
		t.Errorf("removed: %d", got)
	}
	if got := code(armed(container.WaitConditionRemoved)); got != 4 {
		t.Errorf("removed, asked afterwards: %d", got)
	}
	if len(c.waiters) != 0 {
		t.Errorf("%d waiters left", len(c.waiters))
	}
}

func TestStatus(t *testing.T) {
	now := time.Unix(1000, 0)
	ago := func(s int64) time.Time { return time.Unix(1000-s, 0) }
	for _, tt := range []struct {
		s        State
		status   container.ContainerState
		sentence string
	}{
		{State{}, "created", "Created"},
		{State{Running: true, StartedAt: ago(5)}, "running", "Up 5 seconds"},
		{State{Running: true, StartedAt: ago(5), Health: &container.Health{Status: container.Starting}}, "running", "Up 5 seconds (health: starting)"},
		{State{Running: true, StartedAt: ago(5), Health: &container.Health{Status: container.Healthy}}, "running", "Up 5 seconds (healthy)"},
		{State{Running: true, Paused: true, StartedAt: ago(120)}, "paused", "Up 2 minutes (Paused)"},
		{State{Running: true, Restarting: true, ExitCode: 7, StartedAt: ago(9), FinishedAt: ago(3)}, "restarting", "Restarting (7) 3 seconds ago"},
		{State{ExitCode: 137, StartedAt: ago(9), FinishedAt: ago(7200)}, "exited", "Exited (137) 2 hours ago"},
		{State{Removing: true}, "removing", "Removal In Progress"},
		{State{Dead: true}, "dead", "Dead"},
	} {
		if got := tt.s.Status(); got != tt.status {
			t.Errorf("%+v: %q, want %q", tt.s, got, tt.status)
		}
		if got := tt.s.Sentence(now); got != tt.sentence {
			t.Errorf("%+v: %q, want %q", tt.s, got, tt.sentence)
		}
	}
}

func TestRandomNamesAreValid(t *testing.T) {
	for _, list := range [][]string{adjectives, people} {
		seen := map[string]bool{}
		for _, w := range list {
			if seen[w] || !id.ValidName(w) {
				t.Errorf("%q", w)
			}
			seen[w] = true
		}
	}
	if n := RandomName(3); !id.ValidName(n) {
		t.Error(n)
	}
}

// TestRunsAwaitsStart: who asks during a start is told how it ended.
func TestRunsAwaitsStart(t *testing.T) {
	for _, works := range []bool{true, false} {
		c := &Container{}
		c.Op.Lock()
		asked := make(chan bool)
		go func() { asked <- c.Runs() }()
		select {
		case <-asked:
			t.Fatal("answered before the start was over")
		case <-time.After(20 * time.Millisecond):
		}
		if works {
			c.SetRunning(7, time.Now())
		}
		c.Op.Unlock()
		if got := <-asked; got != works {
			t.Errorf("a start that works: %v, runs: %v", works, got)
		}
	}
}
