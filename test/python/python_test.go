// Package python runs the unit tests in testdata, which use Debian's
// python3-docker as a user's program would, against a private engine.
package python

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

var engine = flag.String("engine", "wherryd", "wherryd, or dockerd to see that the tests are true of the real one")

// interpreter is Debian's own; a shim earlier in PATH would not see Debian's
// packages.
const interpreter = "/usr/bin/python3"

func TestPython(t *testing.T) {
	harness.Require(t, "python", "busybox")
	files, err := filepath.Glob("testdata/test_*.py")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests in testdata: %v", err)
	}
	e := harness.Run(t, harness.Options{Kind: harness.Kind(*engine)})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			abs, err := filepath.Abs("testdata")
			if err != nil {
				t.Fatal(err)
			}
			cmd := e.Command(ctx, interpreter, "-B", "-m", "unittest", "-v", filepath.Base(file))
			cmd.Dir = abs
			cmd.Env = append(cmd.Env, "ENGINE="+*engine)
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
			cmd.WaitDelay = time.Second
			if err := cmd.Run(); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		})
	}
}
