// Package testcontainers runs a program's tests that use testcontainers-go, as
// its users write them, against a private engine. They are a module of their own
// in testdata, so that this one does not depend on that library.
package testcontainers

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

func TestTestcontainers(t *testing.T) {
	harness.Require(t, "root", "engine", "busybox", "net")
	dir, err := filepath.Abs("testdata/program")
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
	if err != nil || strings.Count(string(out), "--- PASS:") != 3 {
		t.Errorf("%v\n%s", err, out)
	}
	for _, args := range [][]string{{"ps", "-aq"}, {"network", "ls", "-q", "--filter", "type=custom"}, {"images", "--format", "{{.Repository}}"}} {
		if out, errOut, _, err := e.CLI(args...); strings.TrimPrefix(out, "busybox\n") != "" || err != nil {
			t.Errorf("left behind: %v: %s%s %v", args, out, errOut, err)
		}
	}
}
