package lifecycle

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/cgroup"
	"github.com/wherry-engine/wherry/internal/network"
	"github.com/wherry-engine/wherry/internal/supervise"
)

// unwatchedLimit bounds the wait for killed processes to be gone.
const unwatchedLimit = 10 * time.Second

// restorer does what is only done once, when the engine starts.
type restorer struct{ *Engine }

// Restore brings the records and the keeper's processes together after a start
// of the engine: what still runs is adopted, what ended meanwhile is recorded,
// what a restart policy wants is started. orphan is told of execs.
func (e *Engine) Restore(ctx context.Context, exec func(supervise.Process)) error {
	r := restorer{e}
	processes, err := e.keeper.List(ctx)
	if err != nil {
		return fmt.Errorf("ask the keeper what runs: %w", err)
	}
	e.networks.SetContainers(func(id string) string {
		c, err := e.store.Get(id)
		if err != nil {
			return ""
		}
		return c.Snapshot().Name
	}, e.donors.Network)
	running := map[string]supervise.Process{}
	for _, p := range processes {
		switch _, err := e.store.Get(p.Key.Container); {
		case p.Key.Exec != "":
			exec(p)
		case err != nil:
			r.orphan(ctx, p)
		default:
			running[p.Key.Container] = p
		}
	}
	for _, c := range e.store.All() {
		for _, m := range c.Mounts {
			if m.Type == mount.TypeVolume {
				e.volumes.Use(m.Name, c.ID)
			}
		}
		p, known := running[c.ID]
		e.ship(&c.Record, c.Dir()) // also what an ended one has written while no engine ran
		if !known && !c.State.Running {
			e.shipper.Ended(c.ID)
		}
		switch {
		case known && p.Exited == nil:
			r.adopt(ctx, c, p)
		case known:
			r.adoptExited(c, p)
		case c.State.Running && !c.State.Restarting:
			// The host was restarted, or everything was killed at once.
			c.Op.Lock()
			why := "neither the engine nor its keeper was there when it ended: the host was restarted, or everything was killed at once"
			if r.endUnwatched(c) {
				why = "the engine ended it when it started: the engine and its keeper had both been killed"
			}
			e.exited(c, container.End{Code: 255, At: time.Now().UTC(), Unknown: why})
			c.Op.Unlock()
		}
		r.finishRemoval(c)
	}
	network.Plugged{Manager: e.networks}.Adopted()
	warn("remove control groups of an earlier engine", "", r.sweepGroups())
	warn("sweep secrets", "", e.secrets.Sweep(func(id string) bool {
		c, err := e.store.Get(id)
		return err == nil && c.Snapshot().State.Running
	}))
	for _, c := range e.store.All() {
		if wantedAtBoot(c) {
			e.later(func() {
				c.Op.Lock()
				defer c.Op.Unlock()
				c.Lock()
				wanted := !c.Gone() && (!c.State.Running || c.State.Restarting)
				c.Unlock()
				if wanted {
					warn("start by restart policy", c.ID, e.start(e.policy.Context(), c))
				}
			})
		}
	}
	return nil
}

// finishRemoval goes on with a removal that the engine's end has interrupted, at
// whatever point: the record may say so, and the keeper still know the exit. A
// client that removes one which still runs has no answer, and asks again. The
// volumes without a name of one that was to go by itself go with it; whether a
// client wanted that of another one is not known.
func (e restorer) finishRemoval(c *container.Container) {
	c.Op.Lock()
	defer c.Op.Unlock()
	c.Lock()
	runs := c.State.Running && !c.State.Restarting
	if runs {
		c.State.Removing = false
	}
	byItself := c.HostConfig.AutoRemove
	unfinished := !runs && !c.Gone() && (c.State.Removing || byItself)
	c.Unlock()
	if unfinished {
		warn("finish removal", c.ID, e.remove(c, byItself))
	}
}

// endUnwatched kills what still runs of a container that no keeper knows, and
// says whether there was anything: with the keeper its output and its exit are
// lost, and its next start needs the group.
func (e restorer) endUnwatched(c *container.Container) bool {
	if !strings.Contains(c.CgroupPath, c.ID) {
		return false // never another's
	}
	g, err := e.cgroups.Open(c.CgroupPath)
	if err != nil {
		return false // gone, as after a restart of the host
	}
	left, err := g.PIDs()
	if err != nil || len(left) == 0 {
		return false
	}
	warn("end what no keeper knows", c.ID, g.Kill(syscall.SIGKILL))
	// No group of cgroup v1 tells when it is empty.
	for deadline := time.Now().Add(unwatchedLimit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if left, err = g.PIDs(); err != nil || len(left) == 0 {
			return true
		}
	}
	warn("end what no keeper knows", c.ID, fmt.Errorf("processes %v are there %v after SIGKILL", left, unwatchedLimit))
	return true
}

