// Package stats owns the sampling of what containers use: it turns one reading
// of a control group and of a network namespace into the Engine API's form. No
// process is started and nothing is kept between two samples.
package stats

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/cgroup"
)

// clockTick is the unit of /proc/stat, proc(5): the kernel fixes USER_HZ at 100.
const clockTick = 10 * time.Millisecond

// Sample reads the counters of a group and of the network namespace of pid
// (0: no network of its own).
func (m *Sampler) Sample(g *cgroup.Group, pid int) (*container.StatsResponse, error) {
	s, err := g.Stats()
	if err != nil {
		return nil, err
	}
	system, err := m.usage()
	if err != nil {
		return nil, err
	}
	r := &container.StatsResponse{OSType: runtime.GOOS, Read: time.Now()}
	r.CPUStats = container.CPUStats{
		CPUUsage:    container.CPUUsage{TotalUsage: s.CPU.Usage, PercpuUsage: s.CPU.PerCPU, UsageInKernelmode: s.CPU.System, UsageInUsermode: s.CPU.User},
		SystemUsage: system, OnlineCPUs: uint32(runtime.NumCPU()),
		ThrottlingData: container.ThrottlingData{Periods: s.CPU.Periods, ThrottledPeriods: s.CPU.ThrottledPeriods, ThrottledTime: s.CPU.ThrottledNanos},
	}
	r.MemoryStats = container.MemoryStats{
		Usage: s.Memory.Usage, MaxUsage: s.Memory.MaxUsage, Failcnt: s.Memory.Failures, Stats: s.Memory.Stat, Limit: min(s.Memory.Limit, hostMemory()),
	}
	r.PidsStats = container.PidsStats{Current: s.Pids.Current, Limit: s.Pids.Limit}
	r.BlkioStats.IoServiceBytesRecursive, r.BlkioStats.IoServicedRecursive = blkio(s.IO), blkio(s.IOps)
	if pid != 0 {
		if r.Networks, err = networks(pid); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func blkio(in []cgroup.IOEntry) []container.BlkioStatEntry {
	out := make([]container.BlkioStatEntry, 0, len(in))
	for _, e := range in {
		out = append(out, container.BlkioStatEntry{Major: e.Major, Minor: e.Minor, Op: e.Op, Value: e.Value})
	}
	return out
}

// hostMemory is what an unlimited container may use, in bytes.
func hostMemory() uint64 {
	var i unix.Sysinfo_t
	if unix.Sysinfo(&i) != nil {
		return math.MaxUint64
	}
	return i.Totalram * uint64(i.Unit)
}

// Sampler takes samples. It shares a reading of the host's usage among those
// that are taken together: that is the same for all containers, and one of the
// slower files. The zero value is ready.
type Sampler struct {
	mu    sync.Mutex
	at    time.Time
	value uint64
}

func (m *Sampler) usage() (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); now.Sub(m.at) > clockTick {
		v, err := SystemUsage()
		if err != nil {
			return 0, err
		}
		m.at, m.value = now, v
	}
	return m.value, nil
}

// SystemUsage is the time all processors of the host have worked or idled
// since the start, in nanoseconds: the first eight columns of /proc/stat.
func SystemUsage() (uint64, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var ticks uint64
	for _, f := range fields[1:9] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		ticks += n
	}
	return ticks * uint64(clockTick), nil
}

// networks reads the counters of the links in a process's namespace, all but
// the loopback.
func networks(pid int) (map[string]container.NetworkStats, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/net/dev")
	if err != nil {
		return nil, err
	}
	out := map[string]container.NetworkStats{}
	for _, line := range strings.Split(string(data), "\n") {
		name, rest, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		f := strings.Fields(rest)
		if !ok || name == "lo" || len(f) < 12 {
			continue
		}
		n := func(i int) uint64 {
			v, _ := strconv.ParseUint(f[i], 10, 64) // the kernel writes numbers only
			return v
		}
		out[name] = container.NetworkStats{
			RxBytes: n(0), RxPackets: n(1), RxErrors: n(2), RxDropped: n(3), TxBytes: n(8), TxPackets: n(9), TxErrors: n(10), TxDropped: n(11),
		}
	}
	return out, nil
}
