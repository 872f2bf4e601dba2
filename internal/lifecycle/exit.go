package lifecycle

import (
	"context"
	"strconv"
	"sync"
	"time"

	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/supervise"
)

// Exited takes note of the end of a container's main process: it releases what
// the run held, wakes who waits, and then follows the restart policy or --rm.
func (e *Engine) Exited(x supervise.Exit) {
	c, err := e.store.Get(x.Key.Container)
	if err != nil {
		e.forget(x.Key)
		return
	}
	// A start that is still being answered finishes first.
	c.Op.Lock()
	defer c.Op.Unlock()
	c.Lock()
	current := c.State.Running && c.State.Pid != 0
	c.Unlock()
	if !current {
		e.forget(x.Key)
		return
	}
	e.exited(c, x.Code, x.At)
}

// exited does the work of Exited; Op is held.
func (e *Engine) exited(c *container.Container, code int, at time.Time) {
	e.probes.Ended(c.ID)
	e.shipper.Ended(c.ID)
	oom := e.launch.releaseRun(c, e.later)
	c.Lock()
	started := c.State.StartedAt
	again, delay := e.policy.shouldRestart(c, code, at.Sub(started))
	if again {
		c.RestartCount++
	}
	remove := c.HostConfig.AutoRemove && !again
	c.SetExited(code, oom, again, at)
	c.SandboxID, c.Ports = "", nil
	if !remove {
		warn("save record", c.ID, c.Save(atomicfile.Cached))
	}
	c.Unlock()
	e.forget(supervise.Key{Container: c.ID})

	if oom {
		e.publish(c, events.ActionOOM, nil)
	}
	e.publish(c, events.ActionDie, map[string]string{
		"exitCode": strconv.Itoa(code), "execDuration": strconv.Itoa(int(at.Sub(started) / time.Second)),
	})
	switch {
	case again:
		e.policy.restartAfter(c, delay)
	case remove:
		warn("remove after exit", c.ID, e.remove(c, true))
	}
}

// releaseRun gives back what one run held: the control group (asked first
// whether the kernel had to kill for memory) and the network.
func (l *launcher) releaseRun(c *container.Container, later func(func())) (oom bool) {
	if c.CgroupPath != "" {
		if g, err := l.cgroups.Open(c.CgroupPath); err == nil {
			n, err := g.OOMKills()
			oom = err == nil && n > 0
			later(func() { warn("remove control group", c.ID, g.Remove()) })
		}
	}
	warn("clear away", c.ID, l.foreign(c.HostConfig).Delete(context.Background(), c.ID))
	l.unmountVolumes(c)
	if len(c.Networks) > 0 {
		warn("release network", c.ID, l.networks.Release(context.Background(), c.ID))
	}
	return oom
}

// forget lets the keeper drop an exit that is on record.
func (e *Engine) forget(k supervise.Key) {
	e.later(func() { warn("forget exit", k.Container, e.keeper.Forget(context.Background(), k)) })
}

// The restart policy waits between two runs: 100 ms at first, twice as long
// each time, a minute at most; a run of ten seconds starts over. As dockerd's.
const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = time.Minute
	goodRun    = 10 * time.Second
)

// policy decides what follows an exit.
type policy struct {
	start    func(context.Context, *container.Container) error // with Op held
	restarts context.Context                                   // ends with the engine
	cancel   context.CancelFunc

	mu      sync.Mutex
	backoff map[string]*backoff // containers that are restarted
	closing bool
}

// close ends all restarting.
func (pol *policy) close() {
	pol.mu.Lock()
	defer pol.mu.Unlock()
	pol.closing = true
	for _, b := range pol.backoff {
		if b.timer != nil {
			b.timer.Stop()
		}
	}
	pol.cancel()
}

type backoff struct {
	delay time.Duration
	timer *time.Timer
}

// shouldRestart asks the policy after a run of that length; c is locked.
func (pol *policy) shouldRestart(c *container.Container, code int, ran time.Duration) (bool, time.Duration) {
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

// restartAfter starts the container again unless it is stopped meanwhile.
func (pol *policy) restartAfter(c *container.Container, delay time.Duration) {
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
		warn("restart by policy", c.ID, pol.start(pol.restarts, c))
	})
}

// endBackoff ends the wait between two runs; the container is then stopped.
func (pol *policy) endBackoff(c *container.Container) {
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
		warn("save record", c.ID, c.Save(atomicfile.Cached))
	}
}
