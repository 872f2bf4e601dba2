// Package limits owns the checks of the resources that a container or a step of
// a build may be given, against what docker accepts and what this kernel has.
package limits

import (
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/linux/cgroup"
)

const minimumMemory = 6 << 20 // bytes; below it a program cannot even be loaded

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// Check checks limits before anything is made, in dockerd's words. It returns
// warnings about what this kernel cannot do; the limits concerned are taken out
// of r.
func Check(r *container.Resources, f cgroup.Features) (warnings []string, err error) {
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	switch {
	case r.Memory != 0 && r.Memory < minimumMemory:
		return nil, invalid("Minimum memory limit allowed is 6MB")
	case r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return nil, invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.Memory == 0 && r.MemorySwap > 0:
		return nil, invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < -1 || *r.MemorySwappiness > 100):
		return nil, invalid("Invalid value: %v, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	case r.MemoryReservation > 0 && r.MemoryReservation < minimumMemory:
		return nil, invalid("Minimum memory reservation allowed is 6MB")
	case r.MemoryReservation > 0 && r.Memory > 0 && r.Memory < r.MemoryReservation:
		return nil, invalid("Minimum memory limit can not be less than memory reservation limit, see usage")
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return nil, invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return nil, invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.NanoCPUs < 0 || r.NanoCPUs > int64(runtime.NumCPU())*1e9:
		return nil, invalid("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", runtime.NumCPU(), runtime.NumCPU())
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000):
		return nil, invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return nil, invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case r.CPUShares < 0:
		return nil, invalid("invalid CPU shares (%d): value must be a positive integer", r.CPUShares)
	case (r.CPURealtimePeriod != 0 || r.CPURealtimeRuntime != 0) && !f.CPURealtime:
		return nil, invalid("kernel does not support CPU real-time scheduler")
	case r.CPURealtimePeriod != 0 && r.CPURealtimeRuntime > r.CPURealtimePeriod:
		return nil, invalid("cpu real-time runtime cannot be higher than cpu real-time period")
	}
	warnings = append(warnings, discard(r, f)...)
	if r.BlkioWeight > 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000) {
		return nil, invalid("Range of blkio weight is from 10 to 1000")
	}
	if r.OomKillDisable != nil && *r.OomKillDisable && r.Memory == 0 {
		warn("OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.")
	}
	if r.Memory > 0 && !f.Memory {
		warn("Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.")
		r.Memory, r.MemorySwap = 0, -1
	}
	if r.Memory > 0 && r.MemorySwap != -1 && !f.MemorySwap {
		warn("Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.")
		r.MemorySwap = -1
	}
	if r.PidsLimit != nil && *r.PidsLimit > 0 && !f.Pids {
		warn("Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.")
		r.PidsLimit = nil
	}
	if r.NanoCPUs > 0 && !f.CPUQuota {
		return warnings, invalid("NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted")
	}
	if f.Cpuset {
		for _, s := range []struct{ what, wanted, available string }{
			{"CPUs", r.CpusetCpus, f.CpusetCPUs}, {"memory nodes", r.CpusetMems, f.CpusetMems},
		} {
			if err := checkSet(s.what, s.wanted, s.available); err != nil {
				return warnings, err
			}
		}
	} else if r.CpusetCpus != "" || r.CpusetMems != "" {
		warn("Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.")
		r.CpusetCpus, r.CpusetMems = "", ""
	}
	return warnings, nil
}

// discard takes out what this kernel cannot do and that is no reason to refuse
// the container, and says so.
func discard(r *container.Resources, f cgroup.Features) (warnings []string) {
	for _, d := range []struct {
		set, have bool
		drop      func()
		text      string
	}{
		{r.MemorySwappiness != nil && *r.MemorySwappiness >= 0, f.Swappiness, func() { r.MemorySwappiness = nil },
			"Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded."},
		{r.MemoryReservation > 0, f.MemoryReservation, func() { r.MemoryReservation = 0 },
			"Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded."},
		{r.OomKillDisable != nil && *r.OomKillDisable, f.OOMKillDisable, func() { r.OomKillDisable = nil },
			"Your kernel does not support OomKillDisable. OomKillDisable discarded."},
		{r.CPUShares > 0, f.CPUShares, func() { r.CPUShares = 0 }, "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded."},
		{r.CPUPeriod != 0 || r.CPUQuota != 0, f.CPUQuota, func() { r.CPUPeriod, r.CPUQuota = 0, 0 },
			"Your kernel does not support CPU CFS scheduler. CPU period/quota discarded."},
		{r.CPUPercent > 0, false, func() { r.CPUPercent = 0 }, runtime.GOOS + " does not support CPU percent. Percent discarded."},
		{r.BlkioWeight > 0, f.BlkioWeight, func() { r.BlkioWeight = 0 },
			"Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."},
		{len(r.BlkioWeightDevice) > 0, f.BlkioWeightDevice, func() { r.BlkioWeightDevice = nil },
			"Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded."},
		{len(r.BlkioDeviceReadBps) > 0, f.BlkioReadBps, func() { r.BlkioDeviceReadBps = nil },
			"Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded."},
		{len(r.BlkioDeviceWriteBps) > 0, f.BlkioWriteBps, func() { r.BlkioDeviceWriteBps = nil },
			"Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit discarded."},
		{len(r.BlkioDeviceReadIOps) > 0, f.BlkioReadIOps, func() { r.BlkioDeviceReadIOps = nil },
			"Your kernel does not support IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit discarded."},
		{len(r.BlkioDeviceWriteIOps) > 0, f.BlkioWriteIOps, func() { r.BlkioDeviceWriteIOps = nil },
			"Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit discarded."},
	} {
		if d.set && !d.have {
			d.drop()
			warnings = append(warnings, d.text)
		}
	}
	return warnings
}

// checkSet checks a list such as "0-2,7" against what the machine has.
func checkSet(what, wanted, available string) error {
	if wanted == "" {
		return nil
	}
	want, err := cgroup.ParseSet(wanted)
	if err != nil {
		return invalid("Invalid value %s for cpuset %s: invalid format: %[1]s", wanted, map[string]string{"CPUs": "cpus", "memory nodes": "mems"}[what])
	}
	have, err := cgroup.ParseSet(available)
	if err != nil {
		return err
	}
	for n := range want {
		if !have[n] {
			return invalid("Requested %s are not available - requested %s, available: %s", what, wanted, available)
		}
	}
	return nil
}
