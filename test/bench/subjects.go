package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// subject is one way to run a container.
type subject struct {
	name, version string
	cli           func(args ...string) *exec.Cmd // nil for the bare kernel
	floor         func(net bool) *exec.Cmd       // only the bare kernel
	engine        *harness.Engine                // nil for podman and the bare kernel
	owner         bool                           // engine is this subject's own, not a second client's
}

// prepare starts what is installed; what is not is left out and said.
func prepare(dir string) (list []*subject, closeAll func() error, err error) {
	var engines []*harness.Engine
	var cleanups []func()
	closeAll = func() error {
		var errs []error
		for _, f := range cleanups {
			f()
		}
		for _, e := range engines {
			errs = append(errs, e.Close())
		}
		return errors.Join(errs...)
	}
	engine := func(o harness.Options) (*harness.Engine, error) {
		e, err := harness.New(o)
		if err != nil {
			return nil, err
		}
		engines = append(engines, e)
		if err := e.Start(); err != nil {
			return nil, err
		}
		return e, e.LoadBusybox()
	}
	client := func(e *harness.Engine, path string) func(...string) *exec.Cmd {
		return func(args ...string) *exec.Cmd { return e.Command(context.Background(), path, args...) }
	}
	add := func(s *subject) {
		if *only == "" || strings.Contains(s.name, *only) {
			list = append(list, s)
		}
	}

	e, err := engine(harness.Options{})
	if err != nil {
		return nil, closeAll, err
	}
	add(&subject{name: "wherry", version: output(e.OwnCLI(), "--version"), cli: client(e, e.OwnCLI()), engine: e, owner: true})
	if *against != "" {
		o, err := engine(harness.Options{Bin: *against})
		if err != nil {
			return nil, closeAll, err
		}
		add(&subject{name: "wherry of " + *against, version: output(o.OwnCLI(), "--version"), cli: client(o, o.OwnCLI()), engine: o, owner: true})
	}
	if cli := harness.DockerCLI(); cli != "" {
		add(&subject{name: "wherryd, docker client", version: output(cli, "--version"), cli: client(e, cli), engine: e})
	}
	if have, _ := harness.Have("dockerd"); have {
		d, err := engine(harness.Options{Kind: harness.Docker})
		if err != nil {
			return nil, closeAll, err
		}
		cli := harness.OldDockerCLI()
		add(&subject{name: "docker.io", version: output(d.Program(), "--version"), cli: client(d, cli), engine: d, owner: true})
	} else {
		fmt.Println("docker.io is not installed")
	}
	// An engine that is never started lends podman its network namespace: what
	// podman's firewall leaves there is nobody's leak.
	place, err := harness.New(harness.Options{Kind: harness.Docker})
	if err != nil {
		return nil, closeAll, err
	}
	engines = append(engines, place)
	if s, clean, err := podman(dir, place); err != nil {
		fmt.Println("podman is left out:", firstLine(err.Error()))
	} else {
		cleanups = append(cleanups, clean)
		add(s)
	}
	if s, err := bare(dir); err != nil {
		fmt.Println("the bare kernel is left out:", firstLine(err.Error()))
	} else {
		add(s)
	}
	return list, closeAll, nil
}

func output(name string, args ...string) string {
	b, err := exec.Command(name, args...).Output()
	if err != nil {
		return err.Error()
	}
	return firstLine(string(b))
}

// podman keeps its state in dir and lives in the network namespace of e, so
// that its bridge is not the host's.
func podman(dir string, e *harness.Engine) (*subject, func(), error) {
	path, err := exec.LookPath("podman")
	if err != nil {
		return nil, nil, err
	}
	runtime := ""
	ns := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), e.NetNS().Fd())
	cli := func(args ...string) *exec.Cmd {
		global := []string{"--net=" + ns, path, "--root", dir + "/podman", "--runroot", dir + "/podman-run", "--tmpdir", dir + "/podman-tmp", "--cgroup-manager", "cgroupfs", "--events-backend", "none"}
		if runtime != "" {
			global = append(global, "--runtime", runtime)
		}
		if len(args) > 0 && args[0] == "run" {
			// Raising limits is refused to some virtual machines' root.
			args = append([]string{"run", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}, args[1:]...)
		}
		if len(args) > 0 && args[0] == "rm" {
			// Docker kills at once; podman would ask first, for ten seconds.
			args = append([]string{"rm", "-t", "0"}, args[1:]...)
		}
		return exec.Command("nsenter", append(global, args...)...)
	}
	im, err := harness.Busybox()
	if err != nil {
		return nil, nil, err
	}
	load := cli("load", "-q")
	load.Stdin = im.DockerArchive()
	if out, err := load.CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("load: %w: %s", err, out)
	}
	clean := func() {
		cli("rm", "-fa", "-t", "0").Run()
		cli("rmi", "-fa").Run()
	}
	// Its own choice first; Debian's crun refuses some mixtures of cgroups.
	for _, runtime = range []string{"", "runc"} {
		out, runErr := cli("run", "--rm", "--network", "none", "busybox", "true").CombinedOutput()
		if runErr == nil {
			return &subject{name: "podman", version: output(path, "--version") + " " + runtime, cli: cli}, clean, nil
		}
		err = fmt.Errorf("%w: %s", runErr, out)
	}
	clean()
	return nil, nil, err
}

