package health

import (
	"context"
	"log/slog"
	"time"

	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/container"
)

// Actor ends or restarts a container that is unhealthy; lifecycle does it.
type Actor interface {
	Unhealthy(ctx context.Context, id, action string) error
}

// What is done again to a container that does not stay healthy waits longer
// each time; a run of goodFor in health starts over.
const (
	firstWait = 10 * time.Second
	lastWait  = 5 * time.Minute
	goodFor   = 10 * time.Minute
)

// reaction is what is known of a container that asked for one.
type reaction struct {
	times int
	last  time.Time
}

// React makes unhealthy containers be treated as they ask for.
func (m *Monitor) React(a Actor) { m.actor = a }

// wait is how long the next action has to wait.
func (r *reaction) wait(now time.Time) time.Duration {
	if now.Sub(r.last) >= goodFor {
		r.times = 0
	}
	if r.times == 0 {
		return 0
	}
	return max(0, min(firstWait<<min(r.times-1, 10), lastWait)-now.Sub(r.last))
}

// react does what the container asks for now that it is unhealthy. It is
// called by the goroutine that probes, which a restart ends.
func (m *Monitor) react(ctx context.Context, c *container.Container) {
	action, err := container.HealthAction(c.HostConfig)
	if err != nil || action == "none" || m.actor == nil {
		return // err: it was checked at creation
	}
	m.mu.Lock()
	r := m.reactions[c.ID]
	if r == nil {
		r = &reaction{}
		m.reactions[c.ID] = r
	}
	wait := r.wait(time.Now())
	m.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
	}
	c.Lock()
	still := c.State.Running && c.State.Health != nil && c.State.Health.Status == apicontainer.Unhealthy
	c.Unlock()
	if !still {
		return
	}
	m.mu.Lock()
	r.times++
	r.last = time.Now()
	m.mu.Unlock()
	slog.Warn("unhealthy container", "container", c.ID, "action", action)
	// Not with ctx: the end of the container, which this brings about, ends it.
	if err := m.actor.Unhealthy(context.WithoutCancel(ctx), c.ID, action); err != nil {
		slog.Warn("health-on-failure", "container", c.ID, "error", err)
	}
}
