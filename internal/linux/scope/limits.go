package scope

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/dbus"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/wherry-engine/wherry/internal/linux/device"
)

// Limits are the limits of a group in systemd's words. The same limits are written to
// the files too; systemd must know them or it puts others there at its next
// daemon-reload.
func Limits(version int, r *specs.LinuxResources) ([]dbus.Property, error) {
	var out []dbus.Property
	add := func(v1, v2 string, value any) {
		if name := map[int]string{1: v1, 2: v2}[version]; name != "" {
			out = append(out, Property(name, value))
		}
	}
	infinite := func(v int64) uint64 {
		if v <= 0 {
			return math.MaxUint64
		}
		return uint64(v)
	}
	if m := r.Memory; m != nil {
		if m.Limit != nil && *m.Limit != 0 {
			add("MemoryLimit", "MemoryMax", infinite(*m.Limit))
		}
		if m.Reservation != nil && *m.Reservation != 0 {
			add("", "MemoryLow", infinite(*m.Reservation))
		}
		if m.Swap != nil && *m.Swap != 0 && m.Limit != nil {
			swap := infinite(*m.Swap)
			if *m.Swap > 0 {
				swap = uint64(max(0, *m.Swap-*m.Limit))
			}
			add("", "MemorySwapMax", swap)
		}
	}
	if c := r.CPU; c != nil {
		if c.Shares != nil && *c.Shares != 0 {
			if version == 1 {
				add("CPUShares", "", *c.Shares)
			} else {
				add("", "CPUWeight", CPUWeight(*c.Shares))
			}
		}
		period := uint64(100_000)
		if c.Period != nil && *c.Period != 0 {
			period = *c.Period
			add("CPUQuotaPeriodUSec", "CPUQuotaPeriodUSec", period)
		}
		if c.Quota != nil && *c.Quota != 0 {
			perSecond := uint64(math.MaxUint64)
			if *c.Quota > 0 {
				// systemd counts in units of 10 ms per second.
				perSecond = (uint64(*c.Quota)*1_000_000/period + 9999) / 10000 * 10000
			}
			add("CPUQuotaPerSecUSec", "CPUQuotaPerSecUSec", perSecond)
		}
		for name, list := range map[string]string{"AllowedCPUs": c.Cpus, "AllowedMemoryNodes": c.Mems} {
			if list == "" {
				continue
			}
			mask, err := bitmask(list)
			if err != nil {
				return nil, err
			}
			add("", name, mask)
		}
	}
	if p := r.Pids; p != nil && p.Limit != nil {
		add("TasksMax", "TasksMax", infinite(*p.Limit))
	}
	if b := r.BlockIO; b != nil && b.Weight != nil && *b.Weight != 0 {
		if version == 1 {
			add("BlockIOWeight", "", uint64(*b.Weight))
		} else {
			add("", "IOWeight", IOWeight(*b.Weight))
		}
	}
	if len(r.Devices) > 0 && version == 1 {
		// On v2 the rules are a program of ours, which systemd leaves alone.
		rules, err := deviceProperties(r)
		if err != nil {
			return nil, err
		}
		out = append(out, rules...)
	}
	return out, nil
}

// bitmask turns "0-2,8" into systemd's little-endian bit field.
func bitmask(list string) ([]byte, error) {
	var out []byte
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		a, err1 := strconv.ParseUint(from, 10, 16)
		b, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil || a > b {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid list of processors or nodes %q", list))
		}
		for i := a; i <= b; i++ {
			for len(out) <= int(i/8) {
				out = append(out, 0)
			}
			out[i/8] |= 1 << (i % 8)
		}
	}
	return out, nil
}

func deviceProperties(r *specs.LinuxResources) ([]dbus.Property, error) {
	rules, err := device.Parse(r.Devices)
	if err != nil {
		return nil, err
	}
	type entry struct{ Path, Access string }
	allow := []entry{}
	if rules.Allow {
		// Exceptions from "all" cannot be said; the files have them.
		return []dbus.Property{Property("DevicePolicy", "auto"), Property("DeviceAllow", allow)}, nil
	}
	for _, e := range rules.Exceptions {
		f := strings.Fields(e.String())
		kind := map[string]string{"b": "block", "c": "char"}[f[0]]
		name := "/dev/" + kind + "/" + f[1]
		switch {
		case e.Major == device.Any:
			name = kind + "-*"
		case e.Minor == device.Any:
			group, err := deviceGroup(kind, e.Major)
			if err != nil {
				return nil, err
			}
			if group == "" {
				continue // no driver has this number: nothing to allow
			}
			name = kind + "-" + group
		}
		allow = append(allow, entry{name, f[2]})
	}
	return []dbus.Property{Property("DevicePolicy", "strict"), Property("DeviceAllow", allow)}, nil
}

// deviceGroup finds the name that a major number has in /proc/devices.
func deviceGroup(kind string, major int64) (string, error) {
	text, err := os.ReadFile("/proc/devices")
	if err != nil {
		return "", err
	}
	section := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch f := strings.Fields(line); {
		case line == "Character devices:":
			section = "char"
		case line == "Block devices:":
			section = "block"
		case len(f) == 2 && section == kind && f[0] == fmt.Sprint(major):
			return f[1], nil
		}
	}
	return "", nil
}

// CPUWeight converts shares, 2 to 262144 around 1024, to a weight, 1 to 10000
// around 100, so that least, middle and most meet: the formula of runc 1.4 and
// crun 1.23, see https://github.com/opencontainers/cgroups
// (ConvertCPUSharesToCgroupV2Value). The older, linear one made 39 of 1024.
func CPUWeight(shares uint64) uint64 {
	switch {
	case shares == 0:
		return 0
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// IOWeight converts 10 to 1000 (default 500) to 1 to 10000, as the OCI
// specification asks for.
func IOWeight(w uint16) uint64 { return 1 + (uint64(max(w, 10))-10)*9999/990 }
