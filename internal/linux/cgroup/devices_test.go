package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/test/promise"
)

func rule(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	r := specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Access: access}
	if major >= 0 {
		r.Major = &major
	}
	if minor >= 0 {
		r.Minor = &minor
	}
	return r
}

// dockerDevices is what docker and runc allow to everyone.
func dockerDevices() []specs.LinuxDeviceCgroup {
	out := []specs.LinuxDeviceCgroup{rule(false, "", -1, -1, "rwm"), rule(true, "c", -1, -1, "m"), rule(true, "b", -1, -1, "m")}
	for _, n := range [][2]int64{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 1}, {5, 2}, {136, -1}} {
		out = append(out, rule(true, "c", n[0], n[1], "rwm"))
	}
	return out
}

// TestDevices opens real devices from within groups.
func TestDevices(t *testing.T) {
	both(t, func(t *testing.T, h *Hierarchy) {
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil { // where device nodes work
			t.Fatal(err)
		}
		defer unix.Unmount(dir, unix.MNT_DETACH)
		node := func(name string, major, minor uint32) string {
			p := filepath.Join(dir, name)
			if err := unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(major, minor))); err != nil {
				t.Fatal(err)
			}
			return p
		}
		null, kmsg, random := node("null", 1, 3), node("kmsg", 1, 11), node("random", 1, 8)
		paths := strings.Join([]string{null, kmsg, random}, ",")
		g := fresh(t, h, &Resources{Devices: dockerDevices()})
		c := spawn(t, g, "open "+paths)
		expect := func(c *child, want ...error) {
			t.Helper()
			got := c.line(t)
			for i, p := range []string{null, kmsg, random} {
				text := p + "=<nil>"
				if want[i] != nil {
					text = p + "=" + want[i].Error()
				}
				if !strings.Contains(got, text) {
					t.Errorf("%s, want %s", got, text)
				}
			}
		}
		expect(c, nil, unix.EPERM, nil)
		// With one device more, while it runs.
		if _, err := g.Set(&Resources{Devices: append(dockerDevices(), rule(true, "c", 1, 11, "r"))}); err != nil {
			t.Fatal(err)
		}
		c.in.Write([]byte("\n"))
		expect(c, nil, nil, nil)
		if _, err := g.Set(&Resources{Devices: []specs.LinuxDeviceCgroup{rule(false, "a", -1, -1, "rwm"), rule(true, "c", 1, 11, "rwm")}}); err != nil {
			t.Fatal(err)
		}
		c.in.Write([]byte("\n"))
		expect(c, unix.EPERM, nil, unix.EPERM)
		if _, err := g.Set(&Resources{Devices: []specs.LinuxDeviceCgroup{rule(true, "a", -1, -1, "rwm")}}); err != nil {
			t.Fatal(err)
		}
		c.in.Write([]byte("\n"))
		expect(c, nil, nil, nil)
		// All but one, and all but one way of access.
		free := fresh(t, h, &Resources{Devices: []specs.LinuxDeviceCgroup{rule(true, "a", -1, -1, "rwm"), rule(false, "c", 1, 11, "rwm"), rule(false, "c", 1, 3, "w")}})
		expect(spawn(t, free, "open "+paths), nil, unix.EPERM, nil)
		// No rules at all.
		expect(spawn(t, fresh(t, h, nil), "open "+paths), nil, nil, nil)
	})
}

func TestSharedDevices(t *testing.T) {
	h := hierarchy(t)
	if h.Version() != 1 {
		promise.Lacks(t, "cgroup1", "v1 only")
	}
	at := func(g *Group) string {
		for _, c := range g.Controllers() {
			if c.Name == h.mounts["devices"].name {
				if c.Own {
					t.Error("a device directory of its own")
				}
				return c.Dir
			}
		}
		return ""
	}
	a, b := fresh(t, h, &Resources{Devices: dockerDevices()}), fresh(t, h, &Resources{Devices: dockerDevices()})
	if at(a) == "" || at(a) != at(b) {
		t.Errorf("%q and %q", at(a), at(b))
	}
	if err := h.Clean(parentOfTests); err != nil {
		t.Error(err)
	}
	if !exists(at(a)) {
		t.Error("clean removed what a group uses")
	}
	free := fresh(t, h, &Resources{Devices: []specs.LinuxDeviceCgroup{rule(true, "a", -1, -1, "rwm")}})
	// What one that may do everything has made below goes with it, everywhere.
	for _, m := range h.mounts {
		if err := os.MkdirAll(filepath.Join(m.dir, free.Path(), "sub", "deep"), 0o755); err != nil {
			t.Error(err)
		}
	}
	if err := free.Remove(); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob("/sys/fs/cgroup/*" + free.Path()); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
	again, err := h.Open(a.Path()) // whoever removes it, it counts
	if err != nil {
		t.Fatal(err)
	}
	dir := at(a)
	if err := again.Remove(); err != nil {
		t.Error(err)
	}
	if len(h.shared[dir]) != 1 {
		t.Errorf("%d users after one of two was removed", len(h.shared[dir]))
	}
	list, err := os.ReadFile(filepath.Join(at(b), "devices.list"))
	if err != nil || !strings.Contains(string(list), "c 1:3 rwm") || strings.Contains(string(list), "a *:*") {
		t.Errorf("%s, %v", list, err)
	}
}

