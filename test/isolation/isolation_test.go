// Package isolation runs a program of ours in containers and judges what it
// sees from inside, and what the limits do to it from outside.
package isolation

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

func start(t *testing.T) *harness.Engine {
	t.Helper()
	e := harness.Run(t, harness.Options{})
	path, err := harness.Program(t.TempDir(), "./test/isolation/probe")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	im := &harness.Image{
		Names:  []string{"probe:latest"},
		Config: harness.Config{Entrypoint: []string{"/probe"}},
		Layers: [][]harness.File{{{Name: "probe", Mode: 0o755, Data: program}, {Name: "tmp/", Mode: 0o1777}}},
	}
	if err := e.Load(im.DockerArchive()); err != nil {
		t.Fatal(err)
	}
	return e
}

// probe runs the program with more flags and returns its answers.
func probe(t *testing.T, e *harness.Engine, args ...string) map[string]string {
	t.Helper()
	out, errOut, code, err := e.CLI(append(append([]string{"run", "--rm"}, args...), "probe")...)
	if err != nil || code != 0 {
		t.Fatalf("probe: %d %v\n%s%s", code, err, out, errOut)
	}
	seen := map[string]string{}
	for _, line := range strings.Split(out, "\n") {
		k, v, _ := strings.Cut(line, " ")
		seen[k] = v
	}
	return seen
}

// TestInside is a container with nothing asked for.
func TestInside(t *testing.T) {
	e := start(t)
	seen := probe(t, e)
	for k, want := range map[string]string{
		"CapInh": "0000000000000000", "CapAmb": "0000000000000000",
		"CapPrm": "00000000a80425fb", "CapEff": "00000000a80425fb", "CapBnd": "00000000a80425fb",
		"NoNewPrivs": "0", "Seccomp": "2", "fd": "0,1,2", "pid": "1", "init": "/probe", "sameroot": "true",
		"device:mem": "EPERM", "device:kmsg": "EPERM", "device:vda": "EPERM", "device:loop0": "EPERM", "device:null": "ok",
	} {
		if seen[k] != want {
			t.Errorf("%s is %q, want %q", k, seen[k], want)
		}
	}
	if _, ok := seen["oldroot"]; ok {
		t.Errorf("the old root is mounted at %s", seen["oldroot"])
	}
	calls := 0
	for k, got := range seen {
		kind, name, ok := strings.Cut(k, ":")
		if !ok {
			continue
		}
		switch kind {
		case "call":
			calls++
			want := "EPERM"
			if name == "clone3" {
				want = "ENOSYS" // so that a C library falls back to clone
			}
			if got != want {
				t.Errorf("system call %s: %s, want %s", name, got, want)
			}
		case "masked", "maskeddir":
			if got != "0" && got != "absent" {
				t.Errorf("%s shows %s", name, got)
			}
		case "readonly":
			if got != "EROFS" && got != "absent" {
				t.Errorf("%s opens for writing: %s, want EROFS", name, got)
			}
		case "ns":
			host, err := os.Readlink("/proc/self/ns/" + name)
			if err != nil {
				t.Fatal(err)
			}
			if name != "user" && got == host {
				t.Errorf("the %s namespace is the host's", name)
			}
		}
	}
	if calls < 38 {
		t.Errorf("only %d system calls were tried", calls)
	}
	devs := "fd,full,mqueue,null,ptmx,pts,random,shm,stderr,stdin,stdout,tty,urandom,zero"
	if _, err := os.Stat("/proc/kcore"); err == nil {
		devs = "core," + devs
	}
	if seen["dev"] != devs {
		t.Errorf("/dev holds %s, want %s", seen["dev"], devs)
	}
}

// TestUnconfined shows that what denies the calls is the filter: without it they
// fail otherwise or not at all.
func TestUnconfined(t *testing.T) {
	e := start(t)
	seen := probe(t, e, "--security-opt", "seccomp=unconfined", "-e", "UNCONFINED=1")
	if seen["Seccomp"] != "0" {
		t.Errorf("Seccomp is %s", seen["Seccomp"])
	}
	for _, name := range []string{"keyctl", "get_mempolicy", "personality", "clone3", "kcmp", "add_key", "setns", "io_uring_setup"} {
		if got := seen["call:"+name]; got == "EPERM" || got == "" {
			t.Errorf("%s: %q without a filter", name, got)
		}
	}
}

