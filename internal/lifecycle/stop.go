package lifecycle

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/sys/signal"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/supervise"
)

// Stop asks the container's process to end and kills it when it has not ended
// after timeout seconds (nil: the container's own, negative: never). It returns
// when the container no longer runs; errdefs.ErrNotModified when it did not run.
func (e *Engine) Stop(ctx context.Context, ref, sig string, timeout *int) error {
	c, err := e.store.Get(ref)
	if err != nil {
		return err
	}
	if !c.Runs() {
		return errdefs.ErrNotModified.WithMessage("container is already stopped")
	}
	return e.stop(ctx, c, container.CauseStop, sig, timeout)
}

func (e *Engine) stop(ctx context.Context, c *container.Container, why, sig string, timeout *int) error {
	number, seconds, err := stopParameters(e.live.Load().StopTimeout, c, sig, timeout)
	if err != nil {
		return err
	}
	ended, giveUp := c.Wait(apicontainer.WaitConditionNotRunning)
	defer giveUp()
	c.Lock()
	c.ManuallyStopped = true
	cause := asked(ctx, why, number)
	c.Ending = cause
	warn("save record", c.ID, c.Save(atomicfile.Cached))
	c.Unlock()
	e.policy.Stop(c)

	if err := e.signal(ctx, c, number); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot stop container: %s: %w", c.ID, err)
	}
	var deadline <-chan time.Time
	if seconds >= 0 {
		t := time.NewTimer(time.Duration(seconds) * time.Second)
		defer t.Stop()
		deadline = t.C
	}
	select {
	case <-ended:
	case <-ctx.Done():
		return ctx.Err()
	case <-deadline:
		c.Lock()
		if c.Ending == cause {
			forced := *cause
			forced.Forced = true
			c.Ending = &forced
		}
		c.Unlock()
		if err := e.signal(ctx, c, syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("cannot stop container: %s: %w", c.ID, err)
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	e.publish(c, events.ActionStop, nil)
	return nil
}

// stopParameters are the signal and the patience that apply: the request's,
// the container's, the engine's, in this order.
func stopParameters(def int, c *container.Container, sig string, timeout *int) (syscall.Signal, int, error) {
	c.Lock()
	defer c.Unlock()
	if sig == "" {
		sig = c.Config.StopSignal
	}
	number := syscall.SIGTERM
	if sig != "" {
		var err error
		if number, err = signal.ParseSignal(sig); err != nil {
			return 0, 0, errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
	}
	switch {
	case timeout != nil:
		return number, *timeout, nil
	case c.Config.StopTimeout != nil:
		return number, *c.Config.StopTimeout, nil
	default:
		return number, def, nil
	}
}

// Kill sends a signal (a name or a number, "" is KILL) to the main process.
func (e *Engine) Kill(ctx context.Context, ref, sig string) error {
	number := syscall.SIGKILL
	if sig != "" {
		var err error
		if number, err = signal.ParseSignal(sig); err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
		if !signal.ValidSignalForPlatform(number) {
			return invalid("the %s daemon does not support signal %d", runtime.GOOS, number)
		}
	}
	c, err := e.store.Get(ref)
	if err != nil {
		return err
	}
	running := c.Runs()
	c.Lock()
	restarting, stopSignal := c.State.Restarting, c.Config.StopSignal
	c.Unlock()
	if !running {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("container %s is not running", c.ID))
	}
	// A signal that is meant to end it also ends its restart policy, as in dockerd.
	want, err := signal.ParseSignal(stopSignal)
	if err != nil {
		want = syscall.SIGTERM
	}
	c.Lock()
	c.Ending = asked(ctx, container.CauseKill, number)
	c.Unlock()
	if number == syscall.SIGKILL || number == want {
		c.Lock()
		c.ManuallyStopped = true
		warn("save record", c.ID, c.Save(atomicfile.Cached))
		c.Unlock()
		e.policy.Stop(c)
		if restarting {
			return nil
		}
	}
	ended, giveUp := c.Wait(apicontainer.WaitConditionNextExit)
	defer giveUp()
	if err := e.signal(ctx, c, number); err != nil {
		if errdefs.IsNotFound(err) {
			return errdefs.ErrConflict.WithMessage(fmt.Sprintf("container %s is not running", c.ID))
		}
		return err
	}
	if number == syscall.SIGKILL {
		select { // nothing survives this; let the answer find the container ended
		case <-ended:
		case <-ctx.Done():
		}
	}
	return nil
}

// signal delivers a signal to the main process and thaws a frozen container,
// which could not act on it otherwise.
func (e *Engine) signal(ctx context.Context, c *container.Container, number syscall.Signal) error {
	// Held until the event is out: the end that the signal brings comes after it.
	c.Lock()
	defer c.Unlock()
	if c.State.Pid == 0 {
		return errdefs.ErrNotFound.WithMessage("no process")
	}
	if err := e.keeper.Signal(ctx, supervise.Key{Container: c.ID}, number); err != nil {
		return err
	}
	e.events.Container(events.ActionKill, c.ID, c.Attributes(map[string]string{"signal": strconv.Itoa(int(number))}))
	if c.State.Paused {
		if g, err := e.cgroups.Open(c.CgroupPath); err == nil {
			warn("thaw", c.ID, g.Thaw())
		}
		c.SetPaused(false)
	}
	return nil
}

// Restart stops the container when it runs and starts it.
func (e *Engine) Restart(ctx context.Context, ref, sig string, timeout *int) error {
	c, err := e.store.Get(ref)
	if err != nil {
		return err
	}
	return e.restart(ctx, c, ref, container.CauseRestart, sig, timeout)
}

func (e *Engine) restart(ctx context.Context, c *container.Container, ref, why, sig string, timeout *int) error {
	c.Lock()
	running, autoRemove := c.State.Running, c.HostConfig.AutoRemove
	if running && autoRemove {
		c.HostConfig.AutoRemove = false // it must survive its own stop
	}
	c.Unlock()
	if running {
		err := e.stop(ctx, c, why, sig, timeout)
		c.Lock()
		c.HostConfig.AutoRemove = autoRemove
		c.Unlock()
		if err != nil {
			return fmt.Errorf("cannot restart container %s: %w", ref, err)
		}
	} else if sig != "" {
		if _, err := signal.ParseSignal(sig); err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
	}
	if err := e.Start(ctx, c.ID); err != nil && !errdefs.IsNotModified(err) {
		return err
	}
	e.publish(c, events.ActionRestart, nil)
	return nil
}

// Pause freezes all processes of a container.
func (e *Engine) Pause(ctx context.Context, ref string) error {
	return e.freeze(ref, true)
}

// Unpause lets them go on.
func (e *Engine) Unpause(ctx context.Context, ref string) error {
	return e.freeze(ref, false)
}

func (e *Engine) freeze(ref string, freeze bool) error {
	c, err := e.store.Get(ref)
	if err != nil {
		return err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	c.Lock()
	s, path := c.State, c.CgroupPath
	c.Unlock()
	conflict := func(format string) error { return errdefs.ErrConflict.WithMessage(fmt.Sprintf(format, c.ID)) }
	switch {
	case !s.Running && freeze:
		return conflict("container %s is not running")
	case !s.Running || !freeze && !s.Paused:
		return conflict("Container %s is not paused")
	case s.Restarting:
		return conflict("Container %s is restarting, wait until the container is running")
	case s.Paused && freeze:
		return conflict("Container %s is already paused")
	}
	g, err := e.cgroups.Open(path)
	if err != nil {
		return err
	}
	action := events.ActionPause
	if freeze {
		err = g.Freeze()
	} else {
		action, err = events.ActionUnPause, g.Thaw()
	}
	if err != nil {
		return fmt.Errorf("cannot %s container %s: %w", action, c.ID, err)
	}
	c.Lock()
	c.SetPaused(freeze)
	warn("save record", c.ID, c.Save(atomicfile.Cached))
	c.Unlock()
	e.publish(c, action, nil)
	return nil
}

// Wait returns a channel that gives the exit code once the condition is true;
// the wait is armed on return and given up with ctx.
func (e *Engine) Wait(ctx context.Context, ref string, cond apicontainer.WaitCondition) (<-chan apicontainer.WaitResponse, error) {
	c, err := e.store.Get(ref)
	if err != nil {
		return nil, err
	}
	switch cond {
	case "", apicontainer.WaitConditionNotRunning, apicontainer.WaitConditionNextExit, apicontainer.WaitConditionRemoved:
	default:
		return nil, invalid("invalid condition: %q", cond)
	}
	ch, giveUp := c.Wait(cond)
	context.AfterFunc(ctx, giveUp)
	return ch, nil
}
