package container

import (
	"context"
	"slices"
	"time"

	"github.com/moby/moby/api/types/container"
)

type waiter struct {
	cond container.WaitCondition
	ch   chan container.WaitResponse
}

// Wait returns a channel on which the exit code arrives once, when cond comes
// true, and a function that gives up waiting. The condition "not-running" is
// true at once for a container that does not run. The wait is armed when the
// function returns. The caller does not hold the lock.
func (c *Container) Wait(cond container.WaitCondition) (<-chan container.WaitResponse, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cond == "" {
		cond = container.WaitConditionNotRunning
	}
	w := &waiter{cond, make(chan container.WaitResponse, 1)}
	switch {
	case c.gone, cond == container.WaitConditionNotRunning && !c.State.Running:
		w.ch <- container.WaitResponse{StatusCode: int64(c.State.ExitCode)}
	default:
		c.waiters = append(c.waiters, w)
	}
	return w.ch, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.waiters = slices.DeleteFunc(c.waiters, func(x *waiter) bool { return x == w })
	}
}

// firstWords is how long a program has to say something before it is asked
// what it has said.
const firstWords = 150 * time.Millisecond

// FirstWords waits until a container that was started a moment ago has ended or
// has had the time for its first words. A start is answered when the program
// begins, and users that ask for its output next mean what it prints at once.
func (c *Container) FirstWords(ctx context.Context) {
	c.mu.Lock()
	left := firstWords - time.Since(c.State.StartedAt)
	young := c.State.Running && left > 0
	c.mu.Unlock()
	if !young {
		return
	}
	ended, giveUp := c.Wait(container.WaitConditionNotRunning)
	defer giveUp()
	timer := time.NewTimer(min(left, firstWords)) // the clock may have been set back
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// wake answers everybody who waits for cond.
func (c *Container) wake(cond container.WaitCondition, code int) {
	c.waiters = slices.DeleteFunc(c.waiters, func(w *waiter) bool {
		if w.cond != cond {
			return false
		}
		w.ch <- container.WaitResponse{StatusCode: int64(code)}
		return true
	})
}
