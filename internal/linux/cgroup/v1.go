package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/device"
	"github.com/wherry-engine/wherry/internal/linux/scope"
)

// controllersV1 are the kernel's names; the value says that each group has a
// directory there from the start: for its limits, for its counters, and so that
// groups compete as groups and not by their number of threads.
var controllersV1 = map[string]bool{
	"memory": true, "cpu": true, "cpuacct": true, "pids": true,
	"cpuset": false, "blkio": false, "freezer": false, "devices": false, "hugetlb": false,
	"net_cls": false, "net_prio": false, "perf_event": false, "rdma": false, "misc": false, "debug": false,
}

// devicesPrefix starts the name of a directory of shared device rules.
const devicesPrefix = "devices-"

// groupV1 is a group under several hierarchies.
type groupV1 struct {
	m    *machine
	path string
	unit bool // systemd made some of the directories

	mu      sync.Mutex
	own     map[string]string // mount point -> directory
	devices string            // the directory joined for device rules, "" for none
	shared  map[string]string // mount point -> directory of those without limits there
	kept    *kept             // for Keep
}

func notFound(path string) error {
	return errdefs.ErrNotFound.WithMessage("no cgroup " + path)
}

// in gives the group's directory under a controller, "" if it has none there.
func (g *groupV1) in(controller string) string {
	return g.own[g.m.mounts[controller].dir]
}

// at makes sure that the group has a directory under a controller, and is ""
// when the controller is not mounted.
func (g *groupV1) at(controller string) (string, error) {
	mount, ok := g.m.mounts[controller]
	if !ok {
		return "", nil
	}
	if dir, ok := g.own[mount.dir]; ok {
		return dir, nil
	}
	dir := filepath.Join(mount.dir, g.path)
	g.own[mount.dir] = dir
	var made func(string) error
	switch controller {
	case "cpuset":
		made = fillCpuset
	case "memory":
		made = func(dir string) error {
			// Before Linux 5.11 limits of a parent do not count by themselves.
			file := filepath.Join(dir, "memory.use_hierarchy")
			if v, err := read(file); err == nil && v == "0" {
				return write(file, "1")
			}
			return nil
		}
	}
	err := g.m.mkdirs(dir, made)
	if errors.Is(err, unix.EEXIST) && g.unit {
		err = nil // systemd's work
	} else if errors.Is(err, unix.EEXIST) {
		// Left by an engine that died, or not yet empty after a stop.
		if err = removeTree(dir); err == nil {
			err = g.m.mkdirs(dir, made)
		}
	}
	if err != nil {
		return "", err
	}
	if controller == "cpuset" {
		return dir, fillCpuset(dir)
	}
	return dir, nil
}

// fillCpuset gives a new cpuset its parent's processors and memory nodes:
// without them nothing can join. The parent may be as new, made by another start
// that has not come that far.
func fillCpuset(dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := read(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		if have != "" {
			continue
		}
		parent, err := parentCpuset(dir, file)
		if err != nil {
			return err
		}
		if err := write(filepath.Join(dir, file), parent); err != nil {
			return err
		}
	}
	return nil
}

// parentCpuset reads a file of the cpuset above, which has something in it then.
func parentCpuset(dir, file string) (string, error) {
	above := filepath.Dir(dir)
	text, err := read(filepath.Join(above, file))
	if err != nil || text != "" {
		return text, err
	}
	if err := fillCpuset(above); err != nil {
		return "", err
	}
	return read(filepath.Join(above, file))
}

func (g *groupV1) make(r *Resources) ([]string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.own)
	for _, c := range []string{"memory", "cpu", "cpuacct", "pids"} {
		if g.in(c) != "" {
			continue // mounted together with one that was just made
		}
		if _, err := g.at(c); err != nil {
			return nil, err
		}
	}
	if rules, err := device.Parse(r.Devices); err == nil && len(r.Devices) > 0 && rules.Unrestricted() {
		// Who may use every device may make groups, too: they must be below its own
		// under every controller, to go with it.
		for _, c := range slices.Sorted(maps.Keys(g.m.mounts)) {
			if _, err := g.at(c); err != nil {
				return nil, err
			}
		}
		return g.apply(r)
	}
	if err := g.joinDevices(r); err != nil {
		return nil, err
	}
	warnings, err := g.apply(r)
	if err == nil {
		err = g.shareCpuset()
	}
	return warnings, err
}

