package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Features says what this kernel offers.
type Features struct {
	Memory, MemorySwap, MemoryReservation, Swappiness, OOMKillDisable bool
	KernelMemory, KernelMemoryTCP                                     bool // never: kernels no longer honour them
	CPUShares, CPUQuota, CPURealtime                                  bool
	Cpuset                                                            bool
	CpusetCPUs, CpusetMems                                            string // what may be chosen, e.g. "0-1"
	Pids                                                              bool
	BlkioWeight, BlkioWeightDevice                                    bool
	BlkioReadBps, BlkioWriteBps, BlkioReadIOps, BlkioWriteIOps        bool
	Hugetlb                                                           []string // page sizes, e.g. "2MB"
	Devices, Freezer                                                  bool
	Namespace                                                         bool // CLONE_NEWCGROUP
}

func (m *machine) featuresV1() Features {
	has := func(controller, file string) bool {
		mount, ok := m.mounts[controller]
		return ok && exists(filepath.Join(mount.dir, file))
	}
	_, pids := m.mounts["pids"]
	_, devices := m.mounts["devices"]
	_, freezer := m.mounts["freezer"]
	f := Features{
		Memory:            has("memory", "memory.limit_in_bytes"),
		MemorySwap:        has("memory", "memory.memsw.limit_in_bytes"),
		MemoryReservation: has("memory", "memory.soft_limit_in_bytes"),
		Swappiness:        has("memory", "memory.swappiness"),
		OOMKillDisable:    has("memory", "memory.oom_control"),
		CPUShares:         has("cpu", "cpu.shares"),
		CPUQuota:          has("cpu", "cpu.cfs_quota_us"),
		CPURealtime:       has("cpu", "cpu.rt_period_us"),
		Cpuset:            has("cpuset", "cpuset.cpus"),
		Pids:              pids, Devices: devices, Freezer: freezer,
		// BFQ's files are not in the root, but where there is one there are all.
		BlkioWeight:       has("blkio", "blkio.weight") || has("blkio", "blkio.bfq.io_serviced"),
		BlkioWeightDevice: has("blkio", "blkio.weight_device") || has("blkio", "blkio.bfq.io_serviced"),
		BlkioReadBps:      has("blkio", "blkio.throttle.read_bps_device"),
		BlkioWriteBps:     has("blkio", "blkio.throttle.write_bps_device"),
		BlkioReadIOps:     has("blkio", "blkio.throttle.read_iops_device"),
		BlkioWriteIOps:    has("blkio", "blkio.throttle.write_iops_device"),
		Namespace:         exists("/proc/self/ns/cgroup"),
	}
	if f.Cpuset {
		f.CpusetCPUs, _ = read(filepath.Join(m.mounts["cpuset"].dir, "cpuset.cpus"))
		f.CpusetMems, _ = read(filepath.Join(m.mounts["cpuset"].dir, "cpuset.mems"))
	}
	if _, ok := m.mounts["hugetlb"]; ok {
		f.Hugetlb = pageSizes()
	}
	return f
}

func (m *machine) featuresV2() Features {
	have, _ := read(filepath.Join(m.root.dir, "cgroup.controllers"))
	on := func(c string) bool { return hasWord(have, c) }
	f := Features{
		Memory: on("memory"), MemoryReservation: on("memory"),
		MemorySwap: on("memory") && m.swapV2(),
		CPUShares:  on("cpu"), CPUQuota: on("cpu"),
		Cpuset: on("cpuset"), Pids: on("pids"),
		BlkioWeight: on("io"), BlkioWeightDevice: on("io"),
		BlkioReadBps: on("io"), BlkioWriteBps: on("io"), BlkioReadIOps: on("io"), BlkioWriteIOps: on("io"),
		Devices: true, Freezer: true, // no controllers on v2: always there
		Namespace: exists("/proc/self/ns/cgroup"),
	}
	if f.Cpuset {
		f.CpusetCPUs, _ = read(filepath.Join(m.root.dir, "cpuset.cpus.effective"))
		f.CpusetMems, _ = read(filepath.Join(m.root.dir, "cpuset.mems.effective"))
	}
	if on("hugetlb") {
		f.Hugetlb = pageSizes()
	}
	return f
}

// swapV2 looks for the file that the root itself never has.
func (m *machine) swapV2() bool {
	if p, err := pathOf(os.Getpid(), m.root, ""); err == nil && exists(filepath.Join(m.root.dir, p, "memory.swap.max")) {
		return true
	}
	found, _ := filepath.Glob(filepath.Join(m.root.dir, "*", "memory.swap.max"))
	return len(found) > 0 || exists("/proc/swaps")
}

// pageSizes names the sizes as the cgroup files do: 2MB, 1GB.
func pageSizes() []string {
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		kb, _ := strings.CutPrefix(e.Name(), "hugepages-")
		kb, ok := strings.CutSuffix(kb, "kB")
		if !ok {
			continue
		}
		if s := pageSize(kb); s != "" {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

func pageSize(kb string) string {
	v, err := parseUint(kb, "hugepages")
	switch {
	case err != nil:
		return ""
	case v >= 1<<20:
		return fmt.Sprint(v>>20) + "GB"
	case v >= 1<<10:
		return fmt.Sprint(v>>10) + "MB"
	}
	return fmt.Sprint(v) + "KB"
}
