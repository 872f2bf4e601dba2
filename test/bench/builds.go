package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/test/harness"
)

var (
	builds       = flag.Int("builds", 0, "time only builds, that many times each")
	contextFiles = flag.Int("context-files", 100_000, "small files of the large build context")
	contextBytes = flag.Int64("context-bytes", 2<<30, "size of the file of the other one; it is random")
	buildLines   = flag.String("build-lines", "", "time only the builds whose name contains this")
)

// twelve is a Dockerfile of twelve small steps.
const twelve = `FROM busybox
COPY a /a
RUN echo 1 > /1
RUN echo 2 > /2
RUN echo 3 > /3
RUN mkdir /d && echo 4 > /d/4
COPY b /b
RUN cat /a /b > /5
RUN echo 6 > /6
RUN rm /1
RUN echo 7 >> /6
CMD ["cat", "/6"]
`

// The subjects that others are compared with.
const (
	buildkit = "docker.io, BuildKit"
	classic  = "docker.io, classic"
)

// timeBuilds times builds by wherry and docker.io of the same contexts, interleaved.
func timeBuilds(dir string) (err error) {
	var engines []*harness.Engine
	closeAll := sync.OnceValue(func() (err error) {
		for _, e := range engines {
			// dockerd's BuildKit makes it and leaves it behind.
			groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + e.ID + "/buildkit")
			for _, g := range groups {
				os.Remove(g)
			}
			err = errors.Join(err, e.Close())
		}
		return err
	})
	defer func() { err = errors.Join(err, closeAll()) }()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, unix.SIGTERM)
	go func() {
		<-stop
		fmt.Fprintln(os.Stderr, "bench: interrupted:", closeAll())
		os.RemoveAll(dir)
		os.Exit(130)
	}()
	for _, o := range []harness.Options{{}, {Kind: harness.Docker}, {Bin: *against}} {
		if o.Bin == "" && len(engines) == 2 {
			break // nothing to compare with
		}
		e, err := harness.New(o)
		if err != nil {
			return err
		}
		engines = append(engines, e)
		if err := errors.Join(e.Start(), e.LoadBusybox()); err != nil {
			return err
		}
	}
	w, d := engines[0], engines[1]
	with := func(e *harness.Engine, program string, env ...string) func(...string) *exec.Cmd {
		return func(args ...string) *exec.Cmd {
			cmd := e.Command(context.Background(), program, append([]string{"build", "-q"}, args...)...)
			cmd.Env = append(cmd.Env, env...)
			return cmd
		}
	}
	type subject struct {
		name   string
		engine *harness.Engine
		build  func(...string) *exec.Cmd
	}
	subjects := []subject{
		{"wherry build", w, with(w, harness.Binary("wherry"))},
		{"wherryd, docker's BuildKit client", w, with(w, harness.OldDockerCLI(), "DOCKER_BUILDKIT=1")},
		{"wherryd, docker's classic client", w, with(w, harness.OldDockerCLI(), "DOCKER_BUILDKIT=0")},
		{buildkit, d, with(d, harness.OldDockerCLI(), "DOCKER_BUILDKIT=1")},
		{classic, d, with(d, harness.OldDockerCLI(), "DOCKER_BUILDKIT=0")},
	}
	if *against != "" {
		o := engines[2]
		subjects = append(subjects, subject{"wherry build of " + *against, o, with(o, o.OwnCLI())},
			subject{"docker's BuildKit client, that wherryd", o, with(o, harness.OldDockerCLI(), "DOCKER_BUILDKIT=1")})
	}
	subjects = slices.DeleteFunc(subjects, func(s subject) bool { return !strings.Contains(s.name, *only) })
	contexts := map[string]string{}
	for _, name := range []string{"twelve", "files", "large"} {
		contexts[name] = filepath.Join(dir, name)
		if err := os.Mkdir(contexts[name], 0o755); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"twelve/Dockerfile": twelve, "twelve/a": "a\n", "twelve/b": "b\n",
		"files/Dockerfile": "FROM busybox\nCOPY . /all\n", "large/Dockerfile": "FROM busybox\nCOPY . /all\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	n := 0 // makes what is written a new thing each time
	write := func(name string) func() error {
		return func() error {
			n++
			return os.WriteFile(filepath.Join(dir, name), fmt.Appendf(nil, "%d %d\n", time.Now().UnixNano(), n), 0o644)
		}
	}
	type line struct {
		name, context string
		first         bool // of this context: the engines have not seen it
		before        func() error
		args          []string
	}
	lines := []line{
		{"12 small steps, nothing cached", "twelve", false, nil, []string{"--no-cache"}},
		{"12 small steps, unchanged", "twelve", false, nil, nil},
		{"12 small steps, the 7th (COPY) changed", "twelve", false, write("twelve/b"), nil},
		{"many small files, first", "files", true, nil, nil},
		{"many small files, unchanged", "files", false, nil, nil},
		{"many small files, one changed", "files", false, write("files/0/0"), nil},
		{"one large file, first", "large", true, nil, nil},
		{"one large file, unchanged", "large", false, nil, nil},
	}
	for _, l := range lines {
		if !strings.Contains(l.name, *buildLines) {
			continue
		}
		path := contexts[l.context]
		times := make([]sample, len(subjects)+1)
		for round := range *builds + 1 { // the first warms up
			for i, s := range subjects {
				if l.first {
					if err := forget(s.engine, l.context); err != nil {
						return err
					}
				}
				switch {
				case l.first && l.context == "files":
					if err := fillSmall(path, round*len(subjects)+i); err != nil {
						return err
					}
				case l.first:
					if err := fillLarge(path); err != nil {
						return err
					}
				case l.before != nil:
					if err := l.before(); err != nil {
						return err
					}
				}
				exec.Command("sync").Run() // what the one before left to be written
				took, err := timed(s.build(append(l.args, "-t", l.context, path)...))
				if err != nil {
					return err
				}
				if round > 0 {
					times[i].times = append(times[i].times, took)
				}
			}
			if l.first && round > 0 {
				took, err := copied(path, filepath.Join(dir, "copy"))
				if err != nil {
					return err
				}
				times[len(subjects)].times = append(times[len(subjects)].times, took)
			}
		}
		fmt.Printf("%-40s %10s %10s  %s\n", l.name, "median", "fastest", "median of docker.io's: BuildKit, classic")
		medians := map[string]time.Duration{}
		for i, s := range subjects {
			medians[s.name] = times[i].median()
		}
		for i, s := range subjects {
			fmt.Printf("  %-38s %10s %10s", s.name, ms(medians[s.name]), ms(times[i].times[0]))
			for _, other := range []string{buildkit, classic} {
				if m, ok := medians[other]; ok {
					fmt.Printf("  %.2f", float64(medians[s.name])/float64(m))
				}
			}
			fmt.Println()
		}
		if l.first {
			m := times[len(subjects)].median()
			fmt.Printf("  %-38s %10s %10s  wherry build / cp: %.2f\n", "cp -r and syncfs", ms(m), ms(times[len(subjects)].times[0]), float64(times[0].median())/float64(m))
		}
		fmt.Println()
	}
	return nil
}

