package cgroup

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// systemdRunning is there when systemd is the init system, see sd_booted(3).
const systemdRunning = "/run/systemd/system"

// jobWait bounds how long systemd may take to start a scope.
const jobWait = 30 * time.Second

// manager talks to systemd over its private socket, connected at first use.
type manager struct {
	mu   sync.Mutex
	conn *dbus.Conn
}

func (m *manager) available() error {
	if !exists(systemdRunning) {
		return errdefs.ErrFailedPrecondition.WithMessage("systemd is not running on this machine (" + systemdRunning + " is missing): use native.cgroupdriver=cgroupfs")
	}
	_, err := m.connect()
	return err
}

func (m *manager) connect() (*dbus.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil && m.conn.Connected() {
		return m.conn, nil
	}
	conn, err := dbus.NewSystemdConnectionContext(context.Background())
	if err != nil {
		return nil, fmt.Errorf("connect to systemd at /run/systemd/private: %w", err)
	}
	m.conn = conn
	return conn, nil
}

// scope splits "slice:prefix:name" and gives the unit and its path.
func scope(p string) (unit, dir string, err error) {
	f := strings.Split(p, ":")
	if len(f) != 3 || f[2] == "" || strings.Contains(p, "/") {
		return "", "", invalid("expected cgroup path to be of format \"slice:prefix:name\" for systemd cgroups, got %q instead", p)
	}
	slice := f[0]
	if slice == "" {
		slice = "system.slice"
	}
	if dir, err = slicePath(slice); err != nil {
		return "", "", err
	}
	unit = f[2] + ".scope"
	if f[1] != "" {
		unit = f[1] + "-" + unit
	}
	return unit, path.Join(dir, unit), nil
}

// slicePath: a-b.slice lies in a.slice.
func slicePath(slice string) (string, error) {
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok || name == "" {
		return "", invalid("invalid slice name: %q", slice)
	}
	if name == "-" {
		return "/", nil
	}
	out, so := "/", ""
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", invalid("invalid slice name: %q", slice)
		}
		so += part
		out = path.Join(out, so+".slice")
		so += "-"
	}
	return out, nil
}

func prop(name string, value any) dbus.Property {
	return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
}

// start makes the scope of g. A scope needs a process to begin with: ours waits
// in it until Settle.
func (m *manager) start(g *Group, r *Resources) error {
	conn, err := m.connect()
	if err != nil {
		return err
	}
	slice, _, _ := strings.Cut(g.name, ":")
	if slice == "" {
		slice = "system.slice"
	}
	if g.holder, err = startHolder(); err != nil {
		return err
	}
	props := []dbus.Property{
		dbus.PropDescription("wherry group " + g.unit), dbus.PropSlice(slice), dbus.PropPids(uint32(g.holder.pid)),
		prop("Delegate", true), prop("DefaultDependencies", false),
		prop("MemoryAccounting", true), prop("CPUAccounting", true), prop("TasksAccounting", true),
	}
	if g.h.version == 2 {
		props = append(props, prop("IOAccounting", true))
	} else {
		props = append(props, prop("BlockIOAccounting", true))
	}
	limits, err := properties(g.h.version, r)
	if err == nil {
		err = m.run(conn, g.unit, append(props, limits...))
	}
	if err != nil {
		g.holder.leave()
		return fmt.Errorf("systemd scope %s: %w", g.unit, err)
	}
	g.adopt()
	return nil
}

// adopt tells the directory's code that systemd was there first.
func (g *Group) adopt() {
	switch i := g.impl.(type) {
	case *groupV1:
		i.unit = true
	case *groupV2:
		i.unit = true
	}
}

func (m *manager) run(conn *dbus.Conn, unit string, props []dbus.Property) error {
	ctx, cancel := context.WithTimeout(context.Background(), jobWait)
	defer cancel()
	for again := false; ; again = true {
		done := make(chan string, 1)
		_, err := conn.StartTransientUnitContext(ctx, unit, "replace", props, done)
		var known godbus.Error
		if errors.As(err, &known) && known.Name == "org.freedesktop.systemd1.UnitExists" && !again {
			// A failed scope of this name is kept until it is reset.
			if err := conn.ResetFailedUnitContext(ctx, unit); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		select {
		case result := <-done:
			if result != "done" {
				_ = conn.ResetFailedUnitContext(ctx, unit) // so that the next attempt finds the name free
				return fmt.Errorf("job ended with %q", result)
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("systemd did not start it within %v", jobWait)
		}
	}
}

func (m *manager) set(g *Group, r *Resources) error {
	conn, err := m.connect()
	if err != nil {
		return err
	}
	props, err := properties(g.h.version, r)
	if err != nil || len(props) == 0 {
		return err
	}
	return conn.SetUnitPropertiesContext(context.Background(), g.unit, true, props...)
}

// unitGone lets systemd forget the scope, which it stops by itself when the
// last process has left.
func (g *Group) unitGone() {
	if g.unit == "" {
		return
	}
	if g.holder != nil {
		g.holder.leave()
	}
	if conn, err := g.h.systemd.connect(); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), jobWait)
		defer cancel()
		// Both fail when the unit is gone already, which is what is wanted.
		_, _ = conn.StopUnitContext(ctx, g.unit, "replace", nil)
		_ = conn.ResetFailedUnitContext(ctx, g.unit)
	}
}

// properties are the limits in systemd's words. The same limits are written to
// the files too; systemd must know them or it puts others there at its next
// daemon-reload.
func properties(version int, r *Resources) ([]dbus.Property, error) {
	var out []dbus.Property
	add := func(v1, v2 string, value any) {
		if name := map[int]string{1: v1, 2: v2}[version]; name != "" {
			out = append(out, prop(name, value))
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
				add("", "CPUWeight", cpuWeight(*c.Shares))
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
			add("", "IOWeight", ioWeight(*b.Weight))
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
			return nil, invalid("invalid list of processors or nodes %q", list)
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

func deviceProperties(r *Resources) ([]dbus.Property, error) {
	rules, err := parseDevices(r.Devices)
	if err != nil {
		return nil, err
	}
	type entry struct{ Path, Access string }
	allow := []entry{}
	if rules.allow {
		// Exceptions from "all" cannot be said; the files have them.
		return []dbus.Property{prop("DevicePolicy", "auto"), prop("DeviceAllow", allow)}, nil
	}
	for _, e := range rules.exceptions {
		f := strings.Fields(e.String())
		kind := map[string]string{"b": "block", "c": "char"}[f[0]]
		name := "/dev/" + kind + "/" + f[1]
		switch {
		case e.major == anyNumber:
			name = kind + "-*"
		case e.minor == anyNumber:
			group, err := deviceGroup(kind, e.major)
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
	return []dbus.Property{prop("DevicePolicy", "strict"), prop("DeviceAllow", allow)}, nil
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
