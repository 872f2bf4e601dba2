package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestStats: the figures of stats are those of the kernel's own files. The
// container is frozen, so that nothing moves between two looks.
func TestStats(t *testing.T) {
	harness.Require(t, "busybox")
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	request := map[string]any{
		"Image": "busybox", "HostConfig": map[string]any{"Memory": 64 << 20, "PidsLimit": 77, "NanoCpus": 500e6},
		"Cmd": []string{"sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=20; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 1000 & touch /done; wait"},
	}
	if code, body, err := e.API("POST", "/containers/create?name=box", request); err != nil || code != 201 {
		t.Fatalf("create: %d %s %v", code, body, err)
	}
	if code, body, err := e.API("POST", "/containers/box/start", nil); err != nil || code != 204 {
		t.Fatalf("start: %d %s %v", code, body, err)
	}
	in, err := e.Inspect("box")
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/done", in.State.Pid)); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the container has not done its work in 20 s")
		}
	}
	if code, body, err := e.API("POST", "/containers/box/pause", nil); err != nil || code != 204 {
		t.Fatalf("pause: %d %s %v", code, body, err)
	}
	var s container.StatsResponse
	if err := e.GetJSON("/containers/box/stats?stream=0&one-shot=1", &s); err != nil {
		t.Fatal(err)
	}
	k := kernel{t, groups(t, in.State.Pid)}
	memory, inactive := k.number("memory", "memory.usage_in_bytes"), "total_inactive_file"
	user, system := k.pair("cpuacct", "cpuacct.stat", "user")*10e6, k.pair("cpuacct", "cpuacct.stat", "system")*10e6
	usage, throttled := k.number("cpuacct", "cpuacct.usage"), k.pair("cpu", "cpu.stat", "nr_throttled")
	if k.v2() {
		memory, inactive = k.number("", "memory.current"), "inactive_file"
		user, system = k.pair("", "cpu.stat", "user_usec")*1000, k.pair("", "cpu.stat", "system_usec")*1000
		usage, throttled = k.pair("", "cpu.stat", "usage_usec")*1000, k.pair("", "cpu.stat", "nr_throttled")
	}
	for _, f := range []struct {
		what        string
		got, want   uint64
		within, min uint64
	}{
		{"CPU time in ns", s.CPUStats.CPUUsage.TotalUsage, usage, 0, 1e6},
		{"CPU time of the program", s.CPUStats.CPUUsage.UsageInUsermode, user, 0, 0},
		{"CPU time of the kernel", s.CPUStats.CPUUsage.UsageInKernelmode, system, 0, 0},
		{"throttled periods", s.CPUStats.ThrottlingData.ThrottledPeriods, throttled, 0, 0},
		// The kernel gathers these per processor, some pages at a time.
		{"memory", s.MemoryStats.Usage, memory, 1 << 20, 20 << 20},
		{"memory limit", s.MemoryStats.Limit, 64 << 20, 0, 1},
		{"cache that counts as free", s.MemoryStats.Stats[inactive], k.pair("memory", "memory.stat", inactive), 1 << 20, 0},
		{"processes", s.PidsStats.Current, k.number("pids", "pids.current"), 0, 2},
		{"limit of processes", s.PidsStats.Limit, 77, 0, 1},
		{"received bytes", s.Networks["eth0"].RxBytes, k.received(in.State.Pid), 0, 0},
	} {
		if f.got > f.want+f.within || f.want > f.got+f.within || f.got < f.min {
			t.Errorf("%s: %d, the kernel says %d (and it should be at least %d)", f.what, f.got, f.want, f.min)
		}
	}
	if s.CPUStats.OnlineCPUs == 0 || s.CPUStats.SystemUsage == 0 {
		t.Errorf("of the host: %d processors, %d ns", s.CPUStats.OnlineCPUs, s.CPUStats.SystemUsage)
	}
	// What the client makes of it.
	out, stderr, code, err := e.CLI("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}} {{.CPUPerc}}", "box")
	want := float64(s.MemoryStats.Usage-s.MemoryStats.Stats[inactive]) / (1 << 20)
	var used float64
	n, _ := fmt.Sscanf(out, fmt.Sprintf("box %d %%fMiB / 64MiB 0.00%%%%", s.PidsStats.Current), &used)
	if err != nil || code != 0 || n != 1 || used < want-1 || used > want+1 {
		t.Errorf("stats: %q %q %d %v, want about %.2f MiB", out, stderr, code, err, want)
	}
}

// kernel reads a process's control group.
type kernel struct {
	t    *testing.T
	dirs map[string]string // by controller; "" is v2's
}

// groups finds the directories.
func groups(t *testing.T, pid int) map[string]string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	dirs := map[string]string{}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, c := range strings.Split(f[1], ",") {
			at := "/sys/fs/cgroup"
			if c != "" {
				at = filepath.Join(at, c)
			}
			dirs[c] = filepath.Join(at, f[2])
		}
	}
	return dirs
}

func (k kernel) v2() bool { return k.dirs["memory"] == "" }

// read gives a file of a controller's group; on v2 they are all in one.
func (k kernel) read(controller, file string) string {
	dir := k.dirs[controller]
	if k.v2() {
		dir = k.dirs[""]
	}
	b, err := os.ReadFile(filepath.Join(dir, file))
	if os.IsNotExist(err) {
		return "" // of the other version
	}
	if err != nil {
		k.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func (k kernel) parse(text string) uint64 {
	if text == "" {
		return 0
	}
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		k.t.Fatal(err)
	}
	return v
}

func (k kernel) number(controller, file string) uint64 { return k.parse(k.read(controller, file)) }

func (k kernel) pair(controller, file, key string) uint64 {
	for line := range strings.Lines(k.read(controller, file)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name == key {
			return k.parse(value)
		}
	}
	return 0
}

// received are the bytes that came in through eth0.
func (k kernel) received(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		k.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if name, rest, _ := strings.Cut(strings.TrimSpace(line), ":"); name == "eth0" {
			return k.parse(strings.Fields(rest)[0])
		}
	}
	return 0
}
