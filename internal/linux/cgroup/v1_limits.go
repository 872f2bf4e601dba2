package cgroup

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func (g *groupV1) set(r *Resources) ([]string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(r.Devices) > 0 && g.m.mounts["devices"].dir != "" {
		before := g.devices
		if err := g.joinDevices(r); err != nil {
			return nil, err
		}
		if g.devices != before {
			if err := g.gather(g.devices); err != nil {
				return nil, err
			}
		}
	}
	return g.apply(r)
}

// under runs fn with the group's directory under a controller. A directory that
// is made for this gets the processes that are in the group already. Without
// the controller the limit is left out, with a warning.
func (g *groupV1) under(controller string, warnings *[]string, warning string, fn func(dir string) error) error {
	known := g.in(controller) != ""
	dir, err := g.at(controller)
	if err != nil {
		return err
	}
	if dir == "" {
		*warnings = append(*warnings, warning)
		return nil
	}
	if err := fn(dir); err != nil || known {
		return err
	}
	return g.gather(dir)
}

// apply writes the limits that are given, in the order that the kernel wants.
func (g *groupV1) apply(r *Resources) ([]string, error) {
	var warnings []string
	if len(r.Unified) > 0 {
		return nil, errdefs.ErrInvalidArgument.WithMessage("unified cgroup resources need cgroup v2")
	}
	if c := r.CPU; c != nil {
		if c.Cpus != "" || c.Mems != "" {
			err := g.under("cpuset", &warnings, "Your kernel does not support cpuset. Cpuset discarded.", func(dir string) error { return cpusetV1(dir, c) })
			if err != nil {
				return warnings, err
			}
		}
		err := g.under("cpu", &warnings, "Your kernel does not support CPU limits. CPU limits discarded.", func(dir string) error { return cpuV1(dir, c, &warnings) })
		if err != nil {
			return warnings, err
		}
	}
	if m := r.Memory; m != nil && *m != (specs.LinuxMemory{}) {
		err := g.under("memory", &warnings, "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.", func(dir string) error {
			return memoryV1(dir, m, &warnings)
		})
		if err != nil {
			return warnings, err
		}
	}
	if p := r.Pids; p != nil && p.Limit != nil {
		err := g.under("pids", &warnings, "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.", func(dir string) error {
			return write(filepath.Join(dir, "pids.max"), pidsMax(*p.Limit))
		})
		if err != nil {
			return warnings, err
		}
	}
	if b := r.BlockIO; hasBlockIO(b) {
		err := g.under("blkio", &warnings, "Your kernel does not support Block I/O limits. Block I/O limits discarded.", func(dir string) error {
			return blkioV1(dir, b, &warnings)
		})
		if err != nil {
			return warnings, err
		}
	}
	if len(r.HugepageLimits) > 0 {
		err := g.under("hugetlb", &warnings, "Your kernel does not support huge page limits. Huge page limits discarded.", func(dir string) error {
			for _, l := range r.HugepageLimits {
				for _, kind := range []string{".", ".rsvd."} {
					err := writeInt(filepath.Join(dir, "hugetlb."+l.Pagesize+kind+"limit_in_bytes"), l.Limit)
					if kind == ".rsvd." && errors.Is(err, unix.ENOENT) {
						break // before Linux 5.7
					} else if err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return warnings, err
		}
	}
	if r.Network != nil && (r.Network.ClassID != nil || len(r.Network.Priorities) > 0) {
		warnings = append(warnings, "Network class and priorities are not supported. Discarded.")
	}
	if len(r.Rdma) > 0 {
		warnings = append(warnings, "RDMA limits are not supported. Discarded.")
	}
	return warnings, nil
}

// pidsMax: docker's 0 and -1 are no limit.
func pidsMax(limit int64) string {
	if limit <= 0 {
		return "max"
	}
	return fmt.Sprint(limit)
}

func hasBlockIO(b *specs.LinuxBlockIO) bool {
	return b != nil && (b.Weight != nil || b.LeafWeight != nil || len(b.WeightDevice)+len(b.ThrottleReadBpsDevice)+
		len(b.ThrottleWriteBpsDevice)+len(b.ThrottleReadIOPSDevice)+len(b.ThrottleWriteIOPSDevice) > 0)
}

// optional runs a write whose file some kernels do not have.
func optional(err error, warnings *[]string, warning string) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		*warnings = append(*warnings, warning)
		return nil
	}
	return err
}

func cpusetV1(dir string, c *specs.LinuxCPU) error {
	if c.Cpus != "" {
		if err := write(filepath.Join(dir, "cpuset.cpus"), c.Cpus); err != nil {
			return err
		}
	}
	if c.Mems != "" {
		return write(filepath.Join(dir, "cpuset.mems"), c.Mems)
	}
	return nil
}

func cpuV1(dir string, c *specs.LinuxCPU, warnings *[]string) error {
	if c.Shares != nil && *c.Shares != 0 {
		file := filepath.Join(dir, "cpu.shares")
		if err := writeInt(file, *c.Shares); err != nil {
			return err
		}
		// The kernel takes values out of range and changes them.
		got, err := readUint(file)
		if err != nil {
			return err
		}
		if *c.Shares > got {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the maximum allowed cpu-shares is %d", got))
		} else if *c.Shares < got {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the minimum allowed cpu-shares is %d", got))
		}
	}
	if c.Idle != nil {
		if err := optional(writeInt(filepath.Join(dir, "cpu.idle"), *c.Idle), warnings, "Your kernel does not support CPU idle. Discarded."); err != nil {
			return err
		}
	}
	// Period and burst must fit the quota that is in force when they are
	// written: if one is refused, it goes in after the quota.
	var after []func() error
	period := func() error { return writeInt(filepath.Join(dir, "cpu.cfs_period_us"), *c.Period) }
	burst := func() error {
		return optional(writeInt(filepath.Join(dir, "cpu.cfs_burst_us"), *c.Burst), warnings, "Your kernel does not support CPU burst. Discarded.")
	}
	quota := c.Quota != nil && *c.Quota != 0
	for _, step := range []struct {
		given bool
		do    func() error
	}{{c.Period != nil && *c.Period != 0, period}, {c.Burst != nil, burst}} {
		if !step.given {
			continue
		}
		if err := step.do(); errors.Is(err, unix.EINVAL) && quota {
			after = append(after, step.do)
		} else if err != nil {
			return err
		}
	}
	if quota {
		if err := writeInt(filepath.Join(dir, "cpu.cfs_quota_us"), *c.Quota); err != nil {
			return err
		}
	}
	for _, do := range after {
		if err := do(); err != nil {
			return err
		}
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		if err := optional(writeInt(filepath.Join(dir, "cpu.rt_period_us"), *c.RealtimePeriod), warnings, "Your kernel does not support CPU real-time scheduler. Discarded."); err != nil {
			return err
		}
	}
	if c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 {
		err := writeInt(filepath.Join(dir, "cpu.rt_runtime_us"), *c.RealtimeRuntime)
		if errors.Is(err, unix.EINVAL) {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
				"the parent control group has not that much real-time CPU time to give: raise cpu.rt_runtime_us of %s and of all above it", filepath.Dir(dir)))
		}
		return optional(err, warnings, "Your kernel does not support CPU real-time scheduler. Discarded.")
	}
	return nil
}

