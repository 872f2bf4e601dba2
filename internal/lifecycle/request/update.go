package request

import (
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// Contradicts refuses to set what contradicts a setting that the container has.
func Contradicts(have, want *container.Resources) error {
	for _, c := range []struct {
		is   bool
		text string
	}{
		{want.NanoCPUs > 0 && have.CPUPeriod > 0, "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set"},
		{want.NanoCPUs > 0 && have.CPUQuota > 0, "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set"},
		{want.CPUPeriod > 0 && have.NanoCPUs > 0, "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set"},
		{want.CPUQuota > 0 && have.NanoCPUs > 0, "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set"},
		{want.Memory > 0 && want.MemorySwap == 0 && have.MemorySwap >= 0 && want.Memory > have.MemorySwap && have.Memory > 0,
			"Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"},
	} {
		if c.is {
			return errdefs.ErrConflict.WithMessage(c.text)
		}
	}
	return nil
}

// Update takes over what the request sets; zero leaves a setting as it is.
func Update(to, from *container.Resources) {
	set(&to.BlkioWeight, from.BlkioWeight)
	set(&to.CPUShares, from.CPUShares)
	set(&to.NanoCPUs, from.NanoCPUs)
	set(&to.CPUPeriod, from.CPUPeriod)
	set(&to.CPUQuota, from.CPUQuota)
	set(&to.CpusetCpus, from.CpusetCpus)
	set(&to.CpusetMems, from.CpusetMems)
	set(&to.CPURealtimePeriod, from.CPURealtimePeriod)
	set(&to.CPURealtimeRuntime, from.CPURealtimeRuntime)
	set(&to.Memory, from.Memory)
	set(&to.MemorySwap, from.MemorySwap)
	set(&to.MemoryReservation, from.MemoryReservation)
	if from.PidsLimit != nil {
		to.PidsLimit = from.PidsLimit
	}
}

// set changes a setting unless the request leaves it at zero.
func set[T comparable](to *T, from T) {
	var zero T
	if from != zero {
		*to = from
	}
}
