package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/scope"
	"github.com/wherry-engine/wherry/test/promise"
)

// parentOfTests holds all groups of this run.
var parentOfTests = fmt.Sprintf("/wherry-test-%d", os.Getpid())

func TestMain(m *testing.M) {
	if mode := os.Getenv("WHERRY_CGROUP_HELPER"); mode != "" {
		helper(mode)
	}
	code := m.Run()
	if h, err := Probe(); err == nil && os.Getuid() == 0 {
		for _, at := range []*Hierarchy{h, unifiedOf(h)} {
			if at == nil {
				continue
			}
			if err := at.Clean(parentOfTests); err != nil {
				fmt.Fprintln(os.Stderr, "clean:", err)
				code = 1
			}
		}
		left, _ := filepath.Glob("/sys/fs/cgroup/*" + parentOfTests)
		more, _ := filepath.Glob("/sys/fs/cgroup" + parentOfTests)
		if left = append(left, more...); len(left) > 0 {
			fmt.Fprintln(os.Stderr, "left behind:", left)
			code = 1
		}
	}
	os.Exit(code)
}

// helper is what the test binary does inside a group.
func helper(mode string) {
	runtime.LockOSThread()
	if join := os.Getenv("WHERRY_CGROUP_JOIN"); join != "" {
		// Only the calling thread joins; exec leaves no other.
		for _, f := range strings.Split(join, ":") {
			if err := os.WriteFile(f, []byte("0"), 0); err != nil {
				fmt.Println("join:", err)
				os.Exit(1)
			}
		}
		os.Unsetenv("WHERRY_CGROUP_JOIN")
		fmt.Println(unix.Exec("/proc/self/exe", os.Args, os.Environ()))
		os.Exit(1)
	}
	mode, arg, _ := strings.Cut(mode, " ")
	switch mode {
	case "wait":
		fmt.Println("ready")
		bufio.NewReader(os.Stdin).ReadString('\n')
	case "spin":
		fmt.Println("ready")
		for { //nolint:staticcheck // what it is for
		}
	case "hog":
		n, _ := strconv.Atoi(arg)
		mem := make([]byte, n)
		for i := 0; i < n; i += 4096 {
			mem[i] = 1
		}
		fmt.Println("filled", len(mem))
	case "forks": // how many processes can there be
		n := 0
		for ; n < 200; n++ {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), "WHERRY_CGROUP_HELPER=wait")
			cmd.Stdin, _, _ = os.Pipe()
			if err := cmd.Start(); err != nil {
				break
			}
		}
		fmt.Println("forks", n)
		bufio.NewReader(os.Stdin).ReadString('\n')
	case "bomb": // children that make children
		for i := 0; ; i++ {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = os.Environ()
			cmd.Start()
			if i == 0 {
				fmt.Println("ready")
			}
			time.Sleep(time.Millisecond)
		}
	case "open": // each path with O_RDONLY; the answers on one line each, again for every input line
		in := bufio.NewReader(os.Stdin)
		for {
			var out []string
			for _, p := range strings.Split(arg, ",") {
				fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK, 0)
				if err == nil {
					unix.Close(fd)
				}
				out = append(out, fmt.Sprint(p, "=", err))
			}
			fmt.Println(strings.Join(out, " "))
			if _, err := in.ReadString('\n'); err != nil {
				break
			}
		}
	case "cpus":
		var set unix.CPUSet
		unix.SchedGetaffinity(0, &set)
		fmt.Println("cpus", set.Count())
	case "write":
		f, err := os.CreateTemp(arg, "wherry-io")
		if err == nil {
			os.Remove(f.Name())
			f.Write(make([]byte, 1<<20))
			err = f.Sync()
		}
		fmt.Println("written", err)
		bufio.NewReader(os.Stdin).ReadString('\n')
	}
	os.Exit(0)
}

// child is a helper in a group.
type child struct {
	*exec.Cmd
	out *bufio.Reader
	in  interface{ Write([]byte) (int, error) }
}