const (
	noSwapLimit  = "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
	noKernelMem  = "Kernel memory limits are not supported by current kernels. Limitation discarded."
	noSwappiness = "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded."
	noOOMDisable = "Your kernel does not support OomKillDisable. OomKillDisable discarded."
)

func memoryV1(dir string, m *specs.LinuxMemory, warnings *[]string) error {
	if err := memoryAndSwapV1(dir, m, warnings); err != nil {
		return err
	}
	if m.Reservation != nil {
		if err := writeInt(filepath.Join(dir, "memory.soft_limit_in_bytes"), *m.Reservation); err != nil {
			return err
		}
	}
	if m.Kernel != nil && *m.Kernel != 0 || m.KernelTCP != nil && *m.KernelTCP != 0 { //nolint:staticcheck // deprecated, and still sent by clients
		*warnings = append(*warnings, noKernelMem)
	}
	if m.Swappiness != nil {
		if err := optional(writeInt(filepath.Join(dir, "memory.swappiness"), *m.Swappiness), warnings, noSwappiness); err != nil {
			return err
		}
	}
	if m.DisableOOMKiller != nil {
		v := "0"
		if *m.DisableOOMKiller {
			v = "1"
		}
		return optional(write(filepath.Join(dir, "memory.oom_control"), v), warnings, noOOMDisable)
	}
	return nil
}

