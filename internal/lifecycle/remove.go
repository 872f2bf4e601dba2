package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"syscall"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/filter"
)

// RemoveOptions are those of `rm`.
type RemoveOptions struct {
	Force   bool // kill it first when it runs
	Volumes bool // also the anonymous volumes that only it had
	Link    bool // a link rather than the container
}

// Remove deletes a container and all that belongs to it. It is idempotent
// after a crash: what an unfinished removal left is removed by the next one.
func (e *Engine) Remove(ctx context.Context, ref string, o RemoveOptions) error {
	if o.Link {
		return e.files.Unlink(ref)
	}
	c, err := e.store.Get(ref)
	if err != nil {
		return err
	}
	conflict := func(what string) error {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot remove container %q: container is %s", ref, what))
	}
	c.Lock()
	switch {
	case c.State.Removing:
		c.Unlock()
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("removal of container %s is already in progress", c.ID))
	case c.State.Running && !o.Force:
		state := c.State.Status()
		c.Unlock()
		if state == apicontainer.StatePaused {
			return conflict("paused and must be unpaused first")
		}
		return conflict(fmt.Sprintf(stopFirst, state))
	}
	autoRemove := c.HostConfig.AutoRemove
	c.State.Removing = true
	c.HostConfig.AutoRemove = false // this call removes it
	c.Unlock()

	fail := func(err error) error {
		c.Lock()
		c.State.Removing, c.HostConfig.AutoRemove = false, autoRemove
		c.Unlock()
		return err
	}
	for {
		if err := e.end(ctx, c); err != nil {
			return fail(fmt.Errorf("cannot remove container %q: could not kill container: %w", ref, err))
		}
		c.Op.Lock()
		if !c.Snapshot().State.Running {
			break
		}
		c.Op.Unlock() // a start was under way
		if !o.Force {
			return fail(conflict(fmt.Sprintf(stopFirst, apicontainer.StateRunning)))
		}
	}
	defer c.Op.Unlock()
	return e.remove(c, o.Volumes)
}

// stopFirst is docker's way out for a container in a state that still runs.
const stopFirst = "%s: stop the container before removing or force remove"

// end kills what runs and waits until it is gone.
func (e *Engine) end(ctx context.Context, c *container.Container) error {
	e.policy.Stop(c)
	ended, giveUp := c.Wait(apicontainer.WaitConditionNotRunning)
	defer giveUp()
	c.Lock()
	c.Ending = asked(ctx, container.CauseRemove, syscall.SIGKILL)
	c.Unlock()
	if err := e.signal(ctx, c, syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// remove takes away a container that does not run; Op is held.
func (e *Engine) remove(c *container.Container, volumes bool) error {
	c.Lock()
	if c.Gone() {
		c.Unlock()
		return nil
	}
	c.State.Removing = true
	c.Unlock()
	fail := func(err error) error {
		c.Lock()
		c.State.Removing, c.State.Dead = false, true
		warn("save record", c.ID, c.Save(atomicfile.Cached))
		c.Unlock()
		return fmt.Errorf("remove container %s: %w", c.ID, err)
	}
	e.shipper.Finish(c.ID)
	if err := e.snapshots.RemoveWritable(c.ID); err != nil && !errdefs.IsNotFound(err) {
		return fail(err)
	}
	e.mounts.Drop(c, volumes)
	last := c.Snapshot()
	rest, err := e.store.Drop(c)
	if err != nil {
		return fail(err)
	}
	e.later(func() { warn("delete directory", c.ID, rest()) })
	e.attached.Abandon(c.ID)
	e.events.Container(events.ActionDestroy, c.ID, last.Attributes(nil))
	return nil
}

// Prune removes the containers that do not run and pass the filters (until,
// label, label!).
func (e *Engine) Prune(ctx context.Context, f filter.Args) (apicontainer.PruneReport, error) {
	report := apicontainer.PruneReport{ContainersDeleted: []string{}}
	if err := f.Validate("label", "label!", "until"); err != nil {
		return report, err
	}
	until, err := f.Until(time.Now())
	if err != nil {
		return report, err
	}
	all := e.store.All()
	slices.SortFunc(all, func(a, b *container.Container) int { return a.Created.Compare(b.Created) })
	for _, c := range all {
		r := c.Snapshot()
		switch {
		case r.State.Running, !until.IsZero() && r.Created.After(until),
			!f.Labels("label", r.Config.Labels), f.Has("label!") && f.Labels("label!", r.Config.Labels):
			continue
		}
		size, err := e.snapshots.Usage(c.ID)
		if err != nil && !errdefs.IsNotFound(err) {
			warn("size of writable layer", c.ID, err)
		}
		switch err := e.Remove(ctx, c.ID, RemoveOptions{}); {
		case err == nil:
			report.ContainersDeleted = append(report.ContainersDeleted, c.ID)
			report.SpaceReclaimed += uint64(size)
		case ctx.Err() != nil:
			return report, ctx.Err()
		default:
			warn("prune", c.ID, err)
		}
	}
	e.events.Publish(events.Message{Type: events.ContainerEventType, Action: events.ActionPrune, Actor: events.Actor{
		Attributes: map[string]string{"reclaimed": fmt.Sprint(report.SpaceReclaimed)}}})
	return report, nil
}
