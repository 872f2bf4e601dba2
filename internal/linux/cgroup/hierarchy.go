// Package cgroup owns control groups: it makes, limits, reads, freezes, kills
// and removes groups of processes on cgroup v1 (also hybrid machines, where v1
// holds the controllers) and on cgroup v2, directly in the file system or
// through systemd.
//
// A group's path is chosen by the caller and is absolute below the hierarchy's
// mount, e.g. "/wherry/<id>"; with the systemd driver it is written
// "slice:prefix:name" and becomes the scope prefix-name.scope in that slice.
//
// On v1 a group has a directory of its own only under the controllers that it
// needs: making and removing nine directories is a large part of a process's
// start. Device rules that many groups have in common live in one directory
// beside them (<parent>/devices-<hash>) which all of them join; freezer, blkio,
// cpuset and hugetlb directories appear when first asked for.
package cgroup

import (
	"errors"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Driver says who makes the directories.
type Driver string

// The drivers, with docker's names.
const (
	Cgroupfs Driver = "cgroupfs"
	Systemd  Driver = "systemd"
)

// ErrGone is returned by operations on a group whose directories are no more.
var ErrGone = errors.New("cgroup: no such group")

// Hierarchy is what Probe found. It may be used by several goroutines.
type Hierarchy struct {
	version  int
	driver   Driver
	features Features
}

// Features says what this kernel offers.
type Features struct {
	Memory, MemorySwap, MemoryReservation, Swappiness, OOMKillDisable bool
	KernelMemory, KernelMemoryTCP                                     bool
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

// Group is one group of processes. Methods may be called from several
// goroutines; Remove must be the last.
type Group struct {
	h    *Hierarchy
	path string
}

// Controller is one v1 hierarchy that a group belongs to.
type Controller struct {
	Name string // as mounted, e.g. "memory" or "cpu,cpuacct"
	Dir  string // absolute; for shared groups (devices) not the group's own
	Own  bool   // the directory is this group's alone
}

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

// PidsStats counts processes and threads; Limit 0 means none.
type PidsStats struct{ Current, Limit uint64 }

// IOEntry is one line of the I/O counters. Op is "Read", "Write", ... on v1 and
// "read", "write" on v2. Major and Minor are 0 when the device is not known.
type IOEntry struct {
	Major, Minor uint64
	Op           string
	Value        uint64
}

// Resources is the caller's word for limits: the OCI structure.
type Resources = specs.LinuxResources