func spawn(t *testing.T, g *Group, mode string) *child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "WHERRY_CGROUP_HELPER="+mode)
	if tasks := g.Tasks(); tasks != nil {
		cmd.Env = append(cmd.Env, "WHERRY_CGROUP_JOIN="+strings.Join(tasks, ":"))
	} else {
		fd, err := unix.Open(g.Dir(), unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return &child{cmd, bufio.NewReader(stdout), stdin}
}

func (c *child) line(t *testing.T) string {
	t.Helper()
	s, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatalf("helper: %q, %v", s, err)
	}
	return strings.TrimSpace(s)
}

// hierarchy is the machine's own, or a skip. unifiedOf is the v2 hierarchy that
// a v1 machine has beside.
func hierarchy(t testing.TB) *Hierarchy {
	t.Helper()
	promise.Root(t)
	h, err := Probe()
	if err != nil {
		promise.Lacks(t, "cgroup", err)
	}
	if promise.Made("cgroup2") && h.Version() != 2 {
		t.Fatalf("cgroup v2 is required, this is v%d", h.Version())
	}
	return h
}

func unifiedOf(h *Hierarchy) *Hierarchy {
	if h.version == 2 || h.root.dir == "" {
		return nil
	}
	m := &machine{version: 2, root: h.root, made: set{}, holders: map[string]*scope.Holder{}, enabled: map[string]string{}, programs: map[string]int{}, pending: map[string]*removal{}}
	m.features = m.featuresV2()
	return &Hierarchy{machine: m, driver: Cgroupfs}
}

// both runs fn on the machine's hierarchy, and on the v2 one that may be beside
// it and has no controllers.
func both(t *testing.T, fn func(t *testing.T, h *Hierarchy)) {
	h := hierarchy(t)
	t.Run(fmt.Sprintf("v%d", h.Version()), func(t *testing.T) { fn(t, h) })
	if u := unifiedOf(h); u != nil {
		t.Run("unified", func(t *testing.T) { fn(t, u) })
	}
}

var serial atomic.Int64

// fresh makes a group that is gone when the test ends.
func fresh(t testing.TB, h *Hierarchy, r *Resources) *Group {
	t.Helper()
	g, warnings, err := h.Create(fmt.Sprintf("%s/g%d", parentOfTests, serial.Add(1)), r)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range warnings {
		t.Log("warning:", w)
	}
	t.Cleanup(func() { discard(t, h, g) })
	return g
}