func (g *groupV1) open() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, mount := range g.m.mounts {
		if dir := filepath.Join(mount.dir, g.path); exists(dir) {
			g.own[mount.dir] = dir
		}
	}
	if len(g.own) == 0 {
		return notFound(g.path)
	}
	list, err := pids(filepath.Join(g.anchorDir(), "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, pid := range list {
		if g.found(pid) {
			break
		}
	}
	return nil
}

// pathOf reads where a process is, below the mount. The empty controller is v2.
func pathOf(pid int, m mount, controller string) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	if at, ok := pathIn(text, m, controller); ok {
		return at, nil
	}
	return "", fmt.Errorf("process %d is in no cgroup of %q", pid, controller)
}

// pathIn is pathOf for a text of /proc/PID/cgroup.
func pathIn(text []byte, m mount, controller string) (string, bool) {
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && slices.Contains(strings.Split(strings.TrimPrefix(f[1], "name="), ","), controller) {
			if m.root == "/" {
				return f[2], true
			}
			return "/" + strings.TrimPrefix(strings.TrimPrefix(f[2], m.root), "/"), true
		}
	}
	return "", false
}

// joinDevices chooses the directory for the group's device rules, made when it
// is the first of its kind. It stays, once made, until Clean: making one costs
// a dozen writes.
func (g *groupV1) joinDevices(r *Resources) error {
	mount, ok := g.m.mounts["devices"]
	if !ok || len(r.Devices) == 0 {
		return nil
	}
	rules, err := device.Parse(r.Devices)
	if err != nil {
		return err
	}
	if g.devices != "" {
		g.leave(g.devices)
	}
	if own := g.in("devices"); own != "" && !g.unit {
		return rules.WriteV1(own)
	}
	parent := filepath.Join(mount.dir, path.Dir(g.path))
	if rules.Unrestricted() {
		// What the parent may do: all, unless someone else has limited it.
		if err := g.m.mkdirs(parent, nil); err == nil {
			g.m.remember(parent)
		} else if !errors.Is(err, unix.EEXIST) {
			return err
		}
		g.devices = parent
		return nil
	}
	dir := filepath.Join(parent, devicesPrefix+rules.Hash())
	g.use(dir)
	if err := g.shareDevices(dir, rules); err != nil {
		g.leave(dir)
		return err
	}
	g.devices = dir
	return nil
}

// shareDevices makes the directory of these rules if it is not there. Under its
// name it is always complete: others may use it at once.
func (g *groupV1) shareDevices(dir string, rules *device.Rules) error {
	if exists(dir) {
		return nil
	}
	draft := fmt.Sprintf("%s.%d-%s", dir, os.Getpid(), path.Base(g.path))
	if err := g.m.mkdirs(draft, nil); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	err := rules.WriteV1(draft)
	if err == nil {
		err = os.Rename(draft, dir)
	}
	if err != nil {
		_ = unix.Rmdir(draft) // the error before it is the news
		if !exists(dir) {
			return err
		}
	}
	g.m.remember(dir)
	return nil
}

func (g *groupV1) controllers() []Controller {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []Controller
	names := map[string]string{}
	for _, m := range g.m.mounts {
		names[m.dir] = m.name
	}
	for _, at := range slices.Sorted(maps.Keys(g.own)) {
		out = append(out, Controller{Name: names[at], Dir: g.own[at], Own: true})
	}
	if g.devices != "" {
		out = append(out, Controller{Name: g.m.mounts["devices"].name, Dir: g.devices})
	}
	for _, at := range slices.Sorted(maps.Keys(g.shared)) {
		if g.own[at] == "" {
			out = append(out, Controller{Name: names[at], Dir: g.shared[at]})
		}
	}
	// Where systemd runs, processes must leave the cgroup of the service that
	// started them, or they are killed with it.
	if m, ok := g.m.mounts["systemd"]; ok && g.own[m.dir] == "" && scope.Running() {
		parent := filepath.Join(m.dir, path.Dir(g.path))
		err := g.m.mkdirs(parent, nil)
		if err == nil {
			g.m.remember(parent)
		}
		if err == nil || errors.Is(err, unix.EEXIST) {
			out = append(out, Controller{Name: m.name, Dir: parent})
		}
	}
	return out
}

