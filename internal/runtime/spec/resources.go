package spec

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func (b *builder) resources() error {
	r, err := Limits(&b.in.HostConfig.Resources)
	if err != nil {
		return err
	}
	r.Devices = b.spec.Linux.Resources.Devices
	b.spec.Linux.Resources = r
	return nil
}

// Resources gives the limits of an update: those that are set. Block devices
// that do not exist are left out, as an update cannot name them.
func Resources(h *container.Resources) *specs.LinuxResources {
	plain := *h
	plain.BlkioWeightDevice, plain.BlkioDeviceReadBps, plain.BlkioDeviceWriteBps = nil, nil, nil
	plain.BlkioDeviceReadIOps, plain.BlkioDeviceWriteIOps = nil, nil
	r, err := Limits(&plain)
	if err != nil {
		// Only block devices can fail.
		return &specs.LinuxResources{}
	}
	return r
}

// Limits translates docker's resources.
func Limits(h *container.Resources) (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{Memory: memory(h), CPU: cpu(h), Pids: pids(h)}
	var err error
	r.BlockIO, err = blockIO(h)
	return r, err
}

func positive[T int64 | uint64](v int64) *T {
	if v <= 0 {
		return nil
	}
	n := T(v)
	return &n
}

func memory(h *container.Resources) *specs.LinuxMemory {
	m := specs.LinuxMemory{
		Limit: positive[int64](h.Memory), Reservation: positive[int64](h.MemoryReservation),
		Swap: positive[int64](h.MemorySwap), DisableOOMKiller: h.OomKillDisable,
	}
	if h.MemorySwap == -1 {
		m.Swap = &h.MemorySwap
	}
	if h.MemorySwappiness != nil && *h.MemorySwappiness >= 0 {
		v := uint64(*h.MemorySwappiness)
		m.Swappiness = &v
	}
	if m == (specs.LinuxMemory{}) {
		return nil
	}
	return &m
}

func cpu(h *container.Resources) *specs.LinuxCPU {
	c := specs.LinuxCPU{
		Shares: positive[uint64](h.CPUShares), Period: positive[uint64](h.CPUPeriod),
		RealtimePeriod: positive[uint64](h.CPURealtimePeriod), RealtimeRuntime: positive[int64](h.CPURealtimeRuntime),
		Cpus: h.CpusetCpus, Mems: h.CpusetMems,
	}
	if h.CPUQuota != 0 {
		c.Quota = &h.CPUQuota
	}
	if h.NanoCPUs > 0 {
		period := uint64(100_000)
		quota := h.NanoCPUs * int64(period) / 1e9
		c.Period, c.Quota = &period, &quota
	}
	if c == (specs.LinuxCPU{}) {
		return nil
	}
	return &c
}

func pids(h *container.Resources) *specs.LinuxPids {
	if h.PidsLimit == nil {
		return nil
	}
	limit := *h.PidsLimit
	if limit <= 0 {
		limit = -1
	}
	return &specs.LinuxPids{Limit: &limit}
}

func blockIO(h *container.Resources) (*specs.LinuxBlockIO, error) {
	var out specs.LinuxBlockIO
	empty := h.BlkioWeight == 0
	if !empty {
		w := h.BlkioWeight
		out.Weight = &w
	}
	for _, w := range h.BlkioWeightDevice {
		major, minor, err := blockDevice(w.Path)
		if err != nil {
			return nil, err
		}
		d := specs.LinuxWeightDevice{Weight: &w.Weight}
		d.Major, d.Minor = major, minor
		out.WeightDevice = append(out.WeightDevice, d)
		empty = false
	}
	for _, t := range []struct {
		from []*blkiodev.ThrottleDevice
		to   *[]specs.LinuxThrottleDevice
	}{
		{h.BlkioDeviceReadBps, &out.ThrottleReadBpsDevice}, {h.BlkioDeviceWriteBps, &out.ThrottleWriteBpsDevice},
		{h.BlkioDeviceReadIOps, &out.ThrottleReadIOPSDevice}, {h.BlkioDeviceWriteIOps, &out.ThrottleWriteIOPSDevice},
	} {
		for _, v := range t.from {
			major, minor, err := blockDevice(v.Path)
			if err != nil {
				return nil, err
			}
			d := specs.LinuxThrottleDevice{Rate: v.Rate}
			d.Major, d.Minor = major, minor
			*t.to = append(*t.to, d)
			empty = false
		}
	}
	if empty {
		return nil, nil
	}
	return &out, nil
}

func blockDevice(path string) (major, minor int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, invalid("%s: %v", path, err)
	}
	return int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)), nil
}

// paths sets what is hidden and what is read-only.
func (b *builder) paths() error {
	h, l := b.in.HostConfig, b.spec.Linux
	if !h.Privileged {
		l.MaskedPaths, l.ReadonlyPaths = MaskedPaths(), ReadonlyPaths()
	}
	// Given but empty means none: systempaths=unconfined.
	if h.MaskedPaths != nil {
		l.MaskedPaths = h.MaskedPaths
	}
	if h.ReadonlyPaths != nil {
		l.ReadonlyPaths = h.ReadonlyPaths
	}
	return nil
}

// ReadonlyPaths is docker's list.
func ReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// MaskedPaths is docker's list; the thermal counters are there per processor.
func MaskedPaths() []string {
	list := []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	return append(list, thermal()...)
}

// thermal is looked for once: there may be hundreds of processors.
var thermal = sync.OnceValue(func() []string {
	list, err := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")
	if err != nil {
		return nil
	}
	return list
})

