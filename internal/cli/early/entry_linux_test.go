//go:build amd64 || arm64

package early

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestHandOver runs a program with this package, begun by entry and by Go's
// runtime, beside a wherry-build that tells of its command line.
func TestHandOver(t *testing.T) {
	for name, flags := range map[string]string{"entry": "-E github.com/wherry-engine/wherry/internal/cli/early.entry", "runtime": ""} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			program := filepath.Join(dir, "a name with spaces")
			build := exec.Command("go", "build", "-ldflags", flags, "-o", program, "./testdata/program")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			run := func(program string, args ...string) string {
				cmd := exec.Command(program, args...)
				cmd.Env = []string{"A=one", "B=two words"}
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%q: %v: %s", args, err, out)
				}
				return strings.TrimSuffix(string(out), "\n")
			}
			if got := run(program, "build", "x"); got != "here: build x" {
				t.Errorf("with nothing to become: %q", got)
			}
			script := "#!/bin/sh\necho \"there: $* $A $B\"\n"
			if err := os.WriteFile(filepath.Join(dir, "wherry-build"), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			link := filepath.Join(t.TempDir(), "docker")
			if err := os.Symlink(program, link); err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct{ args, want string }{
				{"", "here: "}, {"b", "here: b"}, {"buil", "here: buil"}, {"build", "there: build one two words"},
				{"builder", "there: builder one two words"}, {"buildx", "there: buildx one two words"},
				{"builde", "here: builde"}, {"builders", "here: builders"}, {"buildxy", "here: buildxy"}, {"buildz", "here: buildz"}, {"built", "here: built"},
				{"build -t a .", "there: build -t a . one two words"}, {"run build", "here: run build"}, {"-D build", "here: -D build"},
			} {
				for _, program := range []string{program, link} {
					if got := run(program, strings.Fields(c.args)...); got != c.want {
						t.Errorf("%s %s: %q, want %q", program, c.args, got, c.want)
					}
				}
			}
		})
	}
}
