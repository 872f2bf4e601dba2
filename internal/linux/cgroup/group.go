package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/scope"
)

// Group is one group of processes. Methods may be called from several
// goroutines; Remove must be the last.
type Group struct {
	h    *Hierarchy
	name string     // as the caller wrote it
	path string     // below the mount
	unit scope.Unit // no name without systemd
	impl impl
}

// impl is a group on one version of cgroups.
type impl interface {
	make(r *Resources) ([]string, error) // replaces an older group; unix.EBUSY if that has processes
	open() error
	set(r *Resources) ([]string, error)
	freeze(on bool) error
	frozen() (bool, error)
	kill() (done bool, err error) // done: the kernel killed all at once
	oomKills() (uint64, error)
	stats() (*Stats, error)
	add(pid int) error
	anchor() string // a directory that holds all processes of the group
	dirs() []string // its own directories
	release()       // give up what is shared with others
}

// Controller is one v1 hierarchy that a group belongs to.
type Controller struct {
	Name string // as mounted, e.g. "memory" or "cpu,cpuacct"
	Dir  string // absolute; for shared groups (devices) not the group's own
	Own  bool   // the directory is this group's alone
}

const (
	// replaceWait bounds how long Create waits for the processes of an older
	// group of the same path to go.
	replaceWait = 2 * time.Second
	// removeWait bounds how long Remove keeps its caller; removeMost how long
	// the removal goes on behind it.
	removeWait = 20 * time.Millisecond
	removeMost = time.Minute
)

func (g *Group) create(r *Resources) ([]string, error) {
	var warnings []string
	err := retry(replaceWait, nil, func() (err error) {
		warnings, err = g.impl.make(r)
		return err
	})
	if errors.Is(err, unix.EBUSY) {
		if pids, _ := g.PIDs(); len(pids) > 0 {
			return nil, errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("group exists with %d process(es) in it, the first is %d", len(pids), pids[0]))
		}
	}
	if err != nil {
		_ = g.Remove() // what was made before the error; the error itself is the news
	}
	return warnings, err
}

func (g *Group) open() error { return g.impl.open() }

// retry repeats fn while it fails with EBUSY, which has no event to wait for,
// at growing intervals; stop ends it early.
func retry(most time.Duration, stop <-chan struct{}, fn func() error) error {
	deadline := time.Now().Add(most)
	for pause := time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		err := fn()
		if !errors.Is(err, unix.EBUSY) || time.Now().Add(pause).After(deadline) {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-stop:
			t.Stop()
			return err
		}
	}
}

// Path is the path that the caller chose.
func (g *Group) Path() string { return g.name }

// Dir is the group's directory on v2, for CLONE_INTO_CGROUP; "" on v1.
func (g *Group) Dir() string {
	if g.h.version == 2 {
		return g.impl.anchor()
	}
	return ""
}

// DirBeside is the directory on v2 for a process that joins pid, which is in
// the group: the group's own, or pid's if it has made groups of its own below
// and handed them controllers, as an init system does; "" on v1.
func (g *Group) DirBeside(pid int) string {
	dir := g.Dir()
	if dir == "" {
		return ""
	}
	if on, err := read(filepath.Join(dir, "cgroup.subtree_control")); err != nil || on == "" {
		return dir
	}
	if p, err := pathOf(pid, g.h.root, ""); err == nil && p != "" {
		return filepath.Join(g.h.root.dir, p)
	}
	return dir
}

// Tasks lists the v1 files into which a new process writes "0" to join; nil on v2.
func (g *Group) Tasks() []string {
	var out []string
	for _, c := range g.Controllers() {
		out = append(out, filepath.Join(c.Dir, "tasks"))
	}
	return out
}

// Controllers lists the v1 hierarchies and where the group is in them; nil on v2.
func (g *Group) Controllers() []Controller {
	if v1, ok := g.impl.(*groupV1); ok {
		return v1.controllers()
	}
	return nil
}

// Add moves a running process in, with all its threads. Slow on v1 (about
// 10 ms a hierarchy): a new process should join by itself, see Tasks.
func (g *Group) Add(pid int) error { return g.impl.add(pid) }

// Settle says that a process has joined. With systemd a scope lives only as
// long as it has processes, so Create puts one of ours in, which leaves now.
func (g *Group) Settle() {
	if h := g.holder(true); h != nil {
		h.Leave()
	}
}

// holder gives the process that keeps the scope alive, nil if there is none;
// take says that the caller ends it.
func (g *Group) holder(take bool) *scope.Holder {
	g.h.mu.Lock()
	defer g.h.mu.Unlock()
	h := g.h.holders[g.path]
	if take {
		delete(g.h.holders, g.path)
	}
	return h
}

// Set changes limits; fields that are nil stay as they are. The strings are
// warnings, as from Create.
func (g *Group) Set(r *Resources) ([]string, error) {
	if g.unit.Name != "" {
		props, err := scope.Limits(g.h.version, r)
		if err == nil {
			err = g.h.systemd.Set(g.unit, props)
		}
		if err != nil {
			return nil, fmt.Errorf("cgroup %s: %w", g.name, err)
		}
	}
	warnings, err := g.impl.set(r)
	if err != nil {
		return warnings, fmt.Errorf("cgroup %s: %w", g.name, err)
	}
	return warnings, nil
}

// Freeze stops all processes and returns when all are stopped. After an error
// they go on.
func (g *Group) Freeze() error {
	if err := g.impl.freeze(true); err != nil {
		return errors.Join(fmt.Errorf("freeze cgroup %s: %w", g.name, err), g.impl.freeze(false))
	}
	return nil
}

