package lifecycle

import (
	"context"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/linux/kmsg"
	"github.com/wherry-engine/wherry/internal/network"
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
	e.exited(c, endOf(x))
}

// exited does the work of Exited; Op is held.
func (e *Engine) exited(c *container.Container, end container.End) {
	code, at := end.Code, end.At
	e.probes.Ended(c.ID)
	e.shipper.Ended(c.ID)
	end.OOM = e.launch.releaseRun(c, e.later)
	oom := end.OOM != nil
	c.Lock()
	started := c.State.StartedAt
	again, delay := e.policy.Decide(c, code, at.Sub(started))
	end.StartedAt = started
	if again {
		c.RestartCount++
		end.Again = string(c.HostConfig.RestartPolicy.Name)
	}
	c.Settle(end)
	remove := c.HostConfig.AutoRemove && !again
	c.SetExited(code, oom, again, at)
	c.SandboxID, c.Ports = "", nil
	c.Networks = network.Plugged{Manager: e.networks}.Forget(c.Networks)
	networks := c.Record
	if !remove {
		warn("save record", c.ID, c.Save(atomicfile.Cached))
	}
	// Told before the lock is gone: who waited for the end, as a stop does, tells
	// of it afterwards.
	if oom {
		e.events.Container(events.ActionOOM, c.ID, networks.Attributes(nil))
	}
	e.events.Container(events.ActionDie, c.ID, networks.Attributes(map[string]string{
		"exitCode": strconv.Itoa(code), "execDuration": strconv.Itoa(int(at.Sub(started) / time.Second)),
	}))
	c.Unlock()
	e.forget(supervise.Key{Container: c.ID})

	e.announce(&networks, events.ActionDisconnect)
	switch {
	case again:
		e.policy.After(c, delay)
	case remove:
		warn("remove after exit", c.ID, e.remove(c, true))
	}
	e.later(e.networks.Refill)
}

// releaseRun gives back what one run held: the control group (asked first
// whether the kernel had to kill for memory) and the network.
func (l *launcher) releaseRun(c *container.Container, later func(func())) (oom *container.OOM) {
	if c.CgroupPath != "" {
		if g, err := l.cgroups.Open(c.CgroupPath); err == nil {
			n, err := g.OOMKills()
			if err == nil && n > 0 {
				oom = &container.OOM{Kills: n, Limit: c.HostConfig.Memory}
				if k, ok := kmsg.LastOOM(c.CgroupPath); ok {
					oom.Process, oom.PID, oom.RSS = k.Process, k.PID, k.RSS
					if k.Global {
						oom.Limit = 0
					}
				}
			}
			// On record at once: the next start of a restart may come first.
			remove := g.Removal()
			later(func() { warn("remove control group", c.ID, remove()) })
		}
	}
	warn("clear away", c.ID, l.foreign(c.HostConfig).Delete(context.Background(), c.ID))
	l.mounts.Stop(c)
	l.dropSecrets(c)
	if len(c.Networks) > 0 {
		warn("release network", c.ID, l.networks.Release(context.Background(), c.ID))
	}
	return oom
}

// forget lets the keeper drop an exit that is on record. The next start may come
// first: the keeper has dropped it then.
func (e *Engine) forget(k supervise.Key) {
	e.later(func() {
		if err := e.keeper.Forget(context.Background(), k); !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
			warn("forget exit", k.Container, err)
		}
	})
}

// endOf is what the keeper knows of an end.
func endOf(x supervise.Exit) container.End {
	return container.End{At: x.At, Code: x.Code, Signal: int(x.Signal), Unknown: x.Unknown}
}

type agentKey struct{}

// By names the client that a request came from, for the record of what ended a
// container.
func By(ctx context.Context, agent string) context.Context {
	return context.WithValue(ctx, agentKey{}, agent)
}

func asked(ctx context.Context, what string, signal syscall.Signal) *container.Cause {
	by, _ := ctx.Value(agentKey{}).(string)
	return &container.Cause{What: what, By: by, Signal: int(signal), At: time.Now().UTC()}
}