// forget removes what an engine has of a context, so that the disk need not
// have room for all rounds. Neither an image that is not there nor an empty
// cache is an error.
func forget(e *harness.Engine, image string) error {
	for _, args := range [][]string{{"rmi", "-f", image}, {"image", "prune", "-f"}, {"builder", "prune", "-af"}} {
		cmd := e.Command(context.Background(), harness.OldDockerCLI(), args...)
		if out, err := cmd.CombinedOutput(); err != nil && args[0] != "rmi" {
			return fmt.Errorf("%v: %w: %s", args, err, out)
		}
	}
	return nil
}

// fillSmall writes the small files anew, with contents of their own.
func fillSmall(path string, round int) error {
	for i := range *contextFiles {
		sub := filepath.Join(path, fmt.Sprint(i/1000))
		if i%1000 == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i%1000)), fmt.Appendf(nil, "%d %d\n%s", round, i, strings.Repeat("text ", i%200)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// fillLarge writes the large file anew.
func fillLarge(path string) error {
	cmd := exec.Command("dd", "if=/dev/urandom", "of="+filepath.Join(path, "large"), "bs=1M", "iflag=count_bytes", fmt.Sprint("count=", *contextBytes), "status=none")
	return cmd.Run()
}

// copied is what the disk can do: the same files written once, and on it.
func copied(from, to string) (time.Duration, error) {
	defer os.RemoveAll(to)
	exec.Command("sync").Run()
	return timed(exec.Command("sh", "-c", "cp -r --reflink=never \"$1\" \"$2\" && sync -f \"$2\"", "sh", from, to))
}
