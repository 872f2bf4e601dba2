// Package clients runs programs' tests that use libraries for docker, as their
// users write them, against a private engine. They are modules of their own in
// testdata, so that this one does not depend on those libraries.
package clients

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// passes is how many tests of a program pass.
var passes = map[string]int{"testcontainers": 3, "libraries": 2}

func TestPrograms(t *testing.T) {
	harness.Require(t, "root", "engine", "busybox", "net")
	for name, tests := range passes {
		t.Run(name, func(t *testing.T) { program(t, name, tests) })
	}
}

func program(t *testing.T, name string, tests int) {
	dir, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "program.test")
	build := exec.Command("go", "test", "-c", "-o", program, ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := e.Command(ctx, "nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", e.PID()), "--", program, "-test.v")
	cmd.Dir = dir
	// Its own remover of what is left over is an image on Docker Hub; HOME is where
	// it looks for settings.
	cmd.Env = append(cmd.Env, "TESTCONTAINERS_RYUK_DISABLED=true", "HOME="+t.TempDir())
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "--- PASS:") != tests {
		t.Errorf("%v\n%s", err, out)
	}
	for _, args := range [][]string{{"ps", "-aq"}, {"volume", "ls", "-q"}, {"network", "ls", "-q", "--filter", "type=custom"}, {"images", "--format", "{{.Repository}}"}} {
		if out, errOut, _, err := e.CLI(args...); strings.TrimPrefix(out, "busybox\n") != "" || err != nil {
			t.Errorf("left behind: %v: %s%s %v", args, out, errOut, err)
		}
	}
}
