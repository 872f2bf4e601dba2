package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/device"
)

// baseV2 are the controllers that every group gets: for its limits and counters.
var baseV2 = []string{"cpu", "io", "memory", "pids"}

// maxPrograms bounds the loaded device programs that are kept for reuse.
const maxPrograms = 32

// groupV2 is a directory of the unified hierarchy.
type groupV2 struct {
	m    *machine
	path string
	dir  string
	unit bool // systemd made the directory

	mu sync.Mutex // one change of limits at a time
}

func (g *groupV2) anchor() string { return g.dir }
func (g *groupV2) dirs() []string { return []string{g.dir} }
func (g *groupV2) release()       {}

func (g *groupV2) open() error {
	if !exists(filepath.Join(g.dir, "cgroup.procs")) {
		return notFound(g.path)
	}
	return nil
}

func (g *groupV2) make(r *Resources) ([]string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	parent := filepath.Dir(g.dir)
	if err := g.m.enable(parent, append(wantedV2(r), baseV2...)); err != nil {
		return nil, err
	}
	err := unix.Mkdir(g.dir, 0o755)
	if errors.Is(err, unix.ENOENT) {
		// The parent was removed since it was last looked at.
		g.m.forget(parent)
		if err := g.m.enable(parent, append(wantedV2(r), baseV2...)); err != nil {
			return nil, err
		}
		err = unix.Mkdir(g.dir, 0o755)
	}
	if errors.Is(err, unix.EEXIST) && g.unit {
		err = nil
	} else if errors.Is(err, unix.EEXIST) {
		if err = removeTree(g.dir); err == nil {
			err = unix.Mkdir(g.dir, 0o755)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("mkdir %s: %w", g.dir, err)
	}
	return g.apply(r)
}

// wantedV2 are controllers beyond the base that these limits need.
func wantedV2(r *Resources) []string {
	var out []string
	if r.CPU != nil && (r.CPU.Cpus != "" || r.CPU.Mems != "") {
		out = append(out, "cpuset")
	}
	if len(r.HugepageLimits) > 0 {
		out = append(out, "hugetlb")
	}
	if len(r.Rdma) > 0 {
		out = append(out, "rdma")
	}
	for key := range r.Unified {
		if c, _, ok := strings.Cut(key, "."); ok && c != "cgroup" && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out
}

// enable makes dir and those above it, and hands the controllers down to dir's
// children as far as this machine has them. What is missing shows when a limit
// is written.
func (m *machine) enable(dir string, controllers []string) error {
	m.mu.Lock()
	known := m.enabled[dir]
	m.mu.Unlock()
	if !slices.ContainsFunc(controllers, func(c string) bool { return !hasWord(known, c) }) {
		return nil
	}
	if dir != m.root.dir {
		if err := m.enable(filepath.Dir(dir), controllers); err != nil {
			return err
		}
		if err := unix.Mkdir(dir, 0o755); err == nil {
			m.remember(dir)
		} else if !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("mkdir %s: %w", dir, err)
		}
	}
	file := filepath.Join(dir, "cgroup.subtree_control")
	on, err := read(file)
	if err != nil {
		return err
	}
	have, err := read(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, c := range controllers {
		if hasWord(on, c) || !hasWord(have, c) {
			continue
		}
		if err := write(file, "+"+c); errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("%w: %s has processes of its own, and cgroup v2 hands controllers only to children of groups without; move them into a group below it or choose another --cgroup-parent", errInUse, dir)
		} else if err != nil {
			return err
		}
		on += " " + c
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// Those that the machine does not have need no second look.
	m.enabled[dir] = on + " " + strings.Join(controllers, " ")
	return nil
}

func (m *machine) forget(dir string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for d := dir; d != m.root.dir && d != "/" && d != "."; d = filepath.Dir(d) {
		delete(m.enabled, d)
	}
}

func hasWord(text, word string) bool {
	for f := range strings.FieldsSeq(text) {
		if f == word {
			return true
		}
	}
	return false
}

func (g *groupV2) add(pid int) error { return writeInt(filepath.Join(g.dir, "cgroup.procs"), pid) }

func (g *groupV2) freeze(on bool) error {
	v := "0"
	if on {
		v = "1"
	}
	err := write(filepath.Join(g.dir, "cgroup.freeze"), v)
	if errors.Is(err, unix.ENOENT) && !on {
		return nil // gone, or a kernel before 5.2, which froze nothing
	} else if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(g.dir, "cgroup.events"))
	if err != nil {
		return err
	}
	defer f.Close()
	deadline := time.Now().Add(freezeWait)
	for {
		var buf [128]byte
		n, err := unix.Pread(int(f.Fd()), buf[:], 0)
		if err != nil {
			return fmt.Errorf("read %s: %w", f.Name(), err)
		}
		if strings.Contains(string(buf[:n]), "frozen "+v+"\n") {
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("%s does not say frozen %s after %v", f.Name(), v, freezeWait)
		}
		p := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(p, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll %s: %w", f.Name(), err)
		}
	}
}

func (g *groupV2) frozen() (bool, error) {
	v, err := read(filepath.Join(g.dir, "cgroup.freeze"))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return v == "1", err
}

func (g *groupV2) kill() (bool, error) {
	err := write(filepath.Join(g.dir, "cgroup.kill"), "1")
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return !exists(g.dir), nil // before Linux 5.14 there is no such file
	}
	return err == nil, err
}

func (g *groupV2) oomKills() (uint64, error) {
	m, err := pairs(filepath.Join(g.dir, "memory.events"))
	if errors.Is(err, os.ErrNotExist) {
		if err := g.open(); err != nil {
			return 0, err
		}
		return 0, nil // no memory controller
	}
	return m["oom_kill"], err
}

// setDevices attaches the rules. Equal rules share one program in the kernel.
func (g *groupV2) setDevices(r *Resources) error {
	if len(r.Devices) == 0 {
		return nil
	}
	rules, err := device.Parse(r.Devices)
	if err != nil {
		return err
	}
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	key := rules.Hash()
	fd, ok := g.m.programs[key]
	if !ok {
		if fd, err = rules.Load(); err != nil {
			return err
		}
		if len(g.m.programs) >= maxPrograms {
			for k, old := range g.m.programs {
				unix.Close(old) // those attached live on
				delete(g.m.programs, k)
			}
		}
		g.m.programs[key] = fd
	}
	return device.Attach(g.dir, fd)
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
