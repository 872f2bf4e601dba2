package cgroup

import (
	"path/filepath"
	"strconv"
	"strings"
)

func (g *groupV2) stats() (*Stats, error) {
	if err := g.open(); err != nil {
		return nil, err
	}
	out, src := &Stats{}, &source{}
	cpu := src.pairs(g.dir, "cpu.stat")
	out.CPU = CPUStats{
		Usage: cpu["usage_usec"] * 1000, User: cpu["user_usec"] * 1000, System: cpu["system_usec"] * 1000,
		Periods: cpu["nr_periods"], ThrottledPeriods: cpu["nr_throttled"], ThrottledNanos: cpu["throttled_usec"] * 1000,
	}
	out.Memory.Usage = src.uint(g.dir, "memory.current")
	out.Memory.Limit = src.uint(g.dir, "memory.max")
	out.Memory.Swap = src.uint(g.dir, "memory.swap.current")
	out.Memory.MaxUsage = src.uint(g.dir, "memory.peak") // since Linux 5.19
	out.Memory.Stat = src.pairs(g.dir, "memory.stat")
	out.Memory.Failures = src.pairs(g.dir, "memory.events")["max"]
	out.Pids.Current = src.uint(g.dir, "pids.current")
	out.Pids.Limit = src.uint(g.dir, "pids.max")
	text, err := read(filepath.Join(g.dir, "io.stat"))
	src.fail(err)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		maj, min, _ := strings.Cut(f[0], ":")
		major, err1 := strconv.ParseUint(maj, 10, 64)
		minor, err2 := strconv.ParseUint(min, 10, 64)
		if err1 != nil || err2 != nil {
			continue
		}
		for _, kv := range f[1:] {
			key, value, _ := strings.Cut(kv, "=")
			v, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				continue
			}
			switch key {
			case "rbytes":
				out.IO = append(out.IO, IOEntry{major, minor, "read", v})
			case "wbytes":
				out.IO = append(out.IO, IOEntry{major, minor, "write", v})
			case "rios":
				out.IOps = append(out.IOps, IOEntry{major, minor, "read", v})
			case "wios":
				out.IOps = append(out.IOps, IOEntry{major, minor, "write", v})
			}
		}
	}
	return out, src.err
}
