package container

import (
	"slices"

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