func discard(t testing.TB, h *Hierarchy, g *Group) {
	t.Helper()
	if err := g.Kill(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := h.Drain(ctx); err != nil {
		t.Error(err)
	}
	for _, d := range g.impl.dirs() {
		if exists(d) {
			t.Errorf("%s is left", d)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// value reads a limit back: the v1 file or the v2 file.
func value(t *testing.T, g *Group, v1, v2 string) string {
	t.Helper()
	dir, file := g.Dir(), v2
	if dir == "" {
		c, _, _ := strings.Cut(v1, ".")
		dir, file = g.impl.(*groupV1).in(c), v1
	}
	s, err := read(filepath.Join(dir, file))
	if err != nil {
		t.Error(err)
	}
	return s
}

func TestLimits(t *testing.T) {
	h := hierarchy(t)
	g := fresh(t, h, &Resources{
		Memory: &specs.LinuxMemory{Limit: ptr[int64](64 << 20), Swap: ptr[int64](96 << 20), Reservation: ptr[int64](32 << 20), Kernel: ptr[int64](1 << 20)}, //nolint:staticcheck // deprecated, and what is warned of
		CPU:    &specs.LinuxCPU{Shares: ptr[uint64](512), Quota: ptr[int64](50000), Period: ptr[uint64](100000), Cpus: "0", Mems: "0"},
		Pids:   &specs.LinuxPids{Limit: ptr[int64](30)},
	})
	v1 := h.Version() == 1
	check := func(v1file, v1want, v2file, v2want string) {
		t.Helper()
		want := v2want
		if v1 {
			want = v1want
		}
		if got := value(t, g, v1file, v2file); got != want {
			t.Errorf("%s or %s: %q, want %q", v1file, v2file, got, want)
		}
	}
	check("memory.limit_in_bytes", fmt.Sprint(64<<20), "memory.max", fmt.Sprint(64<<20))
	if h.Features().MemorySwap {
		check("memory.memsw.limit_in_bytes", fmt.Sprint(96<<20), "memory.swap.max", fmt.Sprint(32<<20))
	}
	check("memory.soft_limit_in_bytes", fmt.Sprint(32<<20), "memory.low", fmt.Sprint(32<<20))
	check("cpu.shares", "512", "cpu.weight", "59")
	check("cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000")
	check("cpuset.cpus", "0", "cpuset.cpus", "0")
	check("cpuset.mems", "0", "cpuset.mems", "0")
	check("pids.max", "30", "pids.max", "30")

	// A live update: only what is given changes, up and down.
	for _, limit := range []int64{200 << 20, 40 << 20} {
		if _, err := g.Set(&Resources{Memory: &specs.LinuxMemory{Limit: ptr(limit), Swap: ptr(2 * limit)}}); err != nil {
			t.Fatal(err)
		}
		check("memory.limit_in_bytes", fmt.Sprint(limit), "memory.max", fmt.Sprint(limit))
	}
	if _, err := g.Set(&Resources{CPU: &specs.LinuxCPU{Quota: ptr[int64](-1)}, Pids: &specs.LinuxPids{Limit: ptr[int64](-1)}}); err != nil {
		t.Fatal(err)
	}
	check("cpu.cfs_quota_us", "-1", "cpu.max", "max 100000")
	check("pids.max", "max", "pids.max", "max")
	if _, err := g.Set(&Resources{CPU: &specs.LinuxCPU{Period: ptr[uint64](50000)}}); err != nil {
		t.Fatal(err)
	}
	check("cpu.cfs_period_us", "50000", "cpu.max", "max 50000")
	if _, err := g.Set(&Resources{Memory: &specs.LinuxMemory{Limit: ptr[int64](-1)}}); err != nil {
		t.Fatal(err)
	}
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.Memory.Limit != unlimited {
		t.Errorf("limit %d after it was lifted", s.Memory.Limit)
	}
}

func TestWarnings(t *testing.T) {
	h := hierarchy(t)
	_, warnings, err := func() (*Group, []string, error) {
		g, w, err := h.Create(parentOfTests+"/warn", &Resources{Memory: &specs.LinuxMemory{Limit: ptr[int64](64 << 20), Kernel: ptr[int64](1 << 25), KernelTCP: ptr[int64](1 << 25)}}) //nolint:staticcheck // deprecated, and what is warned of
		if err == nil {
			defer discard(t, h, g)
		}
		return g, w, err
	}()
	if err != nil || len(warnings) != 1 || warnings[0] != noKernelMem {
		t.Errorf("kernel memory: %q, %v", warnings, err)
	}
}

func TestErrors(t *testing.T) {
	h := hierarchy(t)
	for _, c := range []struct {
		r    *Resources
		want []string
	}{
		{&Resources{CPU: &specs.LinuxCPU{Cpus: "999"}}, []string{"cpuset.cpus", `"999"`}},
		{&Resources{CPU: &specs.LinuxCPU{Quota: ptr[int64](10)}}, []string{"cpu", `"10`}},
		{&Resources{Devices: []specs.LinuxDeviceCgroup{{Type: "x", Access: "r"}}}, []string{`invalid device type "x"`}},
		{&Resources{Devices: []specs.LinuxDeviceCgroup{{Type: "c", Access: "q"}}}, []string{`invalid device access "q"`}},
	} {
		g, _, err := h.Create(parentOfTests+"/bad", c.r)
		if err == nil {
			t.Errorf("%+v: no error", c.r)
			discard(t, h, g)
			continue
		}
		for _, w := range append(c.want, parentOfTests+"/bad") {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q does not name %s", err, w)
			}
		}
		if left, _ := filepath.Glob("/sys/fs/cgroup/*" + parentOfTests + "/bad"); len(left) > 0 {
			t.Errorf("left after %v: %v", err, left)
		}
	}
	if h.Version() == 1 {
		_, _, err := h.Create(parentOfTests+"/bad", &Resources{CPU: &specs.LinuxCPU{Shares: ptr[uint64](1)}})
		if err == nil || !strings.Contains(err.Error(), "the minimum allowed cpu-shares is 2") {
			t.Errorf("shares 1: %v", err)
		}
	}
	if _, err := h.Open(parentOfTests + "/none"); !errdefs.IsNotFound(err) {
		t.Errorf("open a group that is not there: %v", err)
	}
	if _, _, err := h.Create("/", nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("create the root: %v", err)
	}
	if _, err := h.WithDriver("cgroups"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("unknown driver: %v", err)
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		if _, err := h.WithDriver(Systemd); err == nil || !strings.Contains(err.Error(), "/run/systemd/system") {
			t.Errorf("systemd driver without systemd: %v", err)
		}
	}
}

func TestOOM(t *testing.T) {
	h := hierarchy(t)
	g := fresh(t, h, &Resources{Memory: &specs.LinuxMemory{Limit: ptr[int64](32 << 20), Swap: ptr[int64](32 << 20)}})
	if n, err := g.OOMKills(); n != 0 || err != nil {
		t.Fatalf("before: %d, %v", n, err)
	}
	c := spawn(t, g, fmt.Sprint("hog ", 256<<20))
	err := c.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("hog: %v", err)
	}
	if n, err := g.OOMKills(); n == 0 || err != nil {
		t.Errorf("after: %d, %v", n, err)
	}
	s, err := g.Stats()
	if err != nil || s.Memory.MaxUsage < 31<<20 || s.Memory.Limit != 32<<20 {
		t.Errorf("stats %+v, %v", s, err)
	}
}

func TestPids(t *testing.T) {
	h := hierarchy(t)
	g := fresh(t, h, &Resources{Pids: &specs.LinuxPids{Limit: ptr[int64](40)}})
	c := spawn(t, g, "forks")
	got, _ := strconv.Atoi(strings.TrimPrefix(c.line(t), "forks "))
	if got == 0 || got >= 40 {
		t.Errorf("%d forks with a limit of 40", got)
	}
	s, err := g.Stats()
	if err != nil || s.Pids.Limit != 40 || s.Pids.Current == 0 || s.Pids.Current > 40 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestCPUQuota(t *testing.T) {
	h := hierarchy(t)
	g := fresh(t, h, &Resources{CPU: &specs.LinuxCPU{Quota: ptr[int64](5000), Period: ptr[uint64](10000)}})
	c := spawn(t, g, "spin")
	c.line(t)
	a, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	var b *Stats
	for { // a busy machine may not give it as much as it may have
		time.Sleep(600 * time.Millisecond)
		if b, err = g.Stats(); err != nil {
			t.Fatal(err)
		}
		if b.CPU.ThrottledPeriods > 0 && b.CPU.ThrottledNanos > 0 || time.Since(start) > 15*time.Second {
			break
		}
	}
	// That it was throttled shows that it came to its limit; a machine that is
	// busy elsewhere gives it less.
	used, wall := time.Duration(b.CPU.Usage-a.CPU.Usage), time.Since(start)
	if used > wall*65/100 || used == 0 {
		t.Errorf("used %v in %v with half a processor", used, wall)
	}
	if b.CPU.Periods == 0 || b.CPU.ThrottledPeriods == 0 || b.CPU.ThrottledNanos == 0 {
		t.Errorf("not throttled: %+v", b.CPU)
	}
	t.Logf("used %v in %v", used, wall)
}

func TestFreeze(t *testing.T) {
	both(t, func(t *testing.T, h *Hierarchy) {
		g := fresh(t, h, nil)
		if v1, ok := g.impl.(*groupV1); ok && v1.in("freezer") != "" {
			t.Error("a freezer directory before it is needed")
		}
		c := spawn(t, g, "spin")
		c.line(t)
		ticks := func() int {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
			n, _ := strconv.Atoi(f[11])
			return n
		}
		for range 3 {
			if on, err := g.Frozen(); on || err != nil {
				t.Errorf("frozen %v, %v", on, err)
			}
			if err := g.Freeze(); err != nil {
				t.Fatal(err)
			}
			if on, err := g.Frozen(); !on || err != nil {
				t.Errorf("frozen %v, %v", on, err)
			}
			before := ticks()
			time.Sleep(60 * time.Millisecond)
			if after := ticks(); after > before+1 {
				t.Errorf("runs while frozen: %d ticks", after-before)
			}
			again, err := h.Open(g.Path())
			if err != nil {
				t.Fatal(err)
			}
			if on, err := again.Frozen(); !on || err != nil {
				t.Errorf("opened again: frozen %v, %v", on, err)
			}
			if err := g.Thaw(); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(5 * time.Second); ticks() == before; {
				if time.Now().After(deadline) {
					t.Fatal("does not run after thaw")
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	})
}

func TestKill(t *testing.T) {
	both(t, func(t *testing.T, h *Hierarchy) {
		for _, frozen := range []bool{false, true} {
			g := fresh(t, h, nil)
			mode := "bomb"
			if h.root.dir == h.mounts["memory"].dir || !h.Features().Pids {
				mode = "wait" // nothing here would hold a bomb back
			} else if _, err := g.Set(&Resources{Pids: &specs.LinuxPids{Limit: ptr[int64](60)}}); err != nil {
				t.Fatal(err)
			}
			c := spawn(t, g, mode)
			c.line(t)
			if frozen {
				if err := g.Freeze(); err != nil {
					t.Fatal(err)
				}
			}
			if pids, err := g.PIDs(); len(pids) == 0 || err != nil {
				t.Errorf("%v, %v", pids, err)
			}
			if err := g.Kill(unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			c.Wait()
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				pids, err := g.PIDs()
				if err != nil {
					t.Fatal(err)
				}
				if len(pids) == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("left after kill (frozen %v): %v", frozen, pids)
				}
			}
		}
	})
}

func TestNested(t *testing.T) {
	both(t, func(t *testing.T, h *Hierarchy) {
		g := fresh(t, h, nil)
		// What runs inside may make groups of its own.
		sub := filepath.Join(g.impl.anchor(), "inner", "deep")
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		c := spawn(t, g, "wait")
		c.line(t)
		if err := writeInt(filepath.Join(sub, "cgroup.procs"), c.Process.Pid); err != nil {
			t.Fatal(err)
		}
		pids, err := g.PIDs()
		if err != nil || !slices.Contains(pids, c.Process.Pid) {
			t.Errorf("%v, %v", pids, err)
		}
	})
}

func TestOpen(t *testing.T) {
	both(t, func(t *testing.T, h *Hierarchy) {
		g := fresh(t, h, &Resources{Devices: dockerDevices()})
		c := spawn(t, g, "wait")
		c.line(t)
		again, err := h.Open(g.Path())
		if err != nil {
			t.Fatal(err)
		}
		if a, b := fmt.Sprint(g.Controllers(), g.Dir(), g.Tasks()), fmt.Sprint(again.Controllers(), again.Dir(), again.Tasks()); a != b {
			t.Errorf("opened:\n%s\nmade:\n%s", b, a)
		}
		pids, err := again.PIDs()
		if err != nil || !slices.Contains(pids, c.Process.Pid) {
			t.Errorf("%v, %v", pids, err)
		}
		if h.Version() == 2 && again.DirBeside(c.Process.Pid) != g.Dir() {
			t.Errorf("beside: %s", again.DirBeside(c.Process.Pid))
		}
	})
}

func TestAdd(t *testing.T) {
	both(t, func(t *testing.T, h *Hierarchy) {
		outside := fresh(t, h, nil)
		g := fresh(t, h, nil)
		c := spawn(t, outside, "wait")
		c.line(t)
		if err := g.Add(c.Process.Pid); err != nil {
			t.Fatal(err)
		}
		if pids, err := g.PIDs(); err != nil || !slices.Equal(pids, []int{c.Process.Pid}) {
			t.Errorf("%v, %v", pids, err)
		}
	})
}

func TestCpuset(t *testing.T) {
	h := hierarchy(t)
	if runtime.NumCPU() < 2 {
		promise.Lacks(t, "cpus", "two of them")
	}
	g := fresh(t, h, &Resources{CPU: &specs.LinuxCPU{Cpus: "1"}})
	if got := spawn(t, g, "cpus").line(t); got != "cpus 1" {
		t.Error(got)
	}
	// Later, for a process that runs: the directory is made for it on v1.
	g = fresh(t, h, nil)
	c := spawn(t, g, "wait")
	c.line(t)
	if _, err := g.Set(&Resources{CPU: &specs.LinuxCPU{Cpus: "0"}}); err != nil {
		t.Fatal(err)
	}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(c.Process.Pid, &set); err != nil || set.Count() != 1 {
		t.Errorf("%d processors, %v", set.Count(), err)
	}
}

// disk finds a whole disk, for limits that the kernel takes only for such.
func disk(t *testing.T) (major, minor int64) {
	devs, _ := filepath.Glob("/sys/block/*/dev")
	for _, d := range devs {
		if size, _ := readUint(filepath.Join(filepath.Dir(d), "size")); size == 0 {
			continue
		}
		s, _ := read(d)
		fmt.Sscanf(s, "%d:%d", &major, &minor)
		return major, minor
	}
	promise.Lacks(t, "disk")
	return 0, 0
}

func TestBlockIO(t *testing.T) {
	h := hierarchy(t)
	if !h.Features().BlkioReadBps {
		promise.Lacks(t, "blkio")
	}
	major, minor := disk(t)
	rate := func(n uint64) []specs.LinuxThrottleDevice {
		d := specs.LinuxThrottleDevice{Rate: n}
		d.Major, d.Minor = major, minor
		return []specs.LinuxThrottleDevice{d}
	}
	g := fresh(t, h, &Resources{BlockIO: &specs.LinuxBlockIO{
		ThrottleReadBpsDevice: rate(1 << 20), ThrottleWriteBpsDevice: rate(2 << 20),
		ThrottleReadIOPSDevice: rate(100), ThrottleWriteIOPSDevice: rate(200), Weight: ptr[uint16](300),
	}})
	dev := fmt.Sprintf("%d:%d", major, minor)
	if h.Version() == 2 {
		if got, want := value(t, g, "", "io.max"), dev+" rbps=1048576 wbps=2097152 riops=100 wiops=200"; got != want {
			t.Errorf("io.max %q, want %q", got, want)
		}
		return
	}
	for file, want := range map[string]string{"read_bps": "1048576", "write_bps": "2097152", "read_iops": "100", "write_iops": "200"} {
		if got := value(t, g, "blkio.throttle."+file+"_device", ""); got != dev+" "+want {
			t.Errorf("%s: %q", file, got)
		}
	}
}

func TestIOStats(t *testing.T) {
	h := hierarchy(t)
	dir := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.OVERLAYFS_SUPER_MAGIC || fs.Type == unix.RAMFS_MAGIC {
		promise.Lacks(t, "disk", "none below the temporary directory")
	}
	g := fresh(t, h, nil)
	c := spawn(t, g, "write "+dir)
	if got := c.line(t); got != "written <nil>" {
		t.Fatal(got)
	}
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	sum := uint64(0)
	for _, e := range s.IO {
		if strings.EqualFold(e.Op, "write") {
			sum += e.Value
		}
	}
	if sum < 1<<20 {
		t.Errorf("1 MiB written, counted %+v", s.IO)
	}
}

func TestStats(t *testing.T) {
	h := hierarchy(t)
	g := fresh(t, h, &Resources{Memory: &specs.LinuxMemory{Limit: ptr[int64](256 << 20)}})
	c := spawn(t, g, "wait")
	c.line(t)
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	noLimit := uint64(0)
	if h.Version() == 2 {
		noLimit = math.MaxUint64
	}
	if s.CPU.Usage == 0 || s.Memory.Usage == 0 || s.Memory.Limit != 256<<20 || s.Pids.Current == 0 || s.Pids.Limit != noLimit || s.Memory.Stat["inactive_file"]+s.Memory.Stat["active_anon"]+s.Memory.Stat["inactive_anon"] == 0 {
		t.Errorf("%+v", s)
	}
	if h.Version() == 1 && len(s.CPU.PerCPU) == 0 {
		t.Error("no figures per processor")
	}
}

func BenchmarkCreateRemove(b *testing.B) {
	h := hierarchy(b)
	r := &Resources{Devices: dockerDevices(), Memory: &specs.LinuxMemory{Limit: ptr[int64](64 << 20)}, Pids: &specs.LinuxPids{Limit: ptr[int64](100)}}
	if g, _, err := h.Create(parentOfTests+"/bench", r); err != nil { // the shared part, once
		b.Fatal(err)
	} else if err := g.Remove(); err != nil {
		b.Fatal(err)
	}
	var create time.Duration
	for b.Loop() {
		start := time.Now()
		g, _, err := h.Create(parentOfTests+"/bench", r)
		if err != nil {
			b.Fatal(err)
		}
		create += time.Since(start)
		if err := g.Remove(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(create.Nanoseconds())/float64(b.N), "ns/create")
}
