// Package health owns the probes of HEALTHCHECK and --health-*: when they run,
// what their results say, and what follows from "unhealthy". A probe is an exec
// without a client; it costs no process beside its own.
package health

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/event"
)

// Docker's defaults and limits.
const (
	defaultInterval      = 30 * time.Second
	defaultTimeout       = 30 * time.Second
	defaultStartInterval = 5 * time.Second
	defaultRetries       = 3
	keptResults          = 5
	keptOutput           = 4096 // bytes of each probe
)

// Runner runs a command in a container and returns its exit code and the first
// limit bytes of its output; session does it. The command is killed when ctx ends.
type Runner interface {
	Run(ctx context.Context, c *container.Container, r *apicontainer.ExecCreateRequest, limit int) (code int, output []byte, err error)
}

// Monitor probes the containers that ask for it. Use New.
type Monitor struct {
	runner Runner
	events *event.Bus

	actor Actor

	mu        sync.Mutex
	reactions map[string]*reaction
	stops     map[string]context.CancelFunc
	running   sync.WaitGroup
}

// New returns a monitor that probes nothing yet.
func New(r Runner, b *event.Bus) *Monitor {
	return &Monitor{runner: r, events: b, stops: map[string]context.CancelFunc{}, reactions: map[string]*reaction{}}
}

// Started begins to probe a container that has just been started (fresh) or
// adopted, when it has a health check. The caller holds the container's lock.
func (m *Monitor) Started(c *container.Container, fresh bool) {
	h := c.Config.Healthcheck
	if h == nil || len(h.Test) == 0 || h.Test[0] == "NONE" {
		c.State.Health = nil
		return
	}
	if fresh || c.State.Health == nil {
		c.State.Health = &apicontainer.Health{Status: apicontainer.Starting}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := func() { cancel(errNotWanted) }
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.stops[c.ID]; old != nil {
		old()
	}
	m.stops[c.ID] = stop
	started := c.State.StartedAt
	m.running.Go(func() { m.watch(ctx, c, h, started) })
}

// errNotWanted ends the probes of a container that ended or is watched anew.
var errNotWanted = errors.New("the container is not probed any more")

// Ended stops probing a container.
func (m *Monitor) Ended(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if stop := m.stops[id]; stop != nil {
		stop()
		delete(m.stops, id)
	}
}

// Close stops all probes and waits for those under way.
func (m *Monitor) Close() {
	m.mu.Lock()
	for id, stop := range m.stops {
		stop()
		delete(m.stops, id)
	}
	m.mu.Unlock()
	m.running.Wait()
}

// watch probes one container at its intervals until ctx ends.
func (m *Monitor) watch(ctx context.Context, c *container.Container, h *apicontainer.HealthConfig, started time.Time) {
	timer := time.NewTimer(m.pause(c, h, started))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		m.probe(ctx, c, h, started)
		timer.Reset(m.pause(c, h, started))
	}
}

// pause is the time to the next probe: shorter while the container starts.
func (m *Monitor) pause(c *container.Container, h *apicontainer.HealthConfig, started time.Time) time.Duration {
	c.Lock()
	starting := c.State.Health != nil && c.State.Health.Status == apicontainer.Starting
	c.Unlock()
	if starting && time.Since(started) < h.StartPeriod {
		return orElse(h.StartInterval, defaultStartInterval)
	}
	return orElse(h.Interval, defaultInterval)
}

func orElse(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

// probe runs the test once and records what it said.
func (m *Monitor) probe(ctx context.Context, c *container.Container, h *apicontainer.HealthConfig, started time.Time) {
	cmd := h.Test[1:]
	if h.Test[0] == "CMD-SHELL" {
		shell := c.Config.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		cmd = append(append([]string{}, shell...), strings.Join(h.Test[1:], " "))
	}
	timeout := orElse(h.Timeout, defaultTimeout)
	probe, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r := &apicontainer.HealthcheckResult{Start: time.Now()}
	code, output, err := m.runner.Run(probe, c, &apicontainer.ExecCreateRequest{Cmd: cmd, AttachStdout: true, AttachStderr: true}, keptOutput)
	r.End, r.ExitCode, r.Output = time.Now(), code, string(output)
	switch {
	case ctx.Err() != nil:
		return // the container ended, or is no longer ours to judge
	case errors.Is(probe.Err(), context.DeadlineExceeded):
		r.ExitCode, r.Output = -1, fmt.Sprintf("Health check exceeded timeout (%v): %s", timeout, output)
	case err != nil:
		r.ExitCode, r.Output = -1, err.Error()
	}
	if m.record(c, h, r, started) {
		m.react(ctx, c)
	}
}

// record turns a result into a state, and tells of a change. It is true for a
// container that is unhealthy.
func (m *Monitor) record(c *container.Container, h *apicontainer.HealthConfig, r *apicontainer.HealthcheckResult, started time.Time) (unhealthy bool) {
	c.Lock()
	defer c.Unlock()
	if c.State.Health == nil || !c.State.Running {
		return false
	}
	next := *c.State.Health // readers may hold the old one
	next.Log = append(append([]*apicontainer.HealthcheckResult{}, next.Log...), r)
	if n := len(next.Log); n > keptResults {
		next.Log = next.Log[n-keptResults:]
	}
	retries := h.Retries
	if retries <= 0 {
		retries = defaultRetries
	}
	switch {
	case r.ExitCode == 0:
		next.FailingStreak, next.Status = 0, apicontainer.Healthy
	case next.Status == apicontainer.Starting && r.Start.Sub(started) < h.StartPeriod:
		// failures do not count while it starts
	default:
		if next.FailingStreak++; next.FailingStreak >= retries {
			next.Status = apicontainer.Unhealthy
		}
	}
	was := c.State.Health.Status
	c.State.Health = &next
	unhealthy = next.Status == apicontainer.Unhealthy
	if was == next.Status {
		return unhealthy
	}
	// A lost write only means that the next engine probes anew.
	_ = c.Save(atomicfile.Cached)
	m.events.Container(events.Action("health_status: "+string(next.Status)), c.ID, c.Attributes(nil))
	return unhealthy
}