// bare unpacks busybox beside the floor program.
func bare(dir string) (*subject, error) {
	program := filepath.Join(dir, "floor")
	source := filepath.Join(harness.Root(), "test/bench/floor/floor.c")
	if out, err := exec.Command("cc", "-O2", "-static", "-o", program, source).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile %s: %w: %s", source, err, out)
	}
	lower := filepath.Join(dir, "lower")
	if err := os.MkdirAll(filepath.Join(lower, "bin"), 0o755); err != nil {
		return nil, err
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(lower, "bin/busybox"), busybox, 0o755); err != nil {
		return nil, err
	}
	return &subject{name: "bare kernel", version: "clone, overlay, proc, pivot_root, exec, wait, remove", floor: func(net bool) *exec.Cmd {
		word := "nonet"
		if net {
			word = "net"
		}
		return exec.Command(program, lower, word, "/bin/busybox", "true")
	}}, nil
}

// line is one row group of the table.
type line struct {
	name string
	few  bool // slow: a third of the rounds
	op   func(*subject) func() (time.Duration, error)
}

func (l line) rounds(n int) int {
	if l.few {
		return max(1, n/3)
	}
	return n
}

func lines() []line {
	command := func(args ...string) func(*subject) func() (time.Duration, error) {
		return func(s *subject) func() (time.Duration, error) {
			if s.cli == nil {
				return nil
			}
			return func() (time.Duration, error) { return timed(s.cli(args...)) }
		}
	}
	orFloor := func(net bool, f func(*subject) func() (time.Duration, error)) func(*subject) func() (time.Duration, error) {
		return func(s *subject) func() (time.Duration, error) {
			if s.floor != nil {
				return func() (time.Duration, error) { return timed(s.floor(net)) }
			}
			return f(s)
		}
	}
	return []line{
		{"run --rm true (bridge)", false, orFloor(true, command("run", "--rm", "busybox", "true"))},
		{"run --rm true (no network)", false, orFloor(false, command("run", "--rm", "--network", "none", "busybox", "true"))},
		{"run -d (bridge)", false, func(s *subject) func() (time.Duration, error) {
			if s.cli == nil {
				return nil
			}
			return func() (time.Duration, error) {
				took, err := timed(s.cli("run", "-d", "--name", "bench", "busybox", "sleep", "1000"))
				if _, rmErr := timed(s.cli("rm", "-f", "bench")); err == nil {
					err = rmErr
				}
				return took, err
			}
		}},
		{"rm -f of a running one", false, func(s *subject) func() (time.Duration, error) {
			if s.cli == nil {
				return nil
			}
			return func() (time.Duration, error) {
				if _, err := timed(s.cli("run", "-d", "--name", "bench", "busybox", "sleep", "1000")); err != nil {
					return 0, err
				}
				return timed(s.cli("rm", "-f", "bench"))
			}
		}},
		{"exec true", false, func(s *subject) func() (time.Duration, error) {
			if s.cli == nil {
				return nil
			}
			return func() (time.Duration, error) {
				if _, err := timed(s.cli("run", "-d", "--name", "bench", "busybox", "sleep", "1000")); err != nil {
					return 0, err
				}
				took, err := timed(s.cli("exec", "bench", "true"))
				if _, rmErr := timed(s.cli("rm", "-f", "bench")); err == nil {
					err = rmErr
				}
				return took, err
			}
		}},
		{"start with no network", false, startOn},
		{"start with 3 networks, 2 ports and an alias", false, startOn3},
		{fmt.Sprintf("%d x run -d, 8 at a time", *parallel), true, func(s *subject) func() (time.Duration, error) {
			if s.cli == nil || !s.owner && s.engine != nil {
				return nil
			}
			return func() (time.Duration, error) { return many(s, *parallel) }
		}},
		{"daemon: exec to first /_ping", true, func(s *subject) func() (time.Duration, error) {
			if s.engine == nil || !s.owner {
				return nil
			}
			return func() (time.Duration, error) { return daemonStart(s.engine) }
		}},
	}
}

// many starts n containers with eight clients and removes them, untimed.
func many(s *subject, n int) (time.Duration, error) {
	jobs := make(chan int)
	errs := make(chan error, n)
	var wg sync.WaitGroup
	begin := time.Now()
	for range 8 {
		wg.Go(func() {
			for i := range jobs {
				_, err := timed(s.cli("run", "-d", "--name", fmt.Sprint("many", i), "busybox", "sleep", "1000"))
				errs <- err
			}
		})
	}
	var names []string
	for i := range n {
		jobs <- i
		names = append(names, fmt.Sprint("many", i))
	}
	close(jobs)
	wg.Wait()
	took := time.Since(begin)
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	_, err := timed(s.cli(append([]string{"rm", "-f"}, names...)...))
	return took, errors.Join(append(all, err)...)
}

func daemonStart(e *harness.Engine) (time.Duration, error) {
	if err := e.Stop(); err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := e.Spawn(); err != nil {
		return 0, err
	}
	for e.Ping() != nil {
		if time.Since(begin) > 30*time.Second || !e.Running() {
			return 0, fmt.Errorf("the daemon does not answer: %s", e.LogTail(3))
		}
		time.Sleep(500 * time.Microsecond) // the resolution of this figure
	}
	return time.Since(begin), nil
}
