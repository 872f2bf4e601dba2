package compose

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// project is a service whose files are watched, and two images that bake makes,
// one from the other.
var project = map[string]string{
	"compose.yaml": `services:
  web:
    build: .
    command: sh -c 'cat /conf/c; exec sleep 1000'
    init: true
    develop:
      watch:
      - {action: sync, path: ./src, target: /src}
      - {action: sync+restart, path: ./conf, target: /conf}
      - {action: rebuild, path: ./Dockerfile}
`,
	"Dockerfile": "FROM busybox\nCOPY src /src\nCOPY conf /conf\n",
	"src/a":      "first\n",
	"conf/c":     "first\n",
	"docker-bake.hcl": `target "low" {
  dockerfile-inline = "FROM busybox\nARG V\nRUN echo $V >/v\n"
  args = { V = "low" }
}
target "high" {
  matrix = { x = ["a", "b"] }
  name = "high-${x}"
  dockerfile-inline = "FROM below\nRUN echo ${x} >>/v\n"
  contexts = { below = "target:low" }
  tags = ["baked:${x}"]
}
target "files" {
  dockerfile-inline = "FROM scratch\nCOPY src /\n"
  output = ["type=local,dest=out"]
}
`,
}

// TestBuildx: with buildx beside it Compose builds by bake, and watches.
func TestBuildx(t *testing.T) {
	harness.Require(t, "root", "engine", "busybox", "docker28")
	config := harness.DockerConfig(t, harness.Compose(t), harness.Buildx(t))
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range project {
		write(name, text)
	}

	docker := &tool{t, e, "docker", []string{harness.DockerCLI()}, dir, config}
	docker.run("buildx", "bake", "high", "files")
	for x, want := range map[string]string{"a": "low\na\n", "b": "low\nb\n"} {
		if got := docker.run("run", "--rm", "baked:"+x, "cat", "/v"); got != want {
			t.Errorf("baked:%s: %q", x, got)
		}
	}
	if got, err := os.ReadFile(filepath.Join(dir, "out/a")); string(got) != "first\n" {
		t.Errorf("%q %v", got, err)
	}

	c := &tool{t, e, "docker compose", []string{harness.DockerCLI(), "compose", "--progress", "plain"}, dir, config}
	c.run("up", "-d", "--build")
	watching := watch(c)
	defer watching()
	inside := func(path string) func() string {
		return func() string { return c.try("exec", "-T", "web", "cat", path) }
	}
	write("src/a", "second\n")
	c.until(inside("/src/a"), "second\n")
	write("conf/c", "second\n")
	c.until(func() string { return c.try("logs", "--no-log-prefix", "web") }, "first\nsecond\n")
	write("Dockerfile", project["Dockerfile"]+"RUN echo rebuilt >/new\n")
	c.until(inside("/new"), "rebuilt\n")
	watching()
	c.run("down", "-t", "0")
	nothingLeft(t, e)
}

// try is run for what may not be there yet.
func (c *tool) try(args ...string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := c.e.Command(ctx, c.args[0], append(c.args[1:], args...)...)
	cmd.Dir, cmd.Env = c.dir, append(cmd.Env, "DOCKER_CONFIG="+c.config)
	out, _ := cmd.Output()
	return string(out)
}

// watch starts compose's watch and waits until it looks; the function ends it.
func watch(c *tool) (end func()) {
	c.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := c.e.Command(ctx, c.args[0], append(c.args[1:], "watch", "--no-up")...)
	// It notes in HOME that it watches this project.
	cmd.Dir, cmd.Env = c.dir, append(cmd.Env, "DOCKER_CONFIG="+c.config, "HOME="+c.config)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	r, w, err := os.Pipe()
	if err != nil {
		c.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	w.Close()
	said := make(chan string, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var all strings.Builder
		told := false
		for b := make([]byte, 4096); ; {
			n, err := r.Read(b)
			all.Write(b[:n])
			if !told && (err != nil || strings.Contains(all.String(), "Watch enabled")) {
				said <- all.String()
				told = true
			}
			if err != nil {
				break
			}
		}
	}()
	if s := <-said; !strings.Contains(s, "Watch enabled") {
		c.Fatalf("watch ended: %s", s)
	}
	return func() {
		cancel()
		<-ended
		_ = cmd.Wait() // it was interrupted
		r.Close()
	}
}