// Thaw lets them go on.
func (g *Group) Thaw() error {
	if err := g.impl.freeze(false); err != nil {
		return fmt.Errorf("thaw cgroup %s: %w", g.name, err)
	}
	return nil
}

// Frozen reports whether Freeze is in force.
func (g *Group) Frozen() (bool, error) { return g.impl.frozen() }

// PIDs lists the processes in the group and in groups below it. A group that
// is gone has none.
func (g *Group) PIDs() ([]int, error) {
	all, err := below(g.impl.anchor())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	holder := g.holder(false)
	var out []int
	for i := len(all) - 1; i >= 0; i-- { // the group's own first
		p, err := pids(filepath.Join(all[i], "cgroup.procs"))
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return nil, err
		}
		for _, pid := range p {
			if holder == nil || pid != holder.PID {
				out = append(out, pid)
			}
		}
	}
	return out, nil
}

// Kill sends sig to all of them; SIGKILL leaves none that forked meanwhile,
// and thaws a frozen group. It does not wait for them to be gone.
func (g *Group) Kill(sig syscall.Signal) error {
	if sig == unix.SIGKILL {
		if done, err := g.impl.kill(); done || err != nil {
			return err
		}
	}
	sent := map[int]bool{}
	for range 1000 {
		list, err := g.PIDs()
		if err != nil {
			return err
		}
		news := false
		for _, pid := range list {
			if sent[pid] {
				continue
			}
			sent[pid], news = true, true
			if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill %d: %w", pid, err)
			}
		}
		if sig != unix.SIGKILL {
			return nil
		}
		if !news {
			break
		}
	}
	if on, err := g.impl.frozen(); err == nil && on {
		return g.impl.freeze(false) // the dead do not notice before they run
	}
	return nil
}

// OOMKills counts the processes that the kernel killed for want of memory.
func (g *Group) OOMKills() (uint64, error) { return g.impl.oomKills() }

// Stats reads the counters.
func (g *Group) Stats() (*Stats, error) {
	s, err := g.impl.stats()
	if err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", g.name, err)
	}
	return s, nil
}

// Keep makes Stats hold the files open that it reads, until Close. They are
// those of the group as it is now: a group made anew needs another Group. A
// process that may not have many files open keeps none.
func (g *Group) Keep() {
	const plenty = 16384
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil || limit.Cur < plenty {
		return
	}
	if v1, ok := g.impl.(*groupV1); ok {
		v1.mu.Lock()
		defer v1.mu.Unlock()
		v1.kept = &kept{fds: map[string]int{}}
	}
}

// Close closes what Keep has opened.
func (g *Group) Close() {
	if v1, ok := g.impl.(*groupV1); ok {
		v1.mu.Lock()
		defer v1.mu.Unlock()
		v1.kept.close()
	}
}

// removal is a group that is going away behind its owner's back, or soon will.
type removal struct {
	g    *Group
	stop chan struct{} // somebody else cares for the path from now on
	done chan struct{} // over

	mu   sync.Mutex // one attempt at a time
	over bool
	err  error // once over
}

// Remove deletes the group. Processes that are still dying are waited for a
// short time only; what is left then goes on being removed in the background,
// see Drain.
func (g *Group) Remove() error { return g.Removal()() }

// Removal is Remove in two steps: from now on a Create of the same path knows of
// it, and the function that does it may run whenever there is time. A Create that
// comes first has removed the group, and the function does nothing.
func (g *Group) Removal() (remove func() error) {
	g.Settle()
	g.impl.release()
	r := &removal{g: g, stop: make(chan struct{}), done: make(chan struct{})}
	m := g.h.machine
	m.mu.Lock()
	before := m.pending[g.path]
	m.pending[g.path] = r
	m.mu.Unlock()
	before.takeOver()
	return func() error {
		if !r.attempt(removeWait) {
			go r.attempt(removeMost)
			return nil
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.pending[g.path] != r {
			return nil // taken over
		}
		delete(m.pending, g.path)
		return r.err
	}
}

// attempt tries to remove the group for so long; it reports whether the removal
// is over. Only one that has gone on for removeMost gives up.
func (r *removal) attempt(most time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return true
	}
	g, m := r.g, r.g.h.machine
	err := retry(most, r.stop, g.removeDirs)
	if errors.Is(err, unix.EBUSY) && most < removeMost {
		return false
	}
	g.unitGone()
	if err != nil {
		r.err = fmt.Errorf("cgroup %s: %w", g.name, err)
	}
	r.over = true
	defer close(r.done)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil && m.pending[g.path] == r {
		delete(m.pending, g.path) // failures stay on record for Drain
	}
	return true
}

// takeOver ends a removal, also one that has not begun: it is tried once more, and
// when this returns nobody but the caller touches the path.
func (r *removal) takeOver() {
	if r != nil {
		close(r.stop)
		r.attempt(removeMost)
	}
}

func (g *Group) removeDirs() error {
	var busy error
	for _, d := range g.impl.dirs() {
		if err := removeTree(d); errors.Is(err, unix.EBUSY) {
			busy = err
		} else if err != nil {
			return err
		}
	}
	return busy
}

// vacate ends the removal of a path that is on record, see takeOver.
func (m *machine) vacate(path string) {
	m.mu.Lock()
	r := m.pending[path]
	delete(m.pending, path)
	m.mu.Unlock()
	r.takeOver()
}
