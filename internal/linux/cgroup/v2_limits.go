package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/scope"
)

func (g *groupV2) set(r *Resources) ([]string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.open(); err != nil {
		return nil, err
	}
	if more := wantedV2(r); len(more) > 0 {
		if err := g.m.enable(filepath.Dir(g.dir), more); err != nil {
			return nil, err
		}
	}
	return g.apply(r)
}

// limits collects what apply writes and what the machine does not have.
type limits struct {
	dir      string
	warnings []string
	err      error
}

// put writes a value. With a warning, a missing file is no error.
func (l *limits) put(file, value, warning string) {
	if l.err != nil {
		return
	}
	err := write(filepath.Join(l.dir, file), value)
	if warning != "" && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP)) {
		l.warn(warning)
		return
	}
	l.err = err
}

func (l *limits) warn(text string) {
	if !slices.Contains(l.warnings, text) {
		l.warnings = append(l.warnings, text)
	}
}

func (g *groupV2) apply(r *Resources) ([]string, error) {
	l := &limits{dir: g.dir}
	if r.CPU != nil {
		l.cpu(r.CPU)
	}
	if r.Memory != nil {
		l.memory(r.Memory)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		l.put("pids.max", pidsMax(*r.Pids.Limit), "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.")
	}
	if hasBlockIO(r.BlockIO) {
		l.io(r.BlockIO)
	}
	for _, h := range r.HugepageLimits {
		l.put("hugetlb."+h.Pagesize+".max", fmt.Sprint(h.Limit), "Your kernel does not support huge page limits. Huge page limits discarded.")
		if exists(filepath.Join(g.dir, "hugetlb."+h.Pagesize+".rsvd.max")) {
			l.put("hugetlb."+h.Pagesize+".rsvd.max", fmt.Sprint(h.Limit), "")
		}
	}
	if len(r.Rdma) > 0 {
		l.warn("RDMA limits are not supported. Discarded.")
	}
	if r.Network != nil && (r.Network.ClassID != nil || len(r.Network.Priorities) > 0) {
		l.warn("Network class and priorities are not supported. Discarded.")
	}
	for _, key := range slices.Sorted(maps.Keys(r.Unified)) {
		if strings.Contains(key, "/") {
			return l.warnings, invalid("unified resource %q must be a file name (no slashes)", key)
		}
		if c, _, ok := strings.Cut(key, "."); !ok || c == "" {
			return l.warnings, invalid("unified resource %q must be in the form CONTROLLER.PARAMETER", key)
		}
		l.put(key, r.Unified[key], "")
	}
	if l.err == nil {
		l.err = g.setDevices(r)
	}
	return l.warnings, l.err
}

