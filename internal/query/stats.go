package query

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/linux/cgroup"
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
	m := sampler{v: v, c: c}
	defer m.close()
	last, err := m.sample()
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
	// All streams take their samples at the same moment: to wake up once for
	// many containers is much cheaper than many times for one.
	tick := time.NewTimer(untilNext(time.Now()))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-removed:
			return nil
		case <-tick.C:
			tick.Reset(untilNext(time.Now()))
		}
		next, err := m.sample()
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

// untilNext is the time to the next whole interval, half of one at least.
func untilNext(now time.Time) time.Duration {
	d := now.Truncate(statsInterval).Add(statsInterval).Sub(now)
	if d < statsInterval/2 {
		d += statsInterval
	}
	return d
}

// sampler reads the counters of one container; it keeps its control group at
// hand as long as the same process runs.
type sampler struct {
	v     *View
	c     *container.Container
	group *cgroup.Group
	pid   int
}

// sample reads a container's counters; all zero when it does not run.
func (m *sampler) sample() (*apicontainer.StatsResponse, error) {
	m.c.Lock()
	id, name, pid, path := m.c.ID, m.c.Name, m.c.State.Pid, m.c.CgroupPath
	running, mode := m.c.State.Running, m.c.HostConfig.NetworkMode
	m.c.Unlock()
	empty := &apicontainer.StatsResponse{ID: id, Name: "/" + name, OSType: "linux"}
	if !running || pid == 0 {
		return empty, nil
	}
	var err error
	if m.group == nil || m.pid != pid {
		m.close()
		m.pid = pid
		if m.group, err = m.v.cgroups.Open(path); err == nil {
			m.group.Keep()
		}
	}
	if err == nil {
		if mode.IsHost() || mode.IsNone() {
			pid = 0
		}
		var s *apicontainer.StatsResponse
		if s, err = m.v.stats.Sample(m.group, pid); err == nil {
			s.ID, s.Name = empty.ID, empty.Name
			return s, nil
		}
	}
	m.close()
	if errdefs.IsNotFound(err) || errors.Is(err, fs.ErrNotExist) {
		return empty, nil // it ended meanwhile
	}
	return nil, err
}

func (m *sampler) close() {
	if m.group != nil {
		m.group.Close()
		m.group = nil
	}
}
