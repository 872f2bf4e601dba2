// Package compose runs projects with Debian's docker-compose 1.29, with Compose
// v5 as a plugin of docker's client, and with `wherry compose`, unchanged.
package compose

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// tool is one way to call compose.
type tool struct {
	*testing.T
	e      *harness.Engine
	name   string
	args   []string
	dir    string // the project's
	config string
}

// run returns what compose writes to stdout; it must succeed.
func (c *tool) run(args ...string) string {
	c.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := c.e.Command(ctx, c.args[0], append(c.args[1:], args...)...)
	cmd.Dir = c.dir
	cmd.Env = append(cmd.Env, "DOCKER_CONFIG="+c.config, "WHO=you")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		c.Fatalf("%s %s: %v\n%s%s\n%s", c.name, strings.Join(args, " "), err, out.String(), errOut.String(), c.e.LogTail(20))
	}
	return out.String()
}

// ask makes a request from the engine's network until it is answered.
func (c *tool) ask(service, body string) string {
	c.Helper()
	address := "http://" + strings.TrimSpace(c.run("port", service, "8080"))
	args := []string{fmt.Sprintf("--net=/proc/%d/ns/net", c.e.PID()), "curl", "-sS", "--retry", "20", "--retry-delay", "1", "--retry-all-errors", "--fail", "--max-time", "30"}
	if body != "" {
		args = append(args, "-d", body)
	}
	cmd := exec.Command("nsenter", append(args, address)...)
	var errOut bytes.Buffer // has the attempts, too
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		c.Fatalf("%s: %v\n%s", address, err, errOut.String())
	}
	return string(out)
}

func (c *tool) expect(what, got, want string) {
	c.Helper()
	if !strings.Contains(got, want) {
		c.Errorf("%s: %q does not say %q", what, got, want)
	}
}

func TestCompose(t *testing.T) {
	harness.Require(t, "root", "engine", "compose1", "docker28")
	config := harness.DockerConfig(t, harness.Compose(t))
	projects, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	archive := harness.ComposeImages(t)
	e := harness.Run(t, harness.Options{})
	if err := e.LoadArchive(archive); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
	}{
		{"docker-compose", []string{"/usr/bin/docker-compose", "--no-ansi"}},
		{"docker compose", []string{harness.DockerCLI(), "compose"}},
		{"wherry compose", []string{harness.Binary("wherry"), "compose"}},
	} {
		for name, f := range map[string]func(*tool){"redis": redis, "flask": flask, "webdb": webdb} {
			if c.name == "wherry compose" && name != "flask" {
				continue // it is the same program as docker's plugin
			}
			t.Run(c.name+"/"+name, func(t *testing.T) {
				f(&tool{t, e, c.name, c.args, filepath.Join(projects, name), config})
				nothingLeft(t, e)
			})
		}
	}
}

func redis(c *tool) {
	c.run("up", "-d")
	c.expect("ps", c.run("ps"), "Up")
	c.expect("ps", c.run("ps"), "(healthy)")
	c.expect("logs", c.run("logs", "redis"), "Ready to accept connections")
	c.expect("config", c.run("config", "--services"), "counter")
	c.expect("top", c.run("top", "redis"), "redis-server")
	if c.name != "docker-compose" { // 1.29 has no such verb
		file := filepath.Join(c.T.TempDir(), "back")
		c.run("cp", "compose.yaml", "redis:/tmp/copied")
		c.run("cp", "redis:/tmp/copied", file)
		here, err := os.ReadFile(filepath.Join(c.dir, "compose.yaml"))
		back, backErr := os.ReadFile(file)
		if err != nil || backErr != nil || !bytes.Equal(here, back) {
			c.Errorf("cp: %v %v %q", err, backErr, back)
		}
	}
	starts := func() string { return strings.TrimSpace(c.run("exec", "-T", "redis", "redis-cli", "get", "starts")) }
	if n := starts(); n != "1" {
		c.Errorf("%s starts", n)
	}
	c.run("up", "-d", "--scale", "counter=3")
	if ids := strings.Fields(c.run("ps", "-q", "counter")); len(ids) != 3 {
		c.Errorf("scaled to %q", ids)
	}
	c.until(starts, "3")
	c.run("restart", "counter")
	c.until(starts, "6")
	c.run("restart", "redis")
	c.until(starts, "6") // they were on the volume
	stopped := c.events("redis", "die")
	c.run("stop")
	stopped()
	c.run("start")
	c.run("down", "-v", "-t", "1")
}

