package cgroup

import (
	"syscall"

	"github.com/containerd/errdefs"
)

// Probe reads once what this machine has.
func Probe() (*Hierarchy, error) { return nil, errdefs.ErrNotImplemented }

// Version is 1 or 2.
func (h *Hierarchy) Version() int { return h.version }

// Driver is who makes the directories.
func (h *Hierarchy) Driver() Driver { return h.driver }

// WithDriver returns the same hierarchy used through another driver, or an
// error that says what is missing on this machine.
func (h *Hierarchy) WithDriver(d Driver) (*Hierarchy, error) {
	return nil, errdefs.ErrNotImplemented
}

// Features says what this kernel offers.
func (h *Hierarchy) Features() Features { return h.features }

// Create makes the group with these limits. The strings are warnings: limits
// that this kernel does not have and that were left out.
func (h *Hierarchy) Create(path string, r *Resources) (*Group, []string, error) {
	return nil, nil, errdefs.ErrNotImplemented
}

// Open finds an existing group again, also one that another process made.
func (h *Hierarchy) Open(path string) (*Group, error) { return nil, errdefs.ErrNotImplemented }

// Clean removes what Create left below and beside groups of this parent for
// sharing, and the parent itself if it is empty. Groups in use stay.
func (h *Hierarchy) Clean(parent string) error { return errdefs.ErrNotImplemented }

// Path is the path that the caller chose.
func (g *Group) Path() string { return g.path }

// Dir is the group's directory on v2, for CLONE_INTO_CGROUP; "" on v1.
func (g *Group) Dir() string { return "" }

// Tasks lists the v1 files into which a new process writes "0" to join; nil on v2.
func (g *Group) Tasks() []string { return nil }

// Controllers lists the v1 hierarchies and where the group is in them.
func (g *Group) Controllers() []Controller { return nil }

// Add moves a running process in, with all its threads. Slow on v1.
func (g *Group) Add(pid int) error { return errdefs.ErrNotImplemented }

// Set changes limits; fields that are nil stay as they are.
func (g *Group) Set(r *Resources) ([]string, error) { return nil, errdefs.ErrNotImplemented }

// Freeze stops all processes and returns when all are stopped.
func (g *Group) Freeze() error { return errdefs.ErrNotImplemented }

// Thaw lets them go on.
func (g *Group) Thaw() error { return errdefs.ErrNotImplemented }

// Frozen reports whether Freeze is in force.
func (g *Group) Frozen() (bool, error) { return false, errdefs.ErrNotImplemented }

// PIDs lists the processes in the group and in groups below it.
func (g *Group) PIDs() ([]int, error) { return nil, errdefs.ErrNotImplemented }

// Kill sends sig to all of them; SIGKILL leaves none that forked meanwhile,
// and thaws a frozen group.
func (g *Group) Kill(sig syscall.Signal) error { return errdefs.ErrNotImplemented }

// OOMKills counts the processes that the kernel killed for want of memory.
func (g *Group) OOMKills() (uint64, error) { return 0, errdefs.ErrNotImplemented }

// Stats reads the counters.
func (g *Group) Stats() (*Stats, error) { return nil, errdefs.ErrNotImplemented }

// Remove deletes the group. Processes that are still dying are waited for a
// short time only; what is left then goes on being removed in the background.
func (g *Group) Remove() error { return errdefs.ErrNotImplemented }
