// Package scope owns transient systemd scopes: units that hold a group of
// processes which systemd did not start.
package scope

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// running is there when systemd is the init system, see sd_booted(3).
const running = "/run/systemd/system"

// Running reports whether systemd is the init system of this machine.
func Running() bool {
	_, err := os.Stat(running)
	return err == nil
}

// jobWait bounds how long systemd may take to start a scope.
const jobWait = 30 * time.Second

// Manager talks to systemd over its private socket, connected at first use. The
// zero value is ready; it may be used by several goroutines.
type Manager struct {
	mu   sync.Mutex
	conn *dbus.Conn
}

// Unit is a scope and where its cgroup is, below the mount.
type Unit struct{ Name, Slice, Path string }

// Available says what is missing on this machine, if anything is.
func (m *Manager) Available() error {
	if !Running() {
		return errdefs.ErrFailedPrecondition.WithMessage("systemd is not running on this machine (" + running + " is missing): use native.cgroupdriver=cgroupfs")
	}
	_, err := m.connect()
	return err
}

func (m *Manager) connect() (*dbus.Conn, error) {
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

// Parse splits "slice:prefix:name". An empty slice is system.slice.
func Parse(p string) (Unit, error) {
	f := strings.Split(p, ":")
	if len(f) != 3 || f[2] == "" || strings.Contains(p, "/") {
		return Unit{}, invalid("expected cgroup path to be of format \"slice:prefix:name\" for systemd cgroups, got %q instead", p)
	}
	u := Unit{Slice: f[0], Name: f[2] + ".scope"}
	if u.Slice == "" {
		u.Slice = "system.slice"
	}
	if f[1] != "" {
		u.Name = f[1] + "-" + u.Name
	}
	dir, err := slicePath(u.Slice)
	u.Path = path.Join(dir, u.Name)
	return u, err
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
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

// Property is a setting of a unit.
func Property(name string, value any) dbus.Property {
	return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
}

// Start makes the scope around a process and returns when it is there. Groups
// below it belong to whoever is in it.
func (m *Manager) Start(u Unit, pid int, props []dbus.Property) error {
	conn, err := m.connect()
	if err != nil {
		return err
	}
	props = append(props,
		dbus.PropDescription("wherry group "+u.Name), dbus.PropSlice(u.Slice), dbus.PropPids(uint32(pid)),
		Property("Delegate", true), Property("DefaultDependencies", false),
		Property("MemoryAccounting", true), Property("CPUAccounting", true), Property("TasksAccounting", true),
	)
	if err := m.run(conn, u.Name, props); err != nil {
		return fmt.Errorf("systemd scope %s: %w", u.Name, err)
	}
	return nil
}

func (m *Manager) run(conn *dbus.Conn, unit string, props []dbus.Property) error {
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

// Set changes properties of a scope that runs.
func (m *Manager) Set(u Unit, props []dbus.Property) error {
	if len(props) == 0 {
		return nil
	}
	conn, err := m.connect()
	if err != nil {
		return err
	}
	return conn.SetUnitPropertiesContext(context.Background(), u.Name, true, props...)
}

// Stop stops a scope, of which there may be nothing left, and forgets it.
func (m *Manager) Stop(u Unit) {
	conn, err := m.connect()
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), jobWait)
	defer cancel()
	// Both fail when the unit is gone already, which is what is wanted.
	_, _ = conn.StopUnitContext(ctx, u.Name, "replace", nil)
	_ = conn.ResetFailedUnitContext(ctx, u.Name)
}
