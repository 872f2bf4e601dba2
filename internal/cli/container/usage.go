package container

import (
	"strconv"
	"strings"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
)

// usage is one row of stats, as templates see it.
type usage struct {
	formatter.HeaderContext
	asked string
	trunc bool
	stale bool // nothing was heard for a while: dashes in place of numbers
	v     *container.StatsResponse
}

func newUsageHeader() *usage {
	u := &usage{}
	u.Header = formatter.SubHeaderContext{
		"Container": "CONTAINER", "Name": formatter.NameHeader, "ID": formatter.ContainerIDHeader,
		"CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT", "MemPerc": "MEM %",
		"NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
	}
	return u
}

// MarshalJSON makes --format json show the columns.
func (u *usage) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(u) }

// Container is the name or id that was asked for.
func (u *usage) Container() string { return u.asked }

// Name of the container.
func (u *usage) Name() string {
	if u.v == nil || u.v.Name == "" {
		return "--"
	}
	return strings.TrimPrefix(u.v.Name, "/")
}

// ID of the container.
func (u *usage) ID() string {
	id := ""
	if u.v != nil {
		id = u.v.ID
	}
	if u.trunc {
		return formatter.TruncateID(id)
	}
	return id
}

// CPUPerc is the share of one CPU, 200% for two.
func (u *usage) CPUPerc() string {
	if u.stale {
		return "--"
	}
	now, before := &u.v.CPUStats, &u.v.PreCPUStats
	used := float64(now.CPUUsage.TotalUsage) - float64(before.CPUUsage.TotalUsage)
	passed := float64(now.SystemUsage) - float64(before.SystemUsage)
	cpus := float64(now.OnlineCPUs)
	if cpus == 0 {
		cpus = float64(len(now.CPUUsage.PercpuUsage))
	}
	if used <= 0 || passed <= 0 {
		return percent(0)
	}
	return percent(used / passed * cpus * 100)
}

// memory without the page cache that the kernel would give back at once.
func (u *usage) memory() float64 {
	m := &u.v.MemoryStats
	for _, key := range []string{"total_inactive_file", "inactive_file"} { // cgroup v1, v2
		if v, ok := m.Stats[key]; ok && v < m.Usage {
			return float64(m.Usage - v)
		}
	}
	return float64(m.Usage)
}

// MemUsage is use / limit.
func (u *usage) MemUsage() string {
	if u.stale {
		return "-- / --"
	}
	return units.BytesSize(u.memory()) + " / " + units.BytesSize(float64(u.v.MemoryStats.Limit))
}

// MemPerc is the share of the limit.
func (u *usage) MemPerc() string {
	if u.stale {
		return "--"
	}
	if u.v.MemoryStats.Limit == 0 {
		return percent(0)
	}
	return percent(u.memory() / float64(u.v.MemoryStats.Limit) * 100)
}

// NetIO is received / sent.
func (u *usage) NetIO() string {
	if u.stale {
		return "--"
	}
	var rx, tx uint64
	for _, n := range u.v.Networks {
		rx += n.RxBytes
		tx += n.TxBytes
	}
	return pair(rx, tx)
}

// BlockIO is read / written.
func (u *usage) BlockIO() string {
	if u.stale {
		return "--"
	}
	var read, written uint64
	for _, e := range u.v.BlkioStats.IoServiceBytesRecursive {
		switch {
		case e.Op == "":
		case e.Op[0] == 'r' || e.Op[0] == 'R':
			read += e.Value
		case e.Op[0] == 'w' || e.Op[0] == 'W':
			written += e.Value
		}
	}
	return pair(read, written)
}

// PIDs is the number of processes and threads.
func (u *usage) PIDs() string {
	if u.stale {
		return "--"
	}
	return strconv.FormatUint(u.v.PidsStats.Current, 10)
}

func percent(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) + "%" }

func pair(a, b uint64) string {
	return units.HumanSizeWithPrecision(float64(a), 3) + " / " + units.HumanSizeWithPrecision(float64(b), 3)
}
