package health

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/event"
	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/id"
)

type runner func(ctx context.Context, r *apicontainer.ExecCreateRequest) (int, []byte, error)

func (f runner) Run(ctx context.Context, _ *container.Container, r *apicontainer.ExecCreateRequest, _ int) (int, []byte, error) {
	return f(ctx, r)
}

func running(t *testing.T, h *apicontainer.HealthConfig) *container.Container {
	t.Helper()
	s, err := container.Open(t.TempDir(), func(string) {}, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	c := &container.Container{Record: container.Record{ID: id.New(), Name: "h", Config: &apicontainer.Config{Healthcheck: h}, HostConfig: &apicontainer.HostConfig{}}}
	if err := s.Add(c, atomicfile.Cached); err != nil {
		t.Fatal(err)
	}
	c.Lock()
	c.SetRunning(1, time.Now())
	c.Unlock()
	return c
}

func begin(m *Monitor, c *container.Container) {
	c.Lock()
	defer c.Unlock()
	m.Started(c, true)
}

func TestStatesFollowResults(t *testing.T) {
	bus := event.New()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, live := bus.Subscribe(ctx, time.Time{}, time.Time{}, filter.Args{"event": {"health_status"}})
	results := make(chan int)
	var asked []string
	m := New(runner(func(ctx context.Context, r *apicontainer.ExecCreateRequest) (int, []byte, error) {
		asked = r.Cmd
		select {
		case code := <-results:
			return code, []byte("said"), nil
		case <-ctx.Done():
			return -1, nil, ctx.Err()
		}
	}), bus)
	c := running(t, &apicontainer.HealthConfig{Test: []string{"CMD-SHELL", "test -f /ok"}, Interval: time.Millisecond, Timeout: time.Minute, Retries: 2})
	begin(m, c)
	if got := c.Snapshot().State.Health; got == nil || got.Status != apicontainer.Starting {
		t.Fatalf("at first: %+v", got)
	}
	expect := func(want string) {
		t.Helper()
		if e := <-live; string(e.Action) != "health_status: "+want {
			t.Errorf("event %q, want %s", e.Action, want)
		}
	}
	results <- 0
	expect("healthy")
	results <- 1
	results <- 1
	expect("unhealthy")
	h := c.Snapshot().State.Health
	if h.FailingStreak != 2 || len(h.Log) != 3 || h.Log[2].Output != "said" || h.Log[2].ExitCode != 1 {
		t.Errorf("%+v", h)
	}
	results <- 0
	expect("healthy")
	m.Ended(c.ID)
	m.Close()
	if strings.Join(asked, "|") != "/bin/sh|-c|test -f /ok" {
		t.Errorf("ran %q", asked)
	}
}

func TestStartPeriodAndTimeout(t *testing.T) {
	bus := event.New()
	m := New(nil, bus)
	c := running(t, nil)
	c.State.Health = &apicontainer.Health{Status: apicontainer.Starting}
	h := &apicontainer.HealthConfig{Test: []string{"CMD", "x"}, StartPeriod: time.Hour, Retries: 1}
	start := c.State.StartedAt
	m.record(c, h, &apicontainer.HealthcheckResult{Start: start.Add(time.Minute), ExitCode: 1}, start)
	if got := c.Snapshot().State.Health; got.Status != apicontainer.Starting || got.FailingStreak != 0 {
		t.Errorf("a failure in the start period counted: %+v", got)
	}
	m.record(c, h, &apicontainer.HealthcheckResult{Start: start.Add(2 * time.Hour), ExitCode: 1}, start)
	if got := c.Snapshot().State.Health; got.Status != apicontainer.Unhealthy {
		t.Errorf("a failure after it did not: %+v", got)
	}
	for range 10 {
		m.record(c, h, &apicontainer.HealthcheckResult{Start: start, ExitCode: 0}, start)
	}
	if got := c.Snapshot().State.Health; len(got.Log) != keptResults {
		t.Errorf("%d results kept", len(got.Log))
	}

	m = New(runner(func(ctx context.Context, _ *apicontainer.ExecCreateRequest) (int, []byte, error) {
		<-ctx.Done()
		return -1, nil, ctx.Err()
	}), bus)
	m.probe(context.Background(), c, &apicontainer.HealthConfig{Test: []string{"CMD", "x"}, Timeout: time.Millisecond, Retries: 1}, start)
	log := c.Snapshot().State.Health.Log
	if last := log[len(log)-1]; last.ExitCode != -1 || !strings.HasPrefix(last.Output, "Health check exceeded timeout (1ms)") {
		t.Errorf("%+v", last)
	}
	m.runner = runner(func(context.Context, *apicontainer.ExecCreateRequest) (int, []byte, error) {
		return 126, nil, errors.New("no such program")
	})
	m.probe(context.Background(), c, &apicontainer.HealthConfig{Test: []string{"CMD", "x"}, Retries: 1}, start)
	log = c.Snapshot().State.Health.Log
	if last := log[len(log)-1]; last.ExitCode != -1 || last.Output != "no such program" {
		t.Errorf("%+v", last)
	}
}

func TestNoneDisables(t *testing.T) {
	m := New(nil, event.New())
	c := running(t, &apicontainer.HealthConfig{Test: []string{"NONE"}})
	begin(m, c)
	if c.State.Health != nil || len(m.stops) != 0 {
		t.Error("probed although disabled")
	}
}
