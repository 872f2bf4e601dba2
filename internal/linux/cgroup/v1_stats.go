package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Stats is one reading of a group's counters.
type Stats struct {
	CPU    CPUStats
	Memory MemoryStats
	Pids   PidsStats
	IO     []IOEntry // bytes
	IOps   []IOEntry // operations
}

// CPUStats are nanoseconds and counts.
type CPUStats struct {
	Usage, User, System                       uint64
	PerCPU                                    []uint64 // v1 only
	Periods, ThrottledPeriods, ThrottledNanos uint64
}

// MemoryStats are bytes; Limit is the largest uint64 when there is none.
type MemoryStats struct {
	Usage, MaxUsage, Limit, Failures uint64 // MaxUsage and Failures: v1 only
	Swap                             uint64
	Stat                             map[string]uint64 // memory.stat as the kernel names it
}

// PidsStats counts processes and threads. What dockerd tells of no limit is 0
// on v1 and the highest number on v2.
type PidsStats struct{ Current, Limit uint64 }

// IOEntry is one line of the I/O counters. Op is "Read", "Write", ... on v1 and
// "read", "write" on v2. Major and Minor are 0 when the device is not known.
type IOEntry struct {
	Major, Minor uint64
	Op           string
	Value        uint64
}

// clockTick is the unit of cpuacct.stat, which the kernel fixes at USER_HZ.
const clockTick = 10_000_000

// noLimitV1 is the least value that means no limit: the kernel writes the
// largest int64, rounded down to pages of whatever size.
const noLimitV1 = 1<<63 - 1<<20

// source reads files of which some may be missing; the first real error stays.
type source struct {
	err  error
	kept *kept
}

// kept are the files of a group of which many samples are taken: to open one
// costs more than to read it. A nil one keeps nothing.
type kept struct{ fds map[string]int }

func (k *kept) slurp(file string) ([]byte, error) {
	if k == nil {
		return slurp(file)
	}
	fd, ok := k.fds[file]
	if !ok {
		var err error
		if fd, err = unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return nil, &os.PathError{Op: "open", Path: file, Err: err}
		}
		k.fds[file] = fd
	}
	b, err := reread(fd, file)
	if errors.Is(err, unix.ENODEV) { // the group is gone
		return nil, &os.PathError{Op: "read", Path: file, Err: os.ErrNotExist}
	}
	return b, err
}

func (k *kept) close() {
	if k != nil {
		for file, fd := range k.fds {
			unix.Close(fd)
			delete(k.fds, file)
		}
	}
}

func (s *source) fail(err error) {
	if s.err == nil && err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EOPNOTSUPP) {
		s.err = err
	}
}

func (s *source) uint(dir, file string) uint64 {
	name := filepath.Join(dir, file)
	b, err := s.kept.slurp(name)
	if err != nil {
		s.fail(err)
		return 0
	}
	v, err := parseUint(strings.TrimRight(string(b), "\n"), name)
	s.fail(err)
	return v
}

func (s *source) pairs(dir, file string) map[string]uint64 {
	b, err := s.kept.slurp(filepath.Join(dir, file))
	s.fail(err)
	return parsePairs(b)
}

func (s *source) text(dir, file string) string {
	b, err := s.kept.slurp(filepath.Join(dir, file))
	s.fail(err)
	return strings.TrimRight(string(b), "\n")
}

