package build

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestPage builds every Dockerfile of docs/dockerfile.md and holds the
// commands under it to what they are said to print.
func TestPage(t *testing.T) {
	e := wherryWith(t)
	text, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "dockerfile.md"))
	if err != nil {
		t.Fatal(err)
	}
	dir := contextOf(t, map[string]string{
		"hello.txt": "hello\n", "app/run.sh": "#!/bin/sh\necho app \"$@\"\n", "app/notes.md": "notes\n",
		"site.tar.gz": string(tarball(map[string]string{"site/index.html": "it works\n"})),
	})
	examples := strings.Split(string(text), "```dockerfile\n")[1:]
	const enough = 15 // one per instruction
	if len(examples) < enough {
		t.Fatalf("%d examples found", len(examples))
	}
	for _, ex := range examples {
		file, rest, _ := strings.Cut(ex, "```\n")
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(file), 0o644); err != nil {
			t.Fatal(err)
		}
		must(t, e, "build", "-q", "-t", "demo", dir)
		session, ok := strings.CutPrefix(rest, "```console\n")
		if !ok {
			t.Errorf("nothing is said to come out of\n%s", file)
			continue
		}
		session, _, _ = strings.Cut(session, "```\n")
		var got strings.Builder
		for line := range strings.SplitSeq(session, "\n") {
			command, ok := strings.CutPrefix(line, "$ ")
			if !ok {
				continue
			}
			cmd := e.Command(t.Context(), "sh", "-c", command)
			cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(harness.Binary("wherry"))+":"+os.Getenv("PATH"))
			out, err := cmd.Output()
			if err != nil {
				var exit *exec.ExitError
				if errors.As(err, &exit) {
					err = fmt.Errorf("%w: %s", err, exit.Stderr)
				}
				t.Errorf("%s: %v", command, err)
			}
			got.WriteString(line + "\n" + string(out))
		}
		if d := cmp.Diff(session, got.String()); d != "" {
			t.Errorf("under\n%s(-page +got):\n%s", file, d)
		}
	}
}