func (l *limits) cpu(c *specs.LinuxCPU) {
	const none = "Your kernel does not support CPU limits. CPU limits discarded."
	if c.Idle != nil {
		l.put("cpu.idle", fmt.Sprint(*c.Idle), "Your kernel does not support CPU idle. Discarded.")
	}
	if c.Shares != nil && *c.Shares != 0 && (c.Idle == nil || *c.Idle == 0) {
		l.put("cpu.weight", fmt.Sprint(scope.CPUWeight(*c.Shares)), none)
	}
	if c.Burst != nil && (c.Quota == nil || *c.Quota == 0) {
		l.put("cpu.max.burst", fmt.Sprint(*c.Burst), "Your kernel does not support CPU burst. Discarded.")
	}
	quota, period := "", ""
	if c.Quota != nil && *c.Quota != 0 {
		if quota = "max"; *c.Quota > 0 {
			quota = fmt.Sprint(*c.Quota)
		}
	}
	if c.Period != nil && *c.Period != 0 {
		period = fmt.Sprint(*c.Period)
	}
	if quota != "" || period != "" {
		if quota == "" {
			// The period cannot be written alone: the quota stays what it is.
			now, err := read(filepath.Join(l.dir, "cpu.max"))
			if err != nil && !errors.Is(err, os.ErrNotExist) && l.err == nil {
				l.err = err
			}
			if quota, _, _ = strings.Cut(now, " "); quota == "" {
				quota = "max"
			}
		}
		l.put("cpu.max", strings.TrimSpace(quota+" "+period), none)
		if c.Burst != nil && c.Quota != nil && *c.Quota != 0 {
			l.put("cpu.max.burst", fmt.Sprint(*c.Burst), "Your kernel does not support CPU burst. Discarded.")
		}
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 || c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 {
		l.warn("Your kernel does not support CPU real-time scheduler. Discarded.")
	}
	if c.Cpus != "" {
		l.put("cpuset.cpus", c.Cpus, "Your kernel does not support cpuset. Cpuset discarded.")
	}
	if c.Mems != "" {
		l.put("cpuset.mems", c.Mems, "Your kernel does not support cpuset. Cpuset discarded.")
	}
}

// bytesMax: -1 is no limit.
func bytesMax(v int64) string {
	if v == -1 {
		return "max"
	}
	return fmt.Sprint(v)
}

func (l *limits) memory(m *specs.LinuxMemory) {
	const none = "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded."
	limit, swap := int64(0), int64(0)
	if m.Limit != nil {
		limit = *m.Limit
	}
	if m.Swap != nil {
		swap = *m.Swap
	}
	if limit == -1 && swap == 0 {
		swap = -1 // lifting one limit lifts both
	}
	if swap != 0 {
		// The OCI value counts memory and swap together, the kernel swap alone.
		alone := "max"
		if swap != -1 {
			have := limit
			if have == 0 {
				now, err := readUint(filepath.Join(l.dir, "memory.max"))
				if err == nil && now == unlimited {
					err = invalid("a memory+swap limit needs a memory limit")
				}
				if err != nil && !errors.Is(err, os.ErrNotExist) && l.err == nil {
					l.err = err
				}
				have = int64(now)
			}
			if have > swap && l.err == nil {
				l.err = invalid("memory+swap limit %d must be >= memory limit %d", swap, have)
			}
			alone = fmt.Sprint(swap - have)
		}
		l.put("memory.swap.max", alone, noSwapLimit)
	}
	if limit != 0 {
		l.put("memory.max", bytesMax(limit), none)
	}
	if m.Reservation != nil {
		l.put("memory.low", bytesMax(*m.Reservation), "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.")
	}
	if m.Kernel != nil && *m.Kernel != 0 || m.KernelTCP != nil && *m.KernelTCP != 0 { //nolint:staticcheck // deprecated, and still sent by clients
		l.warn(noKernelMem)
	}
	if m.Swappiness != nil {
		l.warn(noSwappiness)
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		l.warn(noOOMDisable)
	}
}

func (l *limits) io(b *specs.LinuxBlockIO) {
	const noWeight = "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
	// BFQ has a file and a scale of its own, which is v1's.
	file, convert := "io.weight", scope.IOWeight
	if exists(filepath.Join(l.dir, "io.bfq.weight")) {
		file, convert = "io.bfq.weight", func(w uint16) uint64 { return uint64(w) }
	}
	if b.Weight != nil && *b.Weight != 0 {
		l.put(file, fmt.Sprintf("default %d", convert(*b.Weight)), noWeight)
	}
	for _, d := range b.WeightDevice {
		if d.Weight != nil {
			l.put(file, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, convert(*d.Weight)), "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.")
		}
	}
	for _, t := range []struct {
		key  string
		list []specs.LinuxThrottleDevice
	}{{"rbps", b.ThrottleReadBpsDevice}, {"wbps", b.ThrottleWriteBpsDevice}, {"riops", b.ThrottleReadIOPSDevice}, {"wiops", b.ThrottleWriteIOPSDevice}} {
		for _, d := range t.list {
			rate := "max" // docker's 0 takes a limit away
			if d.Rate > 0 {
				rate = fmt.Sprint(d.Rate)
			}
			l.put("io.max", fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, t.key, rate), "Your kernel does not support Block I/O throttling ("+t.key+"). Discarded.")
		}
	}
}