// A group without limits is in a cpuset all the same.
func TestSharedRest(t *testing.T) {
	h := hierarchy(t)
	if h.Version() != 1 {
		promise.Lacks(t, "cgroup1", "v1 only")
	}
	plain := fresh(t, h, &Resources{Devices: dockerDevices()})
	limited := fresh(t, h, &Resources{Devices: dockerDevices(), CPU: &specs.LinuxCPU{Cpus: "0"}})
	for name, g := range map[string]*Group{"plain": plain, "limited": limited} {
		var dirs []string
		for _, c := range g.Controllers() {
			dirs = append(dirs, c.Dir)
			if own := strings.HasSuffix(c.Dir, g.path); own != c.Own {
				t.Errorf("%s: %+v", name, c)
			}
			if c.Name == "cpuset" && c.Own != (g == limited) {
				t.Errorf("%s: %+v", name, c)
			}
		}
		if !slices.ContainsFunc(dirs, func(d string) bool { return strings.HasPrefix(d, h.mounts["cpuset"].dir+"/") }) {
			t.Errorf("%s is in no cpuset: %v", name, dirs)
		}
		for _, f := range g.Tasks() {
			if filepath.Base(filepath.Dir(f)) == sharedName && !strings.HasPrefix(f, h.mounts["cpuset"].dir+"/") {
				t.Errorf("%s joins %s", name, f)
			}
		}
	}
	dir := filepath.Join(h.mounts["cpuset"].dir, parentOfTests, sharedName)
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		want, err := read(filepath.Join(h.mounts["cpuset"].dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := read(filepath.Join(dir, file)); err != nil || got != want || got == "" {
			t.Errorf("%s is %q, above %q: %v", file, got, want, err)
		}
	}
	if err := h.Clean(parentOfTests); err != nil {
		t.Error(err)
	}
	if !exists(dir) {
		t.Error("clean removed what a group uses")
	}

	// A process in it tells another engine where it is; it gets a cpuset of its
	// own when it gets a limit.
	c := spawn(t, plain, "wait")
	c.line(t)
	again, err := h.Open(plain.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { discard(t, h, again) }) // it knows of the cpuset, the other one does not
	if _, err := again.Set(&Resources{CPU: &specs.LinuxCPU{Cpus: "0"}}); err != nil {
		t.Fatal(err)
	}
	if at, err := pathOf(c.Process.Pid, h.mounts["cpuset"], "cpuset"); err != nil || at != plain.path {
		t.Errorf("it is in %s, %v", at, err)
	}
}

func TestClean(t *testing.T) {
	both(t, func(t *testing.T, h *Hierarchy) {
		p := parentOfTests + "/user/made"
		g, _, err := h.Create(p+"/g", &Resources{Devices: dockerDevices()})
		if err != nil {
			t.Fatal(err)
		}
		made := func() []string {
			a, _ := filepath.Glob("/sys/fs/cgroup/*" + parentOfTests + "/user")
			b, _ := filepath.Glob("/sys/fs/cgroup" + parentOfTests + "/user")
			return append(a, b...)
		}
		if err := h.Clean(""); err != nil {
			t.Error(err)
		}
		if len(made()) == 0 {
			t.Error("cleaned while in use")
		}
		discard(t, h, g)
		if err := h.Clean(""); err != nil {
			t.Error(err)
		}
		if left := made(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// TestNewAbove joins a cpuset below one that another start has made but not
// filled yet: none of its processes could join it otherwise.
func TestNewAbove(t *testing.T) {
	h := hierarchy(t)
	if h.Version() != 1 {
		promise.Lacks(t, "cgroup1", "v1 only")
	}
	for name, r := range map[string]*Resources{"shared": {Devices: dockerDevices()}, "own": {Devices: dockerDevices(), CPU: &specs.LinuxCPU{Cpus: "0"}}} {
		above := fmt.Sprintf("%s/new%d", parentOfTests, serial.Add(1))
		dir := filepath.Join(h.mounts["cpuset"].dir, above)
		if err := os.MkdirAll(filepath.Join(dir, "between"), 0o755); err != nil {
			t.Fatal(err)
		}
		if v, err := read(filepath.Join(dir, "cpuset.cpus")); v != "" || err != nil {
			t.Fatalf("a new cpuset has %q, %v", v, err)
		}
		t.Cleanup(func() {
			for _, m := range h.mounts {
				os.Remove(filepath.Join(m.dir, above, "between")) // some have none
				os.Remove(filepath.Join(m.dir, above))
			}
		})
		g, _, err := h.Create(above+"/between/g", r)
		if err != nil {
			t.Fatal(name, err)
		}
		t.Cleanup(func() {
			discard(t, h, g)
			if err := h.Clean(above + "/between"); err != nil {
				t.Error(err)
			}
		})
		c := spawn(t, g, "wait")
		c.line(t)
	}
}