// devices are nodes and the rules that allow them.
func (b *builder) devices() error {
	h, l := b.in.HostConfig, b.spec.Linux
	rules := defaultDeviceRules()
	if h.Privileged {
		nodes, err := hostDevices("/dev", "/dev")
		if err != nil {
			return err
		}
		l.Devices = nodes
		rules = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	for _, m := range h.Devices {
		access := m.CgroupPermissions
		if access == "" {
			access = "rwm"
		}
		if h.Privileged {
			if access != "rwm" {
				b.warn("custom %s permissions for device %s are ignored in privileged mode", access, m.PathOnHost)
			}
			if m.PathOnHost == m.PathInContainer {
				continue
			}
		}
		nodes, err := mapDevice(m.PathOnHost, m.PathInContainer)
		if err != nil {
			return err
		}
		l.Devices = append(l.Devices, nodes...)
		if !h.Privileged {
			for _, n := range nodes {
				major, minor := n.Major, n.Minor
				rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: n.Type, Major: &major, Minor: &minor, Access: access})
			}
		}
	}
	for _, r := range h.DeviceCgroupRules {
		rule, err := deviceRule(r)
		if err != nil {
			return err
		}
		if !h.Privileged {
			rules = append(rules, rule)
		}
	}
	l.Resources.Devices = rules
	return nil
}

func deviceRule(s string) (specs.LinuxDeviceCgroup, error) {
	bad := invalid("invalid device cgroup rule format: '%s'", s)
	f := strings.Split(s, " ")
	if len(f) != 3 || len(f[0]) != 1 || !strings.Contains("abc", f[0]) || len(f[2]) < 1 || len(f[2]) > 3 || strings.Trim(f[2], "rwm") != "" {
		return specs.LinuxDeviceCgroup{}, bad
	}
	a, c, ok := strings.Cut(f[1], ":")
	major, err1 := deviceNumber(a)
	minor, err2 := deviceNumber(c)
	if !ok || err1 != nil || err2 != nil {
		return specs.LinuxDeviceCgroup{}, bad
	}
	return specs.LinuxDeviceCgroup{Allow: true, Type: f[0], Major: &major, Minor: &minor, Access: f[2]}, nil
}

func deviceNumber(s string) (int64, error) {
	if s == "*" {
		return -1, nil
	}
	n, err := strconv.ParseUint(s, 10, 31)
	return int64(n), err
}

// defaultDeviceRules are docker's: the usual nodes, pseudo terminals, mknod of
// anything is part of the runtime's defaults.
func defaultDeviceRules() []specs.LinuxDeviceCgroup {
	n := func(v int64) *int64 { return &v }
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, d := range [][2]int64{{1, 5}, {1, 3}, {1, 9}, {1, 8}, {5, 0}, {5, 1}} {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: n(d[0]), Minor: n(d[1]), Access: "rwm"})
	}
	rules = append(rules, specs.LinuxDeviceCgroup{Allow: false, Type: "c", Major: n(10), Minor: n(229), Access: "rwm"})
	// What every OCI runtime adds by itself.
	for _, d := range []struct {
		kind         string
		major, minor int64
		access       string
	}{
		{"c", -1, -1, "m"}, {"b", -1, -1, "m"}, {"c", 1, 7, "rwm"}, {"c", 136, -1, "rwm"}, {"c", 5, 2, "rwm"},
	} {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: d.kind, Major: n(d.major), Minor: n(d.minor), Access: d.access})
	}
	return rules
}

// mapDevice gives the node at host, or all nodes below that directory.
func mapDevice(host, inside string) ([]specs.LinuxDevice, error) {
	if inside == "" {
		inside = host
	}
	real, err := filepath.EvalSymlinks(host)
	if err != nil {
		return nil, invalid("error gathering device information while adding custom device %q: no such file or directory", host)
	}
	if node, ok := deviceAt(real, inside); ok {
		return []specs.LinuxDevice{node}, nil
	}
	if st, err := os.Stat(real); err == nil && st.IsDir() {
		nodes, err := hostDevices(real, inside)
		if err == nil && len(nodes) > 0 {
			return nodes, nil
		}
	}
	return nil, invalid("error gathering device information while adding custom device %q: not a device node", host)
}

func deviceAt(path, inside string) (specs.LinuxDevice, bool) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return specs.LinuxDevice{}, false
	}
	d := specs.LinuxDevice{Path: inside, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev))}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.Type = "c"
	case unix.S_IFBLK:
		d.Type = "b"
	default:
		return d, false
	}
	mode, uid, gid := os.FileMode(st.Mode&0o777), st.Uid, st.Gid
	d.FileMode, d.UID, d.GID = &mode, &uid, &gid
	return d, true
}

// privateDevices under /dev belong to the container itself and are never taken
// from the host.
var privateDevices = map[string]bool{
	"pts": true, "shm": true, "fd": true, "mqueue": true, ".lxc": true, ".lxd-mounts": true, ".udev": true,
}

// hostDevices lists the nodes below dir as they appear below inside.
func hostDevices(dir, inside string) ([]specs.LinuxDevice, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []specs.LinuxDevice
	for _, e := range entries {
		at, to := filepath.Join(dir, e.Name()), filepath.Join(inside, e.Name())
		switch {
		case e.IsDir():
			if !privateDevices[e.Name()] {
				below, err := hostDevices(at, to)
				if err != nil && !errors.Is(err, fs.ErrPermission) {
					return nil, err
				}
				list = append(list, below...)
			}
		case e.Name() == "console" || e.Name() == "ptmx":
		default:
			if node, ok := deviceAt(at, to); ok {
				list = append(list, node)
			}
		}
	}
	return list, nil
}
