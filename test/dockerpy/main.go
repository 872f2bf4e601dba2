// Command dockerpy runs docker-py's own integration tests, as their project
// publishes them, against dockerd and against wherryd, and prints what passes
// with the first alone. It exits with 1 if that is more than what is not served
// yet (swarm, plugins). Tests of ours that cover the same are in test/python.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

var (
	suite   = flag.String("suite", "", "a directory with docker-py's sources; without it Debian's source package is fetched")
	api     = flag.String("api", "1.41", "version of the API that the tests speak; docker.io 20.10 has 1.41 at most")
	only    = flag.String("only", "", "run the tests alone whose name contains this (pytest -k)")
	repeats = flag.Int("repeats", 5, "how often a test that failed with wherryd is tried again, by itself")
	verbose = flag.Bool("v", false, "show what pytest prints")
)

// notServed are the tests of what wherryd answers with "not yet".
var notServed = regexp.MustCompile(`(?i)swarm|service|node|secret|config_test|plugin|scope|attachable|ingress`)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "dockerpy:", err)
		os.Exit(1)
	}
}

func run() error {
	dir, err := os.MkdirTemp("", "wdockerpy")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	src, err := sources(dir)
	if err != nil {
		return err
	}
	passed := map[harness.Kind]map[string]bool{}
	for _, kind := range []harness.Kind{harness.Docker, harness.Wherry} {
		if passed[kind], err = try(kind, dir, src, nil); err != nil {
			return err
		}
		fmt.Printf("%s: %d passed\n", kind, len(passed[kind]))
	}
	if len(passed[harness.Docker]) == 0 {
		return errors.New("no test passes with dockerd: see -v")
	}
	var missing []string
	for _, test := range slices.Sorted(maps.Keys(passed[harness.Docker])) {
		switch {
		case passed[harness.Wherry][test]:
		case notServed.MatchString(test):
			fmt.Println("not served:", test)
		default:
			missing = append(missing, test)
		}
	}
	never := 0
	for _, test := range missing {
		n := 0
		for range *repeats {
			again, err := try(harness.Wherry, dir, src, []string{test})
			if err != nil {
				return err
			}
			n += len(again)
		}
		fmt.Printf("with dockerd alone: %s (by itself %d of %d times with wherryd)\n", test, n, *repeats)
		if n == 0 {
			never++
		}
	}
	if never > 0 {
		return fmt.Errorf("%d tests pass with dockerd alone", never)
	}
	return nil
}

// sources gives a copy of docker-py's sources that can be run.
func sources(dir string) (string, error) {
	from := *suite
	if from == "" {
		fetched := filepath.Join(dir, "fetched")
		if err := os.Mkdir(fetched, 0o755); err != nil {
			return "", err
		}
		cmd := exec.Command("apt-get", "source", "python3-docker")
		cmd.Dir = fetched
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("cannot get docker-py's tests: apt-get source python3-docker: %w\n%s\n"+
				"Let a line deb-src be among apt's sources, or name a directory: -suite DIR", err, out)
		}
		found, err := filepath.Glob(filepath.Join(fetched, "*", "tests", "integration"))
		if err != nil || len(found) == 0 {
			return "", fmt.Errorf("Debian's source package has no tests (%v): name a directory, -suite DIR", err)
		}
		from = filepath.Dir(filepath.Dir(found[0]))
	}
	src := filepath.Join(dir, "src")
	if err := os.CopyFS(src, os.DirFS(from)); err != nil {
		return "", err
	}
	// What its build would write.
	version := filepath.Join(src, "docker", "_version.py")
	if _, err := os.Stat(version); errors.Is(err, os.ErrNotExist) {
		return src, os.WriteFile(version, []byte("version = __version__ = '0.0.0'\nversion_tuple = (0, 0, 0)\n"), 0o644)
	}
	return src, nil
}

// try runs the tests against a new engine, and gives those that passed.
func try(kind harness.Kind, dir, src string, tests []string) (passed map[string]bool, err error) {
	e, err := harness.New(harness.Options{Kind: kind, Flags: []string{"--registry-mirror", "http://" + mirror}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	if err := e.Start(); err != nil {
		return nil, err
	}
	stop, err := images(e)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(stop(), err) }()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	args := append([]string{"-B", "-m", "pytest", "-p", "no:cacheprovider", "--timeout", "90", "-W", "ignore", "-rA", "--tb=short", "-q"}, tests...)
	if *only != "" {
		args = append(args, "-k", *only)
	}
	if len(tests) == 0 {
		args = append(args, "tests/integration")
	}
	var out bytes.Buffer
	cmd := e.Command(ctx, "/usr/bin/python3", args...)
	cmd.Dir = src
	cmd.Env = append(cmd.Env, "DOCKER_TEST_API_VERSION="+*api, "HOME="+dir)
	cmd.Stdout, cmd.WaitDelay = &out, time.Second
	if *verbose {
		cmd.Stdout = io.MultiWriter(&out, os.Stdout)
	}
	cmd.Stderr = cmd.Stdout
	if err := e.Within(cmd.Start); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != 1 { // 1: some failed
		return nil, fmt.Errorf("pytest: %w\n%s", err, out.Bytes())
	}
	passed = map[string]bool{}
	for s := bufio.NewScanner(&out); s.Scan(); {
		if test, ok := strings.CutPrefix(s.Text(), "PASSED "); ok {
			passed[test] = true
		}
	}
	return passed, nil
}
