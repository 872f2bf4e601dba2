package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/scope"
	"github.com/wherry-engine/wherry/test/promise"
)

func systemctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestSystemdDriver(t *testing.T) {
	fs := hierarchy(t)
	if !scope.Running() {
		promise.Lacks(t, "systemd-init", "systemd is not what runs here")
	}
	h, err := fs.WithDriver(Systemd)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Create("/not/a/slice", nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("path of the other driver: %v", err)
	}
	name := fmt.Sprintf("system.slice:wherrytest:%d", os.Getpid())
	unit := fmt.Sprintf("wherrytest-%d.scope", os.Getpid())
	for range 2 { // the name is free again after the first round
		g, _, err := h.Create(name, &Resources{
			Memory:  &specs.LinuxMemory{Limit: ptr[int64](64 << 20), Swap: ptr[int64](96 << 20)},
			CPU:     &specs.LinuxCPU{Shares: ptr[uint64](512), Quota: ptr[int64](50000), Period: ptr[uint64](100000), Cpus: "0"},
			Pids:    &specs.LinuxPids{Limit: ptr[int64](30)},
			Devices: dockerDevices(),
		})
		if err != nil {
			t.Fatal(err)
		}
		if pids, err := g.PIDs(); len(pids) != 0 || err != nil {
			t.Errorf("the process of ours shows: %v, %v", pids, err)
		}
		c := spawn(t, g, "open /dev/null,/dev/kmsg")
		check := func(when string) {
			t.Helper()
			if got := c.line(t); !strings.Contains(got, "/dev/null=<nil>") || !strings.Contains(got, "/dev/kmsg="+unix.EPERM.Error()) {
				t.Errorf("%s: %s", when, got)
			}
			for file, want := range map[string]string{
				"memory.max": fmt.Sprint(64 << 20), "memory.swap.max": fmt.Sprint(32 << 20), "cpu.weight": "59",
				"cpu.max": "50000 100000", "pids.max": "30", "cpuset.cpus": "0",
			} {
				if h.Version() == 2 {
					if got := value(t, g, "", file); got != want {
						t.Errorf("%s: %s is %q, want %q", when, file, got, want)
					}
				}
			}
		}
		check("at first")
		g.Settle()
		if pids, err := g.PIDs(); !slices.Equal(pids, []int{c.Process.Pid}) || err != nil {
			t.Errorf("%v, %v, want %d", pids, err, c.Process.Pid)
		}
		if got := systemctl(t, "show", "-P", "ActiveState", unit); got != "active" {
			t.Errorf("%s is %s", unit, got)
		}
		systemctl(t, "daemon-reload")
		c.in.Write([]byte("\n"))
		check("after daemon-reload")
		if _, err := g.Set(&Resources{Pids: &specs.LinuxPids{Limit: ptr[int64](50)}}); err != nil {
			t.Fatal(err)
		}
		systemctl(t, "daemon-reload")
		if got := value(t, g, "pids.max", "pids.max"); got != "50" {
			t.Errorf("pids.max %s after set and reload", got)
		}
		again, err := h.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if again.Dir() != g.Dir() {
			t.Errorf("opened %s, made %s", again.Dir(), g.Dir())
		}
		discard(t, h, again)
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if got := systemctl(t, "show", "-P", "LoadState", unit); got == "not-found" {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("%s is still %s", unit, got)
			}
		}
	}
	// Limits that systemd refuses leave no unit.
	if _, _, err := h.Create(name, &Resources{CPU: &specs.LinuxCPU{Cpus: "x"}}); err == nil {
		t.Error("bad list of processors taken")
	}
	if got := systemctl(t, "show", "-P", "LoadState", unit); got != "not-found" {
		t.Errorf("%s is %s after a failed start", unit, got)
	}
}
