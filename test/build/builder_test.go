package build

import (
	"bytes"
	"context"
	"errors"
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

// buildLimit bounds one build of a case.
const buildLimit = time.Minute

// builder is a program that builds images, with what it needs to run.
type builder struct {
	name   string
	engine *harness.Engine // whose network namespace it is in
	vars   *strings.Replacer
	dir    string   // of its own
	stubs  []string // files that each of its RUN steps leaves in the image, which are not compared

	build func(c *testCase, dir string) *exec.Cmd // what builds the case's context in dir, as tag
	image func(tag string) ([]byte, error)        // the image as `save` writes it
}

// result is what became of one case.
type result struct {
	*made         // nil if the build failed or made no image
	stderr string // of the build
	code   int
	files  string // of an output that is not an image
}

func (c *testCase) tag() string { return "case-" + strings.ReplaceAll(c.name, "/", "-") }

// run builds a case.
func (b *builder) run(t testing.TB, c *testCase, base *made) *result {
	t.Helper()
	dir := t.TempDir()
	if err := c.unpack(dir, b.vars); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildLimit)
	defer cancel()
	cmd := b.build(c, dir)
	for i := range cmd.Args {
		cmd.Args[i] = b.vars.Replace(cmd.Args[i])
	}
	cmd.Dir = dir
	cmd.Env = append(cmd.Env, c.env...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	switch c.stdin {
	case "":
	case "tar":
		tar := exec.Command("tar", "-c", ".")
		tar.Dir = dir
		text, err := tar.Output()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdin = bytes.NewReader(text)
	default:
		text, err := os.ReadFile(filepath.Join(dir, c.stdin))
		if err != nil {
			t.Fatal(err)
		}
		if c.ctx == "" {
			os.Remove(filepath.Join(dir, c.stdin)) // not part of the context
		}
		cmd.Stdin = bytes.NewReader(text)
	}
	if err := b.engine.Within(cmd.Start); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		cmd.Process.Kill()
		t.Fatalf("%s: the build did not end within %v:\n%s", b.name, buildLimit, errOut.String())
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	r := &result{stderr: errOut.String() + out.String(), code: cmd.ProcessState.ExitCode()}
	if r.code != 0 {
		return r
	}
	switch c.out {
	case "":
		archive, err := b.image(c.tag())
		if err != nil {
			return &result{stderr: r.stderr + "\n" + err.Error(), code: -1}
		}
		if r.made, err = readArchive(archive); err != nil {
			t.Fatalf("%s: %v", b.name, err)
		}
		for _, p := range b.stubs {
			if base.tree[p] == "" {
				delete(r.tree, p)
			}
		}
		if r.tree["bin/busybox"] == "" {
			base = nil // it does not stand on it
		}
		r.files = r.than(base)
	case "DIR":
		r.files, err = listing(filepath.Join(dir, "OUT"))
	case "TAR":
		m := &made{tree: map[string]string{}}
		err = m.apply(out.Bytes())
		r.files = m.than(nil)
	case "TEXT":
		r.files = out.String()
	}
	if err != nil {
		return &result{stderr: r.stderr + "\n" + err.Error(), code: -1}
	}
	return r
}

// listing is a directory's files with their contents.
func listing(dir string) (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %v", strings.TrimPrefix(path, dir), info.Mode())
		if info.Mode().IsRegular() {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", text)
		}
		b.WriteByte('\n')
		return nil
	})
	return b.String(), err
}

// newWherry is `wherry build` on a private wherryd.
func newWherry(t testing.TB) *builder {
	t.Helper()
	e := harness.Run(t, harness.Options{})
	load(t, e)
	return &builder{
		name: "wherry", engine: e, vars: serve(t, e),
		build: func(c *testCase, dir string) *exec.Cmd {
			args := append([]string{"build", "-t", c.tag()}, c.args...)
			return e.Command(context.Background(), harness.Binary("wherry"), append(args, c.where(dir))...)
		},
		image: func(tag string) ([]byte, error) { return save(e, tag) },
	}
}

// newDocker is docker 20.10 on a private dockerd, with one of its two builders.
func newDocker(t testing.TB, e *harness.Engine, vars *strings.Replacer, buildkit bool) *builder {
	t.Helper()
	b := &builder{name: "classic", engine: e, vars: vars, image: func(tag string) ([]byte, error) { return save(e, tag) }}
	kit := "0"
	if buildkit {
		b.name, kit = "buildkit", "1"
	}
	b.build = func(c *testCase, dir string) *exec.Cmd {
		args := []string{"build", "-t", c.tag()}
		if buildkit {
			args = append(args, "--progress", "plain")
		}
		cmd := e.Command(context.Background(), harness.OldDockerCLI(), append(append(args, c.args...), c.where(dir))...)
		cmd.Env = append(cmd.Env, "DOCKER_BUILDKIT="+kit, "TMPDIR="+dir+"/..") // the classic one leaves clones of repositories
		return cmd
	}
	return b
}

func (c *testCase) where(dir string) string {
	switch {
	case c.ctx != "":
		return c.ctx
	case c.stdin == "tar":
		return "-"
	}
	return dir
}

func load(t testing.TB, e *harness.Engine) {
	t.Helper()
	list, err := images()
	if err != nil {
		t.Fatal(err)
	}
	for _, im := range list {
		if err := e.Load(im.DockerArchive()); err != nil {
			t.Fatal(err)
		}
	}
}

func save(e *harness.Engine, tag string) ([]byte, error) {
	code, body, err := e.API("GET", "/images/"+tag+"/get", nil)
	if err == nil && code != 200 {
		err = fmt.Errorf("save %s: %d %s", tag, code, body)
	}
	return body, err
}

// newBuildah is Debian's buildah with storage of its own.
func newBuildah(t testing.TB, e *harness.Engine, vars *strings.Replacer) *builder {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "registries.conf")
	if err := os.WriteFile(conf, []byte("unqualified-search-registries = [\"docker.io\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) *exec.Cmd {
		global := []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs", "--registries-conf", conf}
		cmd := exec.Command("/usr/bin/buildah", append(global, args...)...)
		cmd.Env = append(os.Environ(), "TMPDIR="+dir)
		return cmd
	}
	list, err := images()
	if err != nil {
		t.Fatal(err)
	}
	for i, im := range list {
		path := filepath.Join(dir, fmt.Sprintf("base%d.tar", i))
		text, err := io.ReadAll(im.DockerArchive())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := command("pull", "docker-archive:"+path).CombinedOutput(); err != nil {
			t.Fatalf("buildah pull: %v\n%s", err, out)
		}
	}
	return &builder{
		name: "buildah", engine: e, vars: vars, dir: dir, stubs: []string{"etc/hostname", "etc/hosts", "etc/resolv.conf", "run"},
		build: func(c *testCase, dir string) *exec.Cmd {
			args := []string{"bud", "-t", c.tag(), "--pull-never", "--isolation", "chroot", "--network", "host", "--format", "docker"}
			return command(append(append(args, c.args...), c.where(dir))...)
		},
		image: func(tag string) ([]byte, error) {
			path := filepath.Join(dir, "image.tar")
			defer os.Remove(path)
			if out, err := command("push", "localhost/"+tag, "docker-archive:"+path).CombinedOutput(); err != nil {
				return nil, fmt.Errorf("buildah push: %w\n%s", err, out)
			}
			return os.ReadFile(path)
		},
	}
}