func (g *groupV1) add(pid int) error {
	for _, c := range g.controllers() {
		if err := writeInt(filepath.Join(c.Dir, "cgroup.procs"), pid); err != nil {
			return err
		}
	}
	return nil
}

func (g *groupV1) anchor() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.anchorDir()
}

func (g *groupV1) anchorDir() string {
	for _, c := range []string{"memory", "pids", "cpu", "cpuacct"} {
		if dir := g.in(c); dir != "" {
			return dir
		}
	}
	return filepath.Join(g.m.mounts["memory"].dir, g.path)
}

func (g *groupV1) dirs() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Sorted(maps.Values(g.own))
}

// gather brings all threads of the group into dir, which was made after they
// started. Threads that they start meanwhile are found in the next round.
func (g *groupV1) gather(dir string) error {
	tried := map[int]bool{}
	for range 100 {
		all, err := below(g.anchorDir())
		if errors.Is(err, os.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		there, err := pids(filepath.Join(dir, "tasks"))
		if err != nil {
			return err
		}
		news := false
		for _, d := range all {
			list, err := pids(filepath.Join(d, "tasks"))
			if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
				return err
			}
			for _, tid := range list {
				if slices.Contains(there, tid) || tried[tid] {
					continue
				}
				// One that is ending stays where it is, whatever the kernel answers.
				tried[tid] = true
				err := writeInt(filepath.Join(dir, "tasks"), tid)
				if err != nil && !errors.Is(err, unix.ESRCH) {
					return err
				}
				news = true
			}
		}
		if !news {
			return nil
		}
	}
	return fmt.Errorf("%s: processes multiply faster than they can be moved", dir)
}

// freezeWait bounds how long a group may take to stop; thawEvery is after how
// many looks its processes get a moment to run.
const (
	freezeWait = 10 * time.Second
	thawEvery  = 25
)

func (g *groupV1) freeze(on bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !on {
		if dir := g.in("freezer"); dir != "" {
			return write(filepath.Join(dir, "freezer.state"), "THAWED")
		}
		return nil
	}
	known := g.in("freezer") != ""
	dir, err := g.at("freezer")
	if err != nil {
		return err
	}
	if dir == "" {
		return errdefs.ErrNotImplemented.WithMessage("no freezer cgroup is mounted")
	}
	state := filepath.Join(dir, "freezer.state")
	if err := write(state, "FROZEN"); err != nil {
		return err
	}
	if !known {
		// What is moved into a frozen group stops: the rounds come to an end.
		if err := g.gather(dir); err != nil {
			return err
		}
	}
	// There is no event for this file; reading it is what updates it. A process
	// that came by a fork or a move just then may be passed by: saying it again
	// reaches it, and one that is stuck half-way needs to go on for a moment.
	deadline := time.Now().Add(freezeWait)
	for n, pause := 1, 20*time.Microsecond; ; n, pause = n+1, min(2*pause, 10*time.Millisecond) {
		s, err := read(state)
		if err != nil {
			return err
		}
		if s == "FROZEN" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is still %q after %v", state, s, freezeWait)
		}
		time.Sleep(pause)
		if n%thawEvery == 0 {
			if err := write(state, "THAWED"); err != nil {
				return err
			}
		}
		if err := write(state, "FROZEN"); err != nil {
			return err
		}
	}
}

func (g *groupV1) frozen() (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	dir := g.in("freezer")
	if dir == "" {
		return false, nil
	}
	s, err := read(filepath.Join(dir, "freezer.self_freezing"))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return s == "1", err
}

// kill only sees to it that nothing is started any more; the signals are sent
// one by one.
func (g *groupV1) kill() (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if dir := g.in("pids"); dir != "" {
		if err := write(filepath.Join(dir, "pids.max"), "0"); err != nil && !errors.Is(err, unix.ENOENT) {
			return false, err
		}
	}
	return false, nil
}
