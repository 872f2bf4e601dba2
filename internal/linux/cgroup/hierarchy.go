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
// cpuset and hugetlb directories appear when first asked for, and until then the
// group is in a cpuset that it shares with others (<parent>/wherry-shared). A group that may use
// every device has directories everywhere: who is in it may make groups below.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/scope"
)

// Driver says who makes the directories.
type Driver string

// The drivers, with docker's names.
const (
	Cgroupfs Driver = "cgroupfs"
	Systemd  Driver = "systemd"
)

// Resources is the caller's word for limits: the OCI structure.
type Resources = specs.LinuxResources

// Hierarchy is what Probe found. It may be used by several goroutines.
type Hierarchy struct {
	*machine
	driver Driver
}

// machine is shared by the drivers of one Hierarchy.
type machine struct {
	version  int
	mounts   map[string]mount // v1: by controller; name=systemd without the "name="
	root     mount            // v2
	features Features
	systemd  scope.Manager

	mu       sync.Mutex
	shared   map[string]set           // v1: device directory -> paths of the groups that join it
	made     set                      // directories made on the way to groups
	holders  map[string]*scope.Holder // systemd: by path, until the first process joins
	enabled  map[string]string        // v2: directory -> controllers known to be on for its children
	programs map[string]int           // v2: device rules -> descriptor of the loaded program
	pending  map[string]*removal      // by path
}

type set map[string]struct{}

// mount is where a v1 hierarchy, or the v2 one, is mounted.
type mount struct {
	dir  string // mount point
	root string // what of the hierarchy is seen there, "/" unless in a namespace
	name string // all controllers of it, "cpu,cpuacct"
}

// Probe reads once what this machine has.
func Probe() (*Hierarchy, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	m := &machine{
		mounts: map[string]mount{}, shared: map[string]set{}, enabled: map[string]string{}, made: set{},
		holders: map[string]*scope.Holder{}, programs: map[string]int{}, pending: map[string]*removal{},
	}
	for line := range strings.Lines(string(text)) {
		m.read(line)
	}
	switch {
	case m.mounts["memory"].dir != "" || m.mounts["pids"].dir != "" || m.mounts["cpu"].dir != "":
		m.version = 1
		m.features = m.featuresV1()
	case m.root.dir != "":
		m.version = 2
		m.features = m.featuresV2()
	default:
		return nil, errors.New("no cgroup hierarchy is mounted: mount cgroup2 at /sys/fs/cgroup")
	}
	return &Hierarchy{machine: m, driver: Cgroupfs}, nil
}

// read takes in a line of mountinfo. Of several mounts of one hierarchy the
// first wins, as it is the one below /sys/fs/cgroup.
func (m *machine) read(line string) {
	before, after, ok := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !ok || len(left) < 6 || len(right) < 3 {
		return
	}
	at := mount{dir: unescape(left[4]), root: unescape(left[3])}
	switch right[0] {
	case "cgroup2":
		if m.root.dir == "" {
			m.root = at
		}
	case "cgroup":
		var names []string
		for opt := range strings.SplitSeq(right[2], ",") {
			if name, ok := strings.CutPrefix(opt, "name="); ok {
				names = append(names, name)
			} else if _, known := controllersV1[opt]; known {
				names = append(names, opt)
			}
		}
		at.name = strings.Join(names, ",")
		for _, n := range names {
			if _, have := m.mounts[n]; !have {
				m.mounts[n] = at
			}
		}
	}
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Version is 1 or 2.
func (h *Hierarchy) Version() int { return h.version }

// Driver is who makes the directories.
func (h *Hierarchy) Driver() Driver { return h.driver }

// Features says what this kernel offers.
func (h *Hierarchy) Features() Features { return h.features }

// WithDriver returns the same hierarchy used through another driver, or an
// error that says what is missing on this machine.
func (h *Hierarchy) WithDriver(d Driver) (*Hierarchy, error) {
	switch d {
	case Cgroupfs:
	case Systemd:
		if err := h.systemd.Available(); err != nil {
			return nil, err
		}
	default:
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid cgroup driver %q: want cgroupfs or systemd", d))
	}
	return &Hierarchy{machine: h.machine, driver: d}, nil
}

// Create makes the group with these limits. The strings are warnings: limits
// that this kernel does not have and that were left out. A group that is being
// or to be removed under this path is removed first, see Removal.
func (h *Hierarchy) Create(p string, r *Resources) (*Group, []string, error) {
	if r == nil {
		r = &Resources{}
	}
	g, err := h.group(p)
	if err != nil {
		return nil, nil, err
	}
	h.vacate(g.path)
	if g.unit.Name != "" {
		if err := g.startUnit(r); err != nil {
			return nil, nil, fmt.Errorf("cgroup %s: %w", p, err)
		}
	}
	warnings, err := g.create(r)
	if err != nil {
		g.unitGone()
		return nil, nil, fmt.Errorf("cgroup %s: %w", p, err)
	}
	return g, warnings, nil
}

// Vacate removes the group that is being or to be removed under this path, if
// there is one: for a group that somebody else makes, not Create.
func (h *Hierarchy) Vacate(p string) error {
	g, err := h.group(p)
	if err != nil {
		return err
	}
	h.vacate(g.path)
	return nil
}

// Open finds an existing group again, also one that another process made. It
// is errdefs.ErrNotFound when there is none.
func (h *Hierarchy) Open(p string) (*Group, error) {
	g, err := h.group(p)
	if err != nil {
		return nil, err
	}
	if err := g.open(); err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", p, err)
	}
	return g, nil
}