// TestOptions are the switches that give and take.
func TestOptions(t *testing.T) {
	e := start(t)
	for _, tt := range []struct {
		args []string
		want map[string]string
	}{
		{[]string{"--cap-drop", "ALL"}, map[string]string{"CapEff": "0000000000000000", "CapBnd": "0000000000000000", "device:null": "EPERM"}},
		{[]string{"-u", "1000"}, map[string]string{"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapInh": "0000000000000000"}},
		{[]string{"--security-opt", "no-new-privileges"}, map[string]string{"NoNewPrivs": "1"}},
		{[]string{"--cap-add", "SYS_ADMIN"}, map[string]string{"CapEff": "00000000a82425fb", "call:fsopen": "EFAULT", "call:keyctl": "EPERM"}},
		{[]string{"--device", "/dev/kmsg", "--cap-add", "SYSLOG"}, map[string]string{"device:kmsg": "ok", "device:mem": "EPERM"}},
		{[]string{"--init"}, map[string]string{"fd": "0,1,2", "init": "/sbin/docker-init"}},
	} {
		t.Run(strings.Join(tt.args, "_"), func(t *testing.T) {
			seen := probe(t, e, tt.args...)
			for k, want := range tt.want {
				if seen[k] != want {
					t.Errorf("%s is %q, want %q", k, seen[k], want)
				}
			}
		})
	}
}

// TestExecInside: an exec has what the container has, no more.
func TestExecInside(t *testing.T) {
	e := start(t)
	if _, errOut, code, err := e.CLI("run", "-d", "--name", "box", "probe", "sleep"); err != nil || code != 0 {
		t.Fatal(errOut, err)
	}
	out, errOut, code, err := e.CLI("exec", "box", "/probe")
	if err != nil || code != 0 {
		t.Fatalf("exec: %d %v %s", code, err, errOut)
	}
	for _, want := range []string{"CapEff 00000000a80425fb\n", "Seccomp 2\n", "fd 0,1,2\n", "call:keyctl EPERM\n", "call:mount EPERM\n", "device:mem EPERM\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in what exec sees:\n%s", want, out)
		}
	}
}

func TestMemoryLimit(t *testing.T) {
	e := start(t)
	_, errOut, code, err := e.CLI("run", "--name", "hog", "--memory", "32m", "--memory-swap", "32m", "probe", "hog")
	if err != nil || code != 137 {
		t.Errorf("hog ended with %d %v %s, want 137", code, err, errOut)
	}
	i, err := e.Inspect("hog")
	if err != nil {
		t.Fatal(err)
	}
	if !i.State.OOMKilled || i.State.ExitCode != 137 {
		t.Errorf("inspect says %+v, want OOMKilled", i.State)
	}
	// until has whole seconds: wait for the next one to have this one whole.
	_, events, err := e.API("GET", fmt.Sprintf(`/events?since=0&until=%d&filters={"event":["oom"]}`, time.Now().Unix()+1), nil)
	if err != nil || !strings.Contains(string(events), `"oom"`) {
		t.Errorf("no oom event: %s %v", events, err)
	}
}

func TestPidsLimit(t *testing.T) {
	e := start(t)
	out, errOut, code, err := e.CLI("run", "--rm", "--pids-limit", "30", "probe", "forks")
	var n int
	var why string
	if _, scanErr := fmt.Sscanf(out, "forks %d %s", &n, &why); scanErr != nil || err != nil || code != 0 {
		t.Fatalf("%q %q %d %v %v", out, errOut, code, err, scanErr)
	}
	if n == 0 || n > 30 || why != "EAGAIN" {
		t.Errorf("%d processes, then %s; want at most 30, then EAGAIN", n, why)
	}
}

// TestCPULimit measures what half a CPU is. A busy machine may give it less;
// that the kernel stopped it shows that it came to its limit.
func TestCPULimit(t *testing.T) {
	e := start(t)
	if _, errOut, code, err := e.CLI("run", "-d", "--name", "spin", "--cpus", "0.5", "probe", "spin"); err != nil || code != 0 {
		t.Fatal(errOut, err)
	}
	i, err := e.Inspect("spin")
	if err != nil {
		t.Fatal(err)
	}
	stat := filepath.Join(e.CgroupParent("cpu"), i.ID, "cpu.stat")
	stopped := regexp.MustCompile(`(?m)^nr_throttled [1-9]`)
	for end := time.Now().Add(20 * time.Second); ; {
		time.Sleep(500 * time.Millisecond) // the time over which is measured
		b, err := os.ReadFile(stat)
		if err != nil {
			t.Fatal(err)
		}
		if stopped.Match(b) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it never came to its limit:\n%s", b)
		}
	}
	used, err := cpuTime(i.State.Pid)
	if err != nil {
		t.Fatal(err)
	}
	// The quota is given out in tenths of a second, the last of which may be used up already.
	if wall := time.Since(i.State.StartedAt); used > wall/2+150*time.Millisecond {
		t.Errorf("it used %v in %v, want half at most", used, wall)
	}
	if code, body, err := e.API("DELETE", "/containers/spin?force=1", nil); err != nil || code != 204 {
		t.Fatal(code, string(body), err)
	}
}

// cpuTime is the time that a process has used, in user and kernel mode.
func cpuTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err := errors.Join(err1, err2); err != nil {
		return 0, fmt.Errorf("read stat of %d: %w", pid, err)
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 everywhere
	return time.Duration(user+system) * tick, nil
}
