package acceptance

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestRedis: Debian's Redis keeps its data in a named volume: over rm and
// re-creation, the death of the engine and prunes while anybody has it.
func TestRedis(t *testing.T) {
	harness.Require(t, "busybox", "redis")
	e := harness.Run(t, harness.Options{})
	im, err := harness.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	im.Names = []string{"redis:latest"}
	im.Config.Cmd = []string{"redis-server", "--dir", "/data", "--appendonly", "yes", "--appendfsync", "always", "--save", ""}
	im.Config.User, im.Config.Volumes = "999:999", map[string]struct{}{"/data": {}}
	im.Layers = append(im.Layers, append(program(t, "/usr/bin/redis-server", "/usr/bin/redis-cli"), harness.File{Name: "data/", Mode: 0o700, UID: 999}))
	if err := e.Load(im.DockerArchive()); err != nil {
		t.Fatal(err)
	}
	cli := func(args ...string) string {
		t.Helper()
		out, errOut, code, err := e.CLI(args...)
		if err != nil || code != 0 {
			t.Fatalf("%q: %d %s %v", args, code, errOut, err)
		}
		return strings.TrimSpace(out)
	}
	redis := func(args ...string) string {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second) // until it listens
		for {
			out, errOut, code, err := e.CLI(append([]string{"exec", "db", "redis-cli"}, args...)...)
			if err == nil && code == 0 && !strings.Contains(out, "LOADING") {
				return strings.TrimSpace(out)
			}
			if time.Now().After(deadline) {
				logs, _, _, _ := e.CLI("logs", "db")
				t.Fatalf("redis-cli %q: %d %s %v\n%s", args, code, errOut, err, logs)
			}
		}
	}
	run := func() { cli("run", "-d", "--name", "db", "-v", "store:/data", "redis") }
	check := func(when, want string) {
		t.Helper()
		if got := redis("get", "key"); got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	run()
	redis("set", "key", "first")
	cli("rm", "-f", "db") // SIGKILL: what was answered is on the disk
	run()
	check("after rm and re-creation", "first")

	redis("set", "key", "second")
	e.Kill()
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	check("after the engine's death", "second")
	if out := cli("volume", "prune", "-af"); strings.Contains(out, "store") {
		t.Errorf("prune: %s", out)
	}
	redis("set", "key", "third")
	cli("stop", "-t", "5", "db")
	if out := cli("volume", "prune", "-af"); strings.Contains(out, "store") {
		t.Errorf("prune beside a stopped container: %s", out)
	}
	cli("start", "db")
	check("after stop, prune and start", "third")
	cli("rm", "-f", "db")
	if out := cli("volume", "prune", "-f"); strings.Contains(out, "store") {
		t.Errorf("prune without -a: %s", out)
	}
	run()
	check("after a prune of anonymous volumes", "third")
	cli("rm", "-f", "db")
	if out := cli("volume", "prune", "-af"); !strings.Contains(out, "store") {
		t.Errorf("prune of what nobody has: %s", out)
	}
	run()
	check("in a new volume", "")
}

// program lists programs of this machine with the libraries that they are
// linked with, for a layer.
func program(t *testing.T, paths ...string) []harness.File {
	t.Helper()
	var files []harness.File
	seen := map[string]bool{}
	add := func(path string) {
		if seen[path] {
			return
		}
		seen[path] = true
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, harness.File{Name: strings.TrimPrefix(path, "/"), Mode: 0o755, Data: data})
	}
	for _, p := range paths {
		real, err := filepath.EvalSymlinks(p)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("ldd", real).Output()
		if err != nil {
			t.Fatal(err)
		}
		add(p)
		for f := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(f, "/") {
				add(f)
			}
		}
	}
	return files
}
