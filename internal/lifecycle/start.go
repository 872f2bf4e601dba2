package lifecycle

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/lifecycle/failure"
	"github.com/wherry-engine/wherry/internal/lifecycle/mounts"
	"github.com/wherry-engine/wherry/internal/network"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
	"github.com/wherry-engine/wherry/internal/supervise"
	"github.com/wherry-engine/wherry/internal/undo"
)

// Start runs a container that does not run; errdefs.ErrNotModified when it does.
func (e *Engine) Start(ctx context.Context, ref string) error {
	c, err := e.store.Get(ref)
	if err != nil {
		return err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	c.Lock()
	s, gone, autoRemove := c.State, c.Gone(), c.HostConfig.AutoRemove
	c.Unlock()
	switch {
	case gone:
		return errdefs.ErrNotFound.WithMessage("No such container: " + ref)
	case s.Paused:
		return errdefs.ErrConflict.WithMessage("cannot start a paused container, try unpause instead")
	case s.Removing || s.Dead:
		return errdefs.ErrConflict.WithMessage("container is marked for removal and cannot be started")
	case s.Running && !s.Restarting:
		return errdefs.ErrNotModified.WithMessage("container is already running")
	}
	e.policy.Stop(c)
	c.Lock()
	c.RestartCount, c.ManuallyStopped = 0, false
	c.Unlock()
	if err := e.start(ctx, c); err != nil {
		if autoRemove {
			warn("remove after failed start", c.ID, e.remove(c, true))
		}
		return err
	}
	return nil
}

// start does the work of Start; Op is held. Whatever was made for a start that
// fails is taken back, and the reason is on record.
func (e *Engine) start(ctx context.Context, c *container.Container) error {
	var u undo.Stack
	defer u.Run()
	started, err := e.launch.run(ctx, c, &u)
	if err == nil {
		r := c.Snapshot()
		e.announce(&r, events.ActionConnect)
	}
	c.Lock()
	defer c.Unlock()
	if err != nil {
		code := failure.ExitCode(err)
		err = failure.OfMain(err)
		c.SetStartFailed(code, err.Error())
		c.SandboxID, c.Ports, c.Ending = "", nil, nil
		c.Networks = network.Plugged{Manager: e.networks}.Forget(c.Networks)
		warn("save record", c.ID, c.Save(atomicfile.Cached))
		e.attached.Abandon(c.ID)
		return err
	}
	u.Keep()
	c.SetRunning(started.PID, started.At)
	c.Ending = nil
	e.probes.Started(c, true)
	e.ship(&c.Record, c.Dir())
	e.events.Container(events.ActionStart, c.ID, c.Attributes(nil))
	e.later(func() {
		// A crash before this is mended by the keeper, which knows what runs.
		c.Lock()
		err := c.Save(atomicfile.Cached)
		c.Unlock()
		warn("save record", c.ID, err)
		warn("tell links of", c.ID, e.files.Follow(c.ID))
	})
	return nil
}

// launcher turns records into processes.
type launcher struct{ *parts }

// run makes everything that a run needs and starts the process.
func (l *launcher) run(ctx context.Context, c *container.Container, u *undo.Stack) (*supervise.Started, error) {
	if err := mounts.MakeSources(c.Mounts); err != nil {
		return nil, err
	}
	sources, mounted, err := l.mounts.Start(ctx, c, u)
	if err != nil {
		return nil, err
	}
	defer mounted()
	net, err := l.connect(ctx, c, u)
	if err != nil {
		return nil, err
	}
	defer net.close()
	if err := l.writeFiles(c, net); err != nil {
		return nil, err
	}
	in, err := l.specInput(&c.Record, c.Dir(), net)
	if err != nil {
		return nil, err
	}
	for i := range in.Mounts {
		if at := sources[in.Mounts[i].Destination]; at != "" {
			in.Mounts[i].Source = at
		}
	}
	if err := l.placeSecrets(c, in, u); err != nil {
		return nil, err
	}
	s, warnings, err := spec.Build(in)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		warn("start", c.ID, errors.New(w))
	}
	if err := l.cfg.CDI.Inject(s, c.HostConfig.DeviceRequests); err != nil {
		return nil, err
	}
	plan, joined, err := l.plan(in, s, c, net, u)
	if err != nil {
		return nil, err
	}
	target, err := logTarget(&c.Record, c.Dir())
	if err != nil {
		return nil, err
	}
	req := &supervise.StartRequest{
		Key: supervise.Key{Container: c.ID}, Plan: plan, Extra: net.extra(), Witnesses: net.witnesses,
		Stdin: c.Config.OpenStdin, StdinOnce: c.Config.StdinOnce, Log: target, Attach: l.attached.Take(c.ID),
	}
	defer func() {
		for _, a := range req.Attach {
			a.Conn.Close()
		}
	}()
	// What a crash must not forget of a process that runs, its networks, goes to
	// the record while init works.
	saved := make(chan struct{})
	go func() {
		defer close(saved)
		c.Lock()
		defer c.Unlock()
		warn("save record", c.ID, c.Save(atomicfile.Cached))
	}()
	started, err := l.keeper.Start(ctx, req)
	<-saved
	if err != nil {
		return nil, l.foreign(c.HostConfig).Failure(c.ID, "create", err)
	}
	joined()
	if !plan.Hold {
		return started, nil
	}
	return started, l.release(ctx, c, net, s, started.PID, u)
}

// StartExec starts a command in a running container; see session.Starter.
func (e *Engine) StartExec(ctx context.Context, c *container.Container, r *apicontainer.ExecCreateRequest, rows, cols uint16, req *supervise.StartRequest) (*supervise.Started, int, error) {
	started, err := e.launch.startExec(ctx, c, r, rows, cols, req)
	if err != nil {
		code := failure.ExitCode(err)
		if code == 128 {
			return nil, 126, failure.Of(err)
		}
		return nil, code, fmt.Errorf("OCI runtime exec failed: exec failed: %w", failure.Of(err))
	}
	return started, 0, nil
}

func (l *launcher) startExec(ctx context.Context, c *container.Container, r *apicontainer.ExecCreateRequest, rows, cols uint16, req *supervise.StartRequest) (*supervise.Started, error) {
	rec := c.Snapshot()
	if err := l.loadProfile(&rec); err != nil {
		return nil, err
	}
	var main networking
	defer main.close()
	if err := l.join(&main, &rec); err != nil {
		return nil, err
	}
	plan, done, err := l.compileExec(&rec, c.Dir(), r)
	if err != nil {
		return nil, err
	}
	defer done()
	plan.Rows, plan.Cols = rows, cols
	req.Plan, req.Witnesses = plan, main.witnesses
	started, err := l.keeper.Start(ctx, req)
	return started, l.foreign(rec.HostConfig).Failure(rec.ID, "exec", err)
}