func flask(c *tool) {
	c.run("build")
	c.run("up", "-d")
	const hello = "Hello from compose, you, from "
	before := c.ask("web", "")
	c.expect("answer", before, hello)
	c.expect("logs", c.run("logs", "web"), "GET / HTTP/1.1")
	c.run("restart", "-t", "5")
	c.expect("answer", c.ask("web", ""), hello)
	c.run("up", "-d", "--scale", "web=2")
	if ids := strings.Fields(c.run("ps", "-q")); len(ids) != 2 {
		c.Errorf("scaled to %q", ids)
	}
	c.run("down", "-v", "-t", "1")
}

func webdb(c *tool) {
	c.run("up", "-d")
	if got := c.ask("web", "first"); got != "first\n" {
		c.Errorf("%q", got)
	}
	c.expect("exec", c.run("exec", "-T", "db", "psql", "--version"), "psql (PostgreSQL)")
	c.run("restart", "-t", "5")
	if got := c.ask("web", "second"); got != "first\nsecond\n" {
		c.Errorf("%q", got)
	}
	// down without -v keeps the volume, up finds it.
	c.run("down", "-t", "5")
	c.run("up", "-d")
	if got := c.ask("web", "third"); got != "first\nsecond\nthird\n" {
		c.Errorf("%q", got)
	}
	c.run("down", "-v", "-t", "5")
}

// events follows those of a service; the function that it returns waits until one
// of them has been told, and ends it.
func (c *tool) events(service, event string) (wait func()) {
	c.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := c.e.Command(ctx, c.args[0], append(c.args[1:], "events", "--json", service)...)
	cmd.Dir = c.dir
	cmd.Env = append(cmd.Env, "DOCKER_CONFIG="+c.config, "PYTHONUNBUFFERED=1")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		c.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	told := func(what string) bool {
		for lines.Scan() {
			if strings.Contains(lines.Text(), what) {
				return true
			}
		}
		return false
	}
	// It says nothing when it listens; what happens all the time is told until then.
	began := make(chan bool, 1)
	go func() { began <- told(`"exec_start`) }()
	for waiting := true; waiting; {
		c.run("exec", "-T", service, "true")
		select {
		case ok := <-began:
			if waiting = false; !ok {
				c.Errorf("%s events ended", c.name)
			}
		default:
		}
	}
	return func() {
		c.Helper()
		if !told(`"` + event + `"`) {
			c.Errorf("%s events: no %s", c.name, event)
		}
		cancel()
		cmd.Wait()
	}
}

// until calls f until it returns want.
func (c *tool) until(f func() string, want string) {
	c.Helper()
	got := f()
	for deadline := time.Now().Add(time.Minute); got != want && time.Now().Before(deadline); got = f() {
	}
	if got != want {
		c.Errorf("%q, want %q", got, want)
	}
}

func nothingLeft(t *testing.T, e *harness.Engine) {
	t.Helper()
	for _, args := range [][]string{{"ps", "-aq"}, {"volume", "ls", "-q"}, {"network", "ls", "-q", "--filter", "type=custom"}} {
		if out, errOut, _, err := e.CLI(args...); out != "" || err != nil {
			t.Errorf("%v: %s%s %v", args, out, errOut, err)
		}
	}
}

// TestWithoutPlugin: who has no plugin is told how to get it.
func TestWithoutPlugin(t *testing.T) {
	harness.Require(t, "engine")
	home := t.TempDir()
	run := func() (string, int) {
		cmd := exec.Command(harness.Binary("wherry"), "--config", home, "compose", "up")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = io.Discard, &out
		cmd.Run()
		return out.String(), cmd.ProcessState.ExitCode()
	}
	for _, dir := range []string{"/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec"} {
		if _, err := os.Stat(filepath.Join(dir, "docker/cli-plugins/docker-compose")); err == nil {
			t.Skip("this machine has the plugin for all users")
		}
	}
	out, code := run()
	for _, want := range []string{"compose is a plugin of its own, and it is not installed here", filepath.Join(home, "cli-plugins/docker-compose"), "apt-get install docker-compose-plugin"} {
		if code != 1 || !strings.Contains(out, want) {
			t.Errorf("%d %s", code, out)
		}
	}
	path := filepath.Join(home, "cli-plugins", "docker-compose")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, code := run(); code != 1 || !strings.Contains(out, "chmod +x it") {
		t.Errorf("%d %s", code, out)
	}
}