// group gives the group of a path, which need not exist.
func (h *Hierarchy) group(p string) (*Group, error) {
	g := &Group{h: h, name: p}
	if h.driver == Systemd {
		var err error
		if g.unit, err = scope.Parse(p); err != nil {
			return nil, err
		}
		g.path = g.unit.Path
	} else {
		if g.path = path.Clean("/" + p); g.path == "/" || strings.Contains(p, "\x00") {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid cgroup path %q", p))
		}
	}
	if h.version == 1 {
		g.impl = &groupV1{m: h.machine, path: g.path, own: map[string]string{}}
	} else {
		g.impl = &groupV2{m: h.machine, path: g.path, dir: filepath.Join(h.root.dir, g.path)}
	}
	return g, nil
}

// Below lists the directories right below a parent, in any of the hierarchies:
// the last words of the paths of groups. A parent that does not exist has none.
func (h *Hierarchy) Below(parent string) ([]string, error) {
	var dirs []string
	if h.root.dir != "" {
		dirs = append(dirs, h.root.dir)
	}
	for _, m := range h.mounts {
		dirs = append(dirs, m.dir)
	}
	names := set{}
	for _, d := range dirs {
		entries, err := os.ReadDir(filepath.Join(d, path.Clean("/"+parent)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() {
				names[e.Name()] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// Clean removes what Create left beside the groups of this parent for sharing,
// and the parent with those above it that are empty. The empty parent stands
// for all directories that this process made on the way to groups. Groups in
// use stay; they are no error.
func (h *Hierarchy) Clean(parent string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if parent == "" {
		all := slices.Collect(maps.Keys(h.made))
		slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) }) // the deepest first
		for _, dir := range all {
			if err := h.clean(dir); err != nil && !errors.Is(err, unix.EBUSY) {
				return err
			}
		}
		return nil
	}
	if h.driver == Systemd {
		return nil // slices are systemd's
	}
	parent = path.Clean("/" + parent)
	roots := set{}
	if h.version == 2 {
		roots[h.root.dir] = struct{}{}
	}
	for _, m := range h.mounts {
		roots[m.dir] = struct{}{}
	}
	for root := range roots {
		for d := filepath.Join(root, parent); d != root; d = filepath.Dir(d) {
			if err := h.clean(d); errors.Is(err, unix.EBUSY) {
				break
			} else if err != nil {
				return err
			}
		}
	}
	return nil
}

// clean removes a directory that has no groups but shared ones that nobody
// uses; else it is unix.EBUSY. Called with m.mu held.
func (m *machine) clean(dir string) error {
	shared, err := filepath.Glob(filepath.Join(dir, devicesPrefix+"*"))
	if err != nil {
		return err
	}
	for _, d := range append(shared, filepath.Join(dir, sharedName), dir) {
		if len(m.shared[d]) > 0 {
			return unix.EBUSY
		}
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
			if errors.Is(err, unix.EBUSY) && d != dir {
				continue // in use by a group of an earlier engine
			}
			return &os.PathError{Op: "rmdir", Path: d, Err: err}
		}
		delete(m.made, d)
		delete(m.enabled, d)
	}
	return nil
}

// Drain waits for the removals that go on in the background, and says which
// groups could not be removed.
func (h *Hierarchy) Drain(ctx context.Context) error {
	h.mu.Lock()
	var all []*removal
	for _, r := range h.pending {
		all = append(all, r)
	}
	h.mu.Unlock()
	var errs []error
	for _, r := range all {
		select {
		case <-r.done:
			errs = append(errs, r.err)
		case <-ctx.Done():
			return fmt.Errorf("cgroup %s is still being removed: %w", r.g.name, context.Cause(ctx))
		}
	}
	return errors.Join(errs...)
}