// memoryAndSwapV1 writes two limits of which the kernel wants the second, that
// of memory with swap, never below the first.
func memoryAndSwapV1(dir string, m *specs.LinuxMemory, warnings *[]string) error {
	limitFile, swapFile := filepath.Join(dir, "memory.limit_in_bytes"), filepath.Join(dir, "memory.memsw.limit_in_bytes")
	limit := func() error {
		if m.Limit == nil || *m.Limit == 0 {
			return nil
		}
		err := writeInt(limitFile, *m.Limit)
		if errors.Is(err, unix.EBUSY) {
			// The kernel could not push as much out as the limit asks for.
			usage, _ := readUint(filepath.Join(dir, "memory.usage_in_bytes"))
			peak, _ := readUint(filepath.Join(dir, "memory.max_usage_in_bytes"))
			return fmt.Errorf("unable to set memory limit to %d (current usage: %d, peak usage: %d): %w", *m.Limit, usage, peak, errInUse)
		}
		return err
	}
	if !exists(swapFile) {
		if m.Swap != nil && *m.Swap > 0 {
			*warnings = append(*warnings, noSwapLimit)
		}
		return limit()
	}
	total := int64(0)
	if m.Swap != nil {
		total = *m.Swap
	}
	if m.Limit != nil && *m.Limit == -1 && total == 0 {
		total = -1 // lifting one limit lifts both
	}
	swap := func() error {
		if total == 0 {
			return nil
		}
		return writeInt(swapFile, total)
	}
	first, second := limit, swap
	if total != 0 && m.Limit != nil {
		now, err := readUint(limitFile)
		if err != nil {
			return err
		}
		if total == -1 || now < uint64(total) {
			first, second = swap, limit
		}
	}
	if err := first(); err != nil {
		return err
	}
	return second()
}

// errInUse replaces EBUSY where that does not mean processes in the group.
var errInUse = errors.New("the memory is in use")

func blkioV1(dir string, b *specs.LinuxBlockIO, warnings *[]string) error {
	pick := func(names ...string) string {
		for _, n := range names {
			if exists(filepath.Join(dir, n)) {
				return filepath.Join(dir, n)
			}
		}
		return filepath.Join(dir, names[0])
	}
	if b.Weight != nil && *b.Weight != 0 {
		err := optional(writeInt(pick("blkio.weight", "blkio.bfq.weight"), int(*b.Weight)), warnings, "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.")
		if err != nil {
			return err
		}
	}
	for _, d := range b.WeightDevice {
		if d.Weight == nil {
			continue
		}
		err := optional(write(pick("blkio.weight_device", "blkio.bfq.weight_device"), fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight)), warnings, "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.")
		if err != nil {
			return err
		}
	}
	for _, t := range []struct {
		file string
		list []specs.LinuxThrottleDevice
	}{
		{"blkio.throttle.read_bps_device", b.ThrottleReadBpsDevice},
		{"blkio.throttle.write_bps_device", b.ThrottleWriteBpsDevice},
		{"blkio.throttle.read_iops_device", b.ThrottleReadIOPSDevice},
		{"blkio.throttle.write_iops_device", b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.list {
			err := optional(write(filepath.Join(dir, t.file), fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate)), warnings, "Your kernel does not support Block I/O throttling ("+t.file+"). Discarded.")
			if err != nil {
				return err
			}
		}
	}
	return nil
}