func (g *groupV1) stats() (*Stats, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !exists(g.anchorDir()) {
		return nil, notFound(g.path)
	}
	out, src := &Stats{}, &source{kept: g.kept}
	if dir := g.in("cpuacct"); dir != "" {
		out.CPU.Usage = src.uint(dir, "cpuacct.usage")
		ticks := src.pairs(dir, "cpuacct.stat")
		out.CPU.User, out.CPU.System = ticks["user"]*clockTick, ticks["system"]*clockTick
		for f := range strings.FieldsSeq(src.text(dir, "cpuacct.usage_percpu")) {
			v, err := strconv.ParseUint(f, 10, 64)
			src.fail(err)
			out.CPU.PerCPU = append(out.CPU.PerCPU, v)
		}
	}
	if dir := g.in("cpu"); dir != "" {
		s := src.pairs(dir, "cpu.stat")
		out.CPU.Periods, out.CPU.ThrottledPeriods, out.CPU.ThrottledNanos = s["nr_periods"], s["nr_throttled"], s["throttled_time"]
	}
	if dir := g.in("memory"); dir != "" {
		out.Memory.Usage = src.uint(dir, "memory.usage_in_bytes")
		out.Memory.MaxUsage = src.uint(dir, "memory.max_usage_in_bytes")
		out.Memory.Failures = src.uint(dir, "memory.failcnt")
		if out.Memory.Limit = src.uint(dir, "memory.limit_in_bytes"); out.Memory.Limit >= noLimitV1 {
			out.Memory.Limit = unlimited
		}
		out.Memory.Stat = src.pairs(dir, "memory.stat")
		out.Memory.Swap = out.Memory.Stat["swap"]
	}
	if dir := g.in("pids"); dir != "" {
		out.Pids.Current = src.uint(dir, "pids.current")
		if out.Pids.Limit = src.uint(dir, "pids.max"); out.Pids.Limit == unlimited {
			out.Pids.Limit = 0
		}
	}
	if dir := g.in("blkio"); dir != "" {
		// Of the files that a kernel has, those of the scheduler in use count.
		for _, f := range []string{"blkio.bfq.", "blkio.throttle.", "blkio."} {
			if out.IO == nil {
				out.IO = src.blkio(dir, f+"io_service_bytes_recursive")
			}
			if out.IOps == nil {
				out.IOps = src.blkio(dir, f+"io_serviced_recursive")
			}
		}
	} else {
		out.IO = g.ioOfProcesses()
	}
	return out, src.err
}

func (s *source) blkio(dir, file string) []IOEntry {
	var out []IOEntry
	for line := range strings.Lines(s.text(dir, file)) {
		var e IOEntry
		if n, _ := fmt.Sscanf(line, "%d:%d %s %d", &e.Major, &e.Minor, &e.Op, &e.Value); n == 4 {
			out = append(out, e)
		}
	}
	return out
}

// ioOfProcesses adds up what the processes did, and their children that ended:
// a group without I/O limits has no directory under blkio. What the kernel
// wrote back of their pages later is in it, the devices are not.
func (g *groupV1) ioOfProcesses() []IOEntry {
	all, err := below(g.anchorDir())
	if err != nil {
		return nil
	}
	var rd, wr uint64
	for _, d := range all {
		list, err := pids(filepath.Join(d, "cgroup.procs"))
		if err != nil {
			continue
		}
		for _, pid := range list {
			b, err := slurp("/proc/" + strconv.Itoa(pid) + "/io")
			if err != nil {
				continue // it ended, or this kernel does not count
			}
			for line := range strings.Lines(string(b)) {
				key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
				v, err := strconv.ParseUint(value, 10, 64)
				if err != nil {
					continue
				}
				switch key {
				case "read_bytes":
					rd += v
				case "write_bytes":
					wr += v
				}
			}
		}
	}
	return []IOEntry{{Op: "Read", Value: rd}, {Op: "Write", Value: wr}}
}

func (g *groupV1) oomKills() (uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	dir := g.in("memory")
	if dir == "" {
		return 0, nil
	}
	all, err := below(dir) // v1 counts in the group itself only
	if errors.Is(err, os.ErrNotExist) {
		return 0, notFound(g.path)
	} else if err != nil {
		return 0, err
	}
	sum := uint64(0)
	for _, d := range all {
		m, err := pairs(filepath.Join(d, "memory.oom_control"))
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return 0, err
		}
		sum += m["oom_kill"]
	}
	return sum, nil
}
