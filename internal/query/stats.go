package query

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/stats"
)

// statsInterval is docker's.
const statsInterval = time.Second

// Stats sends what a container uses. With stream it goes on each second until
// the client leaves or the container is gone; without, one sample is sent,
// after a second so that it has a past to be compared with, or with oneShot at
// once. A container that does not run has empty samples, as in dockerd.
func (v *View) Stats(ctx context.Context, ref string, stream, oneShot bool, send func(*apicontainer.StatsResponse) error) error {
	c, err := v.store.Get(ref)
	if err != nil {
		return err
	}
	removed, giveUp := c.Wait(apicontainer.WaitConditionRemoved)
	defer giveUp()
	last, err := v.sample(c)
	if err != nil {
		return err
	}
	if !stream && (oneShot || last.Read.IsZero()) {
		return send(last)
	}
	if stream {
		if err := send(last); err != nil {
			return err
		}
	}
	tick := time.NewTicker(statsInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-removed:
			return nil
		case <-tick.C:
		}
		next, err := v.sample(c)
		if err != nil {
			return err
		}
		if !next.Read.IsZero() {
			next.PreRead, next.PreCPUStats = last.Read, last.CPUStats
		}
		if err := send(next); err != nil || !stream {
			return err
		}
		last = next
	}
}

// sample reads a container's counters; all zero when it does not run.
func (v *View) sample(c *container.Container) (*apicontainer.StatsResponse, error) {
	r := c.Snapshot()
	empty := &apicontainer.StatsResponse{ID: r.ID, Name: "/" + r.Name, OSType: "linux"}
	if !r.State.Running || r.State.Pid == 0 {
		return empty, nil
	}
	g, err := v.cgroups.Open(r.CgroupPath)
	if err == nil {
		pid := r.State.Pid
		if r.HostConfig.NetworkMode.IsHost() || r.HostConfig.NetworkMode.IsNone() {
			pid = 0
		}
		var s *apicontainer.StatsResponse
		if s, err = stats.Sample(g, pid); err == nil {
			s.ID, s.Name = empty.ID, empty.Name
			return s, nil
		}
	}
	if errdefs.IsNotFound(err) || errors.Is(err, fs.ErrNotExist) {
		return empty, nil // it ended meanwhile
	}
	return nil, err
}
