package container

import (
	"fmt"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
)

// State is what happened to a container. Its word, as clients see it, is
// derived by Status and never stored.
type State struct {
	Running    bool
	Paused     bool `json:",omitempty"`
	Restarting bool `json:",omitempty"` // between two runs under a restart policy; Running stays true as in dockerd
	Removing   bool `json:",omitempty"`
	Dead       bool `json:",omitempty"` // removal failed half-way
	OOMKilled  bool `json:",omitempty"`
	Pid        int  `json:",omitempty"`
	ExitCode   int
	Error      string `json:",omitempty"`
	StartedAt  time.Time
	FinishedAt time.Time
	Health     *container.Health `json:",omitempty"` // replaced as a whole, never changed in place; nil without a health check
}

// Status is the one word for the state.
func (s *State) Status() container.ContainerState {
	switch {
	case s.Removing:
		return container.StateRemoving
	case s.Dead:
		return container.StateDead
	case s.Paused:
		return container.StatePaused
	case s.Restarting:
		return container.StateRestarting
	case s.Running:
		return container.StateRunning
	case s.StartedAt.IsZero():
		return container.StateCreated
	default:
		return container.StateExited
	}
}

// Sentence is the STATUS column of ps: "Up 5 seconds", "Exited (0) 2 minutes ago".
func (s *State) Sentence(now time.Time) string {
	ago := func(t time.Time) string { return units.HumanDuration(now.Sub(t)) }
	switch s.Status() {
	case container.StateRemoving:
		return "Removal In Progress"
	case container.StateDead:
		return "Dead"
	case container.StatePaused:
		return fmt.Sprintf("Up %s (Paused)", ago(s.StartedAt))
	case container.StateRestarting:
		return fmt.Sprintf("Restarting (%d) %s ago", s.ExitCode, ago(s.FinishedAt))
	case container.StateRunning:
		switch h := s.Health; {
		case h == nil:
		case h.Status == container.Starting:
			return fmt.Sprintf("Up %s (health: starting)", ago(s.StartedAt))
		default:
			return fmt.Sprintf("Up %s (%s)", ago(s.StartedAt), h.Status)
		}
		return "Up " + ago(s.StartedAt)
	case container.StateCreated:
		return "Created"
	default:
		return fmt.Sprintf("Exited (%d) %s ago", s.ExitCode, ago(s.FinishedAt))
	}
}

// The transitions. Each is called with the container's lock held and wakes
// those who wait for it.

// Runs reports whether the container runs. A start under way is waited for: what
// the process prints reaches clients before the start is over, and they act on
// it. The caller holds no lock.
func (c *Container) Runs() bool {
	if c.Snapshot().State.Running {
		return true
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	return c.Snapshot().State.Running
}

// SetRunning notes that the process runs.
func (c *Container) SetRunning(pid int, at time.Time) {
	c.State = State{Running: true, Pid: pid, StartedAt: at, FinishedAt: c.State.FinishedAt}
}

// SetPaused notes a freeze or a thaw.
func (c *Container) SetPaused(paused bool) { c.State.Paused = paused }

// SetExited notes the end of the process. With restarting, the container goes
// on under its restart policy; waiters are woken all the same, as by dockerd.
func (c *Container) SetExited(code int, oom, restarting bool, at time.Time) {
	c.State.Pid = 0
	c.State.Paused = false
	c.State.ExitCode, c.State.OOMKilled, c.State.FinishedAt = code, oom, at
	c.State.Restarting = restarting
	c.State.Running = restarting
	c.wake(container.WaitConditionNextExit, code)
	c.wake(container.WaitConditionNotRunning, code)
}

// SetStopped ends the wait between two runs of a restart policy.
func (c *Container) SetStopped() {
	c.State.Restarting, c.State.Running = false, false
	c.wake(container.WaitConditionNotRunning, c.State.ExitCode)
}

// SetStartFailed notes why a start failed, with docker's exit code for it
// (126 not executable, 127 not found, 128 otherwise).
func (c *Container) SetStartFailed(code int, message string) {
	c.State.Running, c.State.Restarting, c.State.Paused, c.State.Pid = false, false, false, 0
	c.State.ExitCode, c.State.Error = code, message
	c.wake(container.WaitConditionNextExit, code)
	c.wake(container.WaitConditionNotRunning, code)
}

// SetRemoved wakes everybody: the container is gone.
func (c *Container) SetRemoved() {
	c.State.Removing, c.State.Running = false, false
	for _, cond := range []container.WaitCondition{container.WaitConditionNextExit, container.WaitConditionNotRunning, container.WaitConditionRemoved} {
		c.wake(cond, c.State.ExitCode)
	}
}
