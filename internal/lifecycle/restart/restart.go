// Package restart owns the restart policies: whether a container is started
// again after an exit, and when.
package restart

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/container"
)

// The restart policy waits between two runs: 100 ms at first, twice as long
// each time, a minute at most; a run of ten seconds starts over. As dockerd's.
const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = time.Minute
	goodRun    = 10 * time.Second
)

// Policy decides what follows an exit. Use New.
type Policy struct {
	start    func(context.Context, *container.Container) error // with Op held
	restarts context.Context                                   // ends with the engine
	cancel   context.CancelCauseFunc

	mu      sync.Mutex
	backoff map[string]*backoff // containers that are restarted
	closing bool
}

// errClosed is why a restart does not happen.
var errClosed = errors.New("the engine is shutting down")

// New returns a policy that starts containers by start, which is called with
// their Op held.
func New(start func(context.Context, *container.Container) error) *Policy {
	pol := &Policy{start: start, backoff: map[string]*backoff{}}
	pol.restarts, pol.cancel = context.WithCancelCause(context.Background())
	return pol
}

// Context ends with Close.
func (pol *Policy) Context() context.Context { return pol.restarts }

// Close ends all restarting.
func (pol *Policy) Close() {
	pol.mu.Lock()
	defer pol.mu.Unlock()
	pol.closing = true
	for _, b := range pol.backoff {
		if b.timer != nil {
			b.timer.Stop()
		}
	}
	pol.cancel(errClosed)
}

type backoff struct {
	delay time.Duration
	timer *time.Timer
}

// Decide asks the policy after a run of that length; c is locked.
func (pol *Policy) Decide(c *container.Container, code int, ran time.Duration) (bool, time.Duration) {
	pol.mu.Lock()
	defer pol.mu.Unlock()
	p := c.HostConfig.RestartPolicy
	again := !pol.closing && !c.State.Removing && !c.ManuallyStopped
	switch p.Name {
	case apicontainer.RestartPolicyAlways, apicontainer.RestartPolicyUnlessStopped:
	case apicontainer.RestartPolicyOnFailure:
		again = again && code != 0 && (p.MaximumRetryCount == 0 || c.RestartCount < p.MaximumRetryCount)
	default:
		again = false
	}
	if !again {
		delete(pol.backoff, c.ID)
		return false, 0
	}
	b := pol.backoff[c.ID]
	if b == nil || ran >= goodRun {
		b = &backoff{}
		pol.backoff[c.ID] = b
	}
	b.delay = min(max(2*b.delay, firstDelay), lastDelay)
	return true, b.delay
}

// After starts the container again unless it is stopped meanwhile.
func (pol *Policy) After(c *container.Container, delay time.Duration) {
	pol.mu.Lock()
	defer pol.mu.Unlock()
	b := pol.backoff[c.ID]
	if b == nil || pol.closing {
		return
	}
	b.timer = time.AfterFunc(delay, func() {
		c.Op.Lock()
		defer c.Op.Unlock()
		c.Lock()
		wanted := c.State.Restarting && !c.Gone()
		c.Unlock()
		if !wanted || pol.restarts.Err() != nil {
			return
		}
		// A failed start leaves the container stopped, as in dockerd.
		if err := pol.start(pol.restarts, c); err != nil {
			slog.Warn("restart by policy", "container", c.ID, "error", err)
		}
	})
}

// Stop ends the wait between two runs; the container is then stopped.
func (pol *Policy) Stop(c *container.Container) {
	pol.mu.Lock()
	if b := pol.backoff[c.ID]; b != nil {
		if b.timer != nil {
			b.timer.Stop()
		}
		delete(pol.backoff, c.ID)
	}
	pol.mu.Unlock()
	c.Lock()
	defer c.Unlock()
	if c.State.Restarting {
		c.SetStopped()
		if err := c.Save(atomicfile.Cached); err != nil {
			slog.Warn("save record", "container", c.ID, "error", err)
		}
	}
}
