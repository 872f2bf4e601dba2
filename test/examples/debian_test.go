package examples

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// debian makes whole Debians: go test ./test/examples -run TestDebian -debian.
var debian = flag.Bool("debian", false, "make the examples' base image with bootstrap and debootstrap, too")

// TestDebianPulled: a registry has it.
func TestDebianPulled(t *testing.T) {
	for _, client := range clients {
		t.Run(client, func(t *testing.T) {
			e := newStage(t, "", client)
			env := []string{"DIR=" + t.TempDir()}
			must(t, e, env, "mirror/start")
			run := func(args ...string) string {
				t.Helper()
				out, errOut, code, err := e.Run(e.client, nil, args...)
				if code != 0 || err != nil {
					t.Fatalf("%v: %s%s %v", args, out, errOut, err)
				}
				return out
			}
			run("tag", "busybox", "localhost:5002/library/debian:bookworm-slim")
			run("push", "-q", "localhost:5002/library/debian:bookworm-slim")
			id := run("image", "inspect", "-f", "{{.Id}}", "busybox")
			run("rmi", "localhost:5002/library/debian:bookworm-slim", "busybox")
			must(t, e, env, "debian/make")
			if got := run("image", "inspect", "-f", "{{.Id}}", "example/debian"); got != id {
				t.Errorf("%s, not %s", got, id)
			}
			must(t, e, env, "debian/make") // there it is
			must(t, e, env, "mirror/stop")
		})
	}
}

// TestDebianMade: no registry answers; the engine makes it, or debootstrap where
// no wherry is.
func TestDebianMade(t *testing.T) {
	if !*debian {
		t.Skip("takes a few minutes: -debian")
	}
	harness.Require(t, "root", "engine", "net", "docker28")
	for _, way := range []string{"bootstrap", "debootstrap"} {
		t.Run(way, func(t *testing.T) {
			e := &stage{harness.Run(t, harness.Options{HostNet: true}), harness.DockerCLI()}
			var env []string
			if way == "debootstrap" {
				// A wherry that knows no such verb, as an older one.
				dir := t.TempDir()
				if err := os.WriteFile(filepath.Join(dir, "wherry"), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
					t.Fatal(err)
				}
				env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
			}
			t.Log(must(t, e, env, "debian/make"))
			out, errOut, code, err := e.Run(e.client, nil, "run", "--rm", "--network", "none", "example/debian", "sh", "-c", "cat /etc/debian_version; dpkg -l apt")
			if code != 0 || err != nil {
				t.Errorf("%s%s %v", out, errOut, err)
			}
			want(t, out, "12.", "ii  apt ")
		})
	}
}
