package build

import (
	"archive/tar"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wherry-engine/wherry/test/harness"
)

var (
	buildx    = flag.String("buildx", "", "docker's buildx program, to record with BuildKit's own daemon")
	ask       = flag.String("ask", "", "record only with the builders whose names match this expression")
	only      = flag.String("only", "", "record the cases that match this expression and keep the others")
	buildkitd = flag.String("buildkitd", "", "BuildKit's own daemon; both are built from their modules")
)

// asked are the cases that TestPeers gives to the other builders each time:
// one of each kind, so that a recording that is not theirs is seen.
var asked = []string{
	"add/tar_gz", "arg/scope_stage", "cmd/entrypoint_resets", "copy/chown_names", "copy/symlink", "env/forms", "from/stages",
	"label/several", "onbuild/fires", "run/modes", "workdir/chain", "parser/unknown", "ignore/exceptions",
}

// TestPeers asks the builders of this machine and wants what was recorded.
func TestPeers(t *testing.T) {
	harness.Require(t, "root", "busybox", "git", "dockerd", "docker20", "buildah")
	var cases []*testCase
	for _, c := range loadCases(t) {
		for _, name := range asked {
			if c.name == name {
				cases = append(cases, c)
			}
		}
	}
	if len(cases) != len(asked) {
		t.Fatalf("%d of %d cases found", len(cases), len(asked))
	}
	base := baseImage(t)
	for _, b := range newPeers(t) {
		rec := readRecorded(t, b.name)
		t.Run(b.name, func(t *testing.T) {
			for _, c := range cases {
				got, want := b.run(t, c, base).recording(c), rec[c.name]
				if (got.failed != "") != (want.failed != "") {
					t.Errorf("%s: fails with %q, recorded %q", c.name, got.failed, want.failed)
				}
				got.failed, want.failed = "", ""
				if d := cmp.Diff(want, got, cmp.AllowUnexported(recorded{})); d != "" {
					t.Errorf("%s (-recorded +got):\n%s", c.name, d)
				}
			}
		})
	}
}

// newPeers are the builders of Debian's packages, in one network namespace.
func newPeers(t testing.TB) []*builder {
	t.Helper()
	e := harness.Run(t, harness.Options{Kind: harness.Docker})
	t.Cleanup(func() {
		// dockerd's BuildKit makes it and leaves it behind; the directory says if it is in use.
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + e.ID + "/buildkit")
		for _, g := range groups {
			os.Remove(g)
		}
	})
	load(t, e)
	vars := serve(t, e)
	return []*builder{newDocker(t, e, vars, true), newDocker(t, e, vars, false), newBuildah(t, e, vars)}
}

// TestRecord writes testdata/recorded anew.
func TestRecord(t *testing.T) {
	if !*record {
		t.Skip("only with -record")
	}
	harness.Require(t, "root", "busybox", "git", "dockerd", "docker20", "buildah")
	cases, base := loadCases(t), baseImage(t)
	list := newPeers(t)
	if *buildx != "" && *buildkitd != "" {
		list = append(list, newBuildkitd(t, list[0].engine, list[0].vars))
	}
	some, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	which, err := regexp.Compile(*ask)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range list {
		if !which.MatchString(b.name) {
			continue
		}
		rec := map[string]recorded{}
		if *only != "" {
			rec = readRecorded(t, b.name)
		}
		start := time.Now()
		for _, c := range cases {
			if some.MatchString(c.name) {
				rec[c.name] = b.run(t, c, base).recording(c)
			}
		}
		writeRecorded(t, b.name, cases, rec)
		t.Logf("%s: %d cases in %v", b.name, len(rec), time.Since(start).Round(time.Second))
	}
}

// newBuildkitd is docker's buildx with BuildKit's own daemon on runc.
func newBuildkitd(t testing.TB, e *harness.Engine, vars *strings.Replacer) *builder {
	t.Helper()
	dir, err := os.MkdirTemp("", "wtbk") //nolint:usetesting // a socket's path may hold 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(*buildkitd, "--addr", "unix://"+socket, "--root", filepath.Join(dir, "root"), "--oci-worker-net", "host", "--containerd-worker=false")
	cmd.Stdout, cmd.Stderr = log, log
	if err := e.Within(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) { // it announces itself to nobody
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("buildkitd does not listen")
		}
	}
	env := append(os.Environ(), "BUILDX_CONFIG="+filepath.Join(dir, "buildx"), "DOCKER_CONFIG="+filepath.Join(dir, "config"), "BUILDX_NO_DEFAULT_ATTESTATIONS=1")
	create := exec.Command(*buildx, "create", "--name", "peer", "--driver", "remote", "unix://"+socket)
	create.Env = env
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("buildx create: %v\n%s", err, out)
	}
	list, err := images()
	if err != nil {
		t.Fatal(err)
	}
	var contexts []string
	for _, im := range list {
		name, _, _ := strings.Cut(im.Names[0], ":")
		layout := filepath.Join(dir, name)
		if err := untar(im.OCIArchive(""), layout); err != nil {
			t.Fatal(err)
		}
		contexts = append(contexts, "--build-context", name+"=oci-layout://"+layout)
	}
	b := &builder{name: "buildkitd", engine: e, vars: vars, dir: dir}
	b.build = func(c *testCase, ctx string) *exec.Cmd {
		args := append([]string{"build", "--builder", "peer", "-t", c.tag()}, contexts...)
		if c.out == "" && !strings.Contains(strings.Join(c.args, " "), "--check") {
			args = append(args, "-o", "type=docker,dest="+filepath.Join(dir, "image.tar"))
		}
		cmd := exec.Command(*buildx, append(append(args, c.args...), c.where(ctx))...)
		cmd.Env = env
		return cmd
	}
	b.image = func(string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, "image.tar")) }
	return b
}

// untar unpacks plain files and directories.
func untar(r io.Reader, dir string) error {
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dir, h.Name)
		if strings.HasSuffix(h.Name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		f, err := os.Create(path)
		if err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		_, err = io.Copy(f, tr)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
}