// sweepGroups removes the groups that a crash left of starts that came to
// nothing. A group with a process in it is somebody's and stays.
func (e restorer) sweepGroups() error {
	if e.cgroups.Driver() == cgroup.Systemd {
		return nil // systemd ends a scope with its last process
	}
	names, err := e.cgroups.Below(e.cfg.CgroupParent)
	if err != nil {
		return err
	}
	for _, name := range names {
		if id.Valid(name) {
			e.sweepGroup(name)
		}
	}
	return nil
}

// sweepGroup removes the empty group of a container that does not run.
func (e restorer) sweepGroup(containerID string) {
	if c, err := e.store.Get(containerID); err == nil {
		c.Op.Lock() // its restart policy may be starting it
		defer c.Op.Unlock()
		if c.Snapshot().State.Running {
			return
		}
	}
	g, err := e.cgroups.Open(filepath.Join("/", e.cfg.CgroupParent, containerID))
	if err != nil {
		return
	}
	if pids, err := g.PIDs(); err == nil && len(pids) == 0 {
		warn("remove control group", containerID, g.Remove())
	}
}

// adopt takes over a container whose process runs.
func (e restorer) adopt(ctx context.Context, c *container.Container, p supervise.Process) {
	if r := c.Snapshot(); len(r.Networks) > 0 { // unlocked: the network asks for the container's name
		warn("adopt network", c.ID, e.networks.Adopt(c.ID, r.Networks, p.PID, r.HostConfig.DNS))
		warn("adopt ports", c.ID, e.networks.AdoptPorts(c.ID, r.Ports))
		warn("adopt links", c.ID, e.files.Open(&r))
	}
	c.Lock()
	defer c.Unlock()
	if !c.State.Running || c.State.Pid != p.PID {
		// The engine ended between the process's start and its record.
		c.SetRunning(p.PID, p.StartedAt)
	}
	e.mounts.Adopt(c, p.PID)
	if g, err := e.cgroups.Open(c.CgroupPath); err == nil {
		if frozen, err := g.Frozen(); err == nil {
			c.SetPaused(frozen)
		}
	}
	e.probes.Started(c, false)
	warn("save record", c.ID, c.Save(atomicfile.Cached))
}

// adoptExited records an exit that happened while no engine ran.
func (e restorer) adoptExited(c *container.Container, p supervise.Process) {
	c.Op.Lock()
	defer c.Op.Unlock()
	c.Lock()
	if !c.State.Running {
		if !c.State.FinishedAt.Before(p.StartedAt) && !c.State.StartedAt.IsZero() {
			c.Unlock() // recorded already, only not forgotten
			e.forget(p.Key)
			return
		}
		c.SetRunning(p.PID, p.StartedAt)
	}
	c.Unlock()
	e.exited(c, endOf(*p.Exited))
}

// orphan ends a process that no record belongs to: a creation that a crash
// interrupted before the record was written, or a removal after it was gone.
func (e restorer) orphan(ctx context.Context, p supervise.Process) {
	if p.Exited == nil {
		warn("end orphan", p.Key.Container, e.keeper.Signal(ctx, p.Key, 9))
		return // its exit is forgotten when it arrives
	}
	e.forget(p.Key)
}

// wantedAtBoot says whether the restart policy asks for a start of a container
// that does not run when the engine starts.
func wantedAtBoot(c *container.Container) bool {
	c.Lock()
	defer c.Unlock()
	if c.State.Running && !c.State.Restarting || c.State.Removing || c.State.Dead {
		return false
	}
	switch p := c.HostConfig.RestartPolicy; p.Name {
	case apicontainer.RestartPolicyAlways:
		return !c.State.StartedAt.IsZero()
	case apicontainer.RestartPolicyUnlessStopped:
		return !c.ManuallyStopped && !c.State.StartedAt.IsZero()
	case apicontainer.RestartPolicyOnFailure:
		failed := !c.State.StartedAt.IsZero() && c.State.ExitCode != 0 && !c.ManuallyStopped
		return c.State.Restarting || failed && (p.MaximumRetryCount == 0 || c.RestartCount < p.MaximumRetryCount)
	}
	return false
}

// Close ends the engine's own work. Containers live on, unless the engine was
// told to stop them with itself (live-restore: false).
func (e *Engine) Close(ctx context.Context) {
	e.policy.Close()
	if e.live.Load().StopAtClose {
		done := make(chan struct{})
		n := 0
		for _, c := range e.store.All() {
			if r := c.Snapshot(); !r.State.Running {
				continue
			}
			n++
			go func() {
				warn("stop at shutdown", c.ID, e.stopAtClose(ctx, c))
				done <- struct{}{}
			}()
		}
		for range n {
			<-done
		}
	}
	e.pending.Wait()
}

// stopAtClose stops a container without marking it as stopped by the user, so
// that its restart policy starts it again with the engine.
func (e *Engine) stopAtClose(ctx context.Context, c *container.Container) error {
	c.Lock()
	manually := c.ManuallyStopped
	c.Unlock()
	err := e.stop(ctx, c, container.CauseShutdown, "", nil)
	c.Lock()
	defer c.Unlock()
	c.ManuallyStopped = manually
	warn("save record", c.ID, c.Save(atomicfile.Cached))
	return err
}
