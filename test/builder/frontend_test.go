package builder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

const frontends = "127.0.0.1:5001"

// pushFrontend builds a program, makes an image of it and leaves that in the
// registry alone.
func pushFrontend(t *testing.T, e *harness.Engine, pkg, ref, labels string) {
	t.Helper()
	dir := t.TempDir()
	program, err := harness.Program(dir, pkg)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(program)
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY "+name+" /bin/frontend\n"+labels+"ENTRYPOINT [\"/bin/frontend\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	wherry(t, e, "build", "-q", "-t", ref, "--push", dir)
	wherry(t, e, "rmi", ref)
}

// BuildKit's own Dockerfile frontend, as an image that `# syntax=` names, is
// fetched and run, for each client that speaks BuildKit.
func TestFrontendImage(t *testing.T) {
	e := engine(t, "")
	harness.Require(t, "docker20")
	e.ServeRegistry(t, frontends)
	pushFrontend(t, e, "github.com/moby/buildkit/frontend/dockerfile/cmd/dockerfile-frontend", frontends+"/dockerfile:1",
		"LABEL moby.buildkit.frontend.network.none=true moby.buildkit.frontend.caps=moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests,moby.buildkit.frontend.contexts\n")
	dir := files(t, map[string]string{
		"Dockerfile": "# syntax=" + frontends + "/dockerfile:1\nFROM busybox AS first\nCOPY f /f\nRUN <<E\ncat /f > /g\nE\nFROM first\nUSER daemon\n", "f": "content\n",
		"Bad":     "# syntax=" + frontends + "/dockerfile:1\nFROM busybox\nRUN exit 3\n",
		"Missing": "# syntax=" + frontends + "/missing:1\nFROM busybox\n",
	})
	bx := buildx(t, e)[1]
	for _, c := range []struct {
		name string
		env  []string
		args []string
	}{
		{"wherry", nil, []string{harness.Binary("wherry"), "build", "--progress", "plain"}},
		{"buildx", nil, []string{bx, "build", "--progress", "plain"}},
		{"docker 20.10", []string{"DOCKER_BUILDKIT=1"}, []string{harness.OldDockerCLI(), "build", "--progress", "plain"}},
	} {
		out, code := client(t, e, c.env, nil, append(c.args, "--no-cache", "-t", "t", dir)...)
		if code != 0 || !strings.Contains(out, frontends+"/dockerfile:1@sha256:") {
			t.Errorf("%s: exit %d\n%s", c.name, code, out)
			continue
		}
		if got := inside(t, e, "t", "sh", "-c", "cat /g; id -un"); got != "content\ndaemon\n" {
			t.Errorf("%s: %q", c.name, got)
		}
		for file, want := range map[string]string{"Bad": "exit code: 3", "Missing": frontends + "/missing:1: not found"} {
			if out, code := client(t, e, c.env, nil, append(c.args, "-f", filepath.Join(dir, file), dir)...); code != 1 || !strings.Contains(out, want) {
				t.Errorf("%s, %s: exit %d\n%s", c.name, file, code, out)
			}
		}
	}
	for call, want := range map[string]string{"targets": "first", "check": "Check complete, no warnings found."} {
		if out := wherry(t, e, "build", "--call", call, dir); !strings.Contains(out, want) {
			t.Errorf("--call %s:\n%s", call, out)
		}
	}
}

// A frontend may run containers: several processes in one, with their input,
// output, user and exit codes.
func TestFrontendContainers(t *testing.T) {
	e := engine(t, "")
	e.ServeRegistry(t, frontends)
	pushFrontend(t, e, "./test/builder/testdata/gateway", frontends+"/gateway:1", "")
	dir, out := files(t, map[string]string{"Dockerfile": "# syntax=" + frontends + "/gateway:1\n"}), t.TempDir()
	wherry(t, e, "build", "--build-arg", "base=busybox", "-o", out, dir)
	if b, err := os.ReadFile(filepath.Join(out, "said")); err != nil || string(b) != "main\nbeside /tmp 1\nthrough a pipe\n" {
		t.Errorf("%q %v", b, err)
	}
}
