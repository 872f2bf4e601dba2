// Package examples runs what examples/ shows, with its own scripts, in engines
// of their own. The images are built once by the Dockerfiles there.
package examples

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// mirror is where the engine of the tests asks for the images of Docker Hub.
const mirror = "http://localhost:5002"

// clients are those that every example works with.
var clients = []string{"wherry", "docker"}

// stage is an engine that has the images, and the client that an example's
// scripts use with it.
type stage struct {
	*harness.Engine
	client string // its path
}

func newStage(t *testing.T, archive, client string) *stage {
	t.Helper()
	path := harness.Binary("wherry")
	if client == "docker" {
		harness.Require(t, "docker28")
		path = harness.DockerCLI()
	}
	e := harness.Run(t, harness.Options{Config: `{"registry-mirrors": ["` + mirror + `"]}`})
	if archive != "" {
		if err := e.LoadArchive(archive); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	return &stage{e, path}
}

// TestExamples runs all of them with each client, in an engine for each. Most of
// the time Redis waits for its own timeouts, so they do it side by side.
func TestExamples(t *testing.T) {
	archive := harness.ExampleImages(t)
	for _, client := range clients {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			e := newStage(t, archive, client)
			for _, x := range []struct {
				name string
				run  func(*testing.T, *stage)
			}{
				{"flask", flask}, {"httpd", httpd}, {"volumes-from", volumesFrom}, {"save-load", saveLoad}, {"mirror", lyingMirror},
				{"private-registry", privateRegistry}, {"redis-sentinel", sentinel}, {"redis-cluster", cluster},
			} {
				t.Run(x.name, func(t *testing.T) {
					x.run(t, e)
					left(t, e)
				})
			}
		})
	}
}

// script runs examples/NAME with the engine as its own and in its network.
func script(t *testing.T, e *stage, limit time.Duration, env []string, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	path := filepath.Join(harness.Root(), "examples", name)
	cmd := e.Command(ctx, "nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", e.PID()), "--", path}, args...)...)
	cmd.Env = append(append(cmd.Env, "PATH="+filepath.Dir(harness.Binary("wherry"))+":"+os.Getenv("PATH"), "CLI="+e.client), env...)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must runs a script that has to succeed, and returns what it printed.
func must(t *testing.T, e *stage, env []string, name string, args ...string) string {
	t.Helper()
	out, err := script(t, e, 4*time.Minute, env, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s\n%s", name, strings.Join(args, " "), err, out, e.LogTail(20))
	}
	return out
}

func want(t *testing.T, out string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains(out, l) {
			t.Errorf("%q is not in\n%s", l, out)
		}
	}
}

func flask(t *testing.T, e *stage) {
	want(t, must(t, e, nil, "flask/start"), "8080/tcp -> 0.0.0.0:7777", "Hello from ")
	must(t, e, nil, "flask/stop")
}

func httpd(t *testing.T, e *stage) {
	want(t, must(t, e, nil, "httpd/start"), "80/tcp -> 0.0.0.0:8088", "It works in a container")
	must(t, e, nil, "httpd/stop")
}

func volumesFrom(t *testing.T, e *stage) {
	env := []string{"DIR=" + filepath.Join(t.TempDir(), "made"), "IMAGE=busybox"}
	want(t, must(t, e, env, "volumes-from/start"), "from container1\n<p>hello</p>", "and from another\nread-only here\n<p>hello</p>")
	must(t, e, env, "volumes-from/stop")
}

func saveLoad(t *testing.T, e *stage) {
	other := harness.Run(t, harness.Options{})
	env := []string{"OTHER=" + other.Host(), "IMAGE=busybox"}
	want(t, must(t, e, env, "save-load/start"), "Loaded image: example/changed:latest", "\nchanged\n", "both engines have sha256:")
	must(t, e, env, "save-load/stop")
}

func privateRegistry(t *testing.T, e *stage) {
	// Beside daemon.json is where certs.d is looked for.
	env := []string{"DIR=" + t.TempDir(), "CERTS_D=" + filepath.Join(e.Dir, "certs.d"), "HOME=" + t.TempDir()}
	pulled := []string{"Status: Downloaded newer image for localhost:5000/hello-world:latest", `{"repositories":["hello-world"]}`, "Hello from Wherry!"}
	want(t, must(t, e, env, "private-registry/start"), pulled...)

	// By another address than localhost it is refused until daemon.json names it.
	const host = "172.17.0.1:5000"
	cli := func(args ...string) (string, int) {
		out, errOut, code, err := e.Run(e.client, nil, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out + errOut, code
	}
	cli("tag", "hello-world", host+"/hello")
	if out, code := cli("push", host+"/hello"); code == 0 || !strings.Contains(out, "http: server gave HTTP response to HTTPS client") {
		t.Errorf("%d %s", code, out)
	}
	if err := e.Reload(`{"registry-mirrors": ["` + mirror + `"], "insecure-registries": ["` + host + `"]}`); err != nil {
		t.Fatal(err)
	}
	if out, code := cli("push", host+"/hello"); code != 0 {
		t.Fatalf("not reloaded: %s\n%s", out, e.LogTail(10))
	}
	// The registry can be started again after a restart of the engine.
	if err := e.Restart(); err != nil {
		t.Fatal(err)
	}
	if out, code := cli("restart", "-t", "1", "registry"); code != 0 {
		t.Errorf("%d %s", code, out)
	}
	want(t, must(t, e, env, "private-registry/start", "tls"), "Login Succeeded", "Status: Downloaded newer image for localhost:5001/hello-world:latest")
	must(t, e, env, "private-registry/stop")
	if out, code := cli("pull", "localhost:5001/hello-world"); code == 0 {
		t.Errorf("%s", out)
	}
}

func lyingMirror(t *testing.T, e *stage) {
	env := []string{"DIR=" + t.TempDir()}
	want(t, must(t, e, env, "mirror/start"), "Status: Downloaded newer image for only-in-the-mirror:latest", `["only-in-the-mirror@sha256:`)
	want(t, must(t, e, env, "mirror/experiment"), "refused when wrong, taken when right")
	must(t, e, env, "mirror/stop")
}

// left is an error for containers, volumes and networks that stop did not remove.
func left(t *testing.T, e *stage) {
	t.Helper()
	for _, args := range [][]string{{"ps", "-aq"}, {"volume", "ls", "-q"}, {"network", "ls", "-q", "--filter", "type=custom"}} {
		if out, errOut, _, err := e.CLI(args...); out != "" || err != nil {
			t.Errorf("%v: %s%s %v", args, out, errOut, err)
		}
	}
}
