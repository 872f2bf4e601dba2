// Package docs runs the commands that the documentation tells people to type:
// every block marked sh in README.md and docs, file by file, each file in an
// engine and a network of its own. "sh no-test: why" is a block that is not run.
package docs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

var block = regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$")

// commands are a file's blocks as one script that says where it is.
func commands(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	for _, at := range block.FindAllSubmatchIndex(text, -1) {
		info, body := string(text[at[2]:at[3]]), string(text[at[4]:at[5]])
		language, why, _ := strings.Cut(info, " ")
		if language != "sh" {
			continue
		}
		line := 1 + strings.Count(string(text[:at[0]]), "\n")
		if why != "" {
			if reason, ok := strings.CutPrefix(why, "no-test: "); !ok || reason == "" {
				t.Errorf("%s:%d: %q is neither sh nor \"sh no-test: why\"", path, line, info)
			}
			continue
		}
		fmt.Fprintf(&script, "echo '== %s:%d' >&2\n%s\n", filepath.Base(path), line, body)
		if strings.HasSuffix(body, "&\n") {
			// Whoever types waits for the engine to say that it listens. All of
			// its listeners are there when one of them answers.
			script.WriteString("until env -u DOCKER_HOST wherry -H unix:///var/run/wherry.sock version >/dev/null 2>&1; do kill -0 $!; done\n")
		}
	}
	return script.String()
}

func TestDocs(t *testing.T) {
	harness.Require(t, "root", "engine", "busybox", "docker28")
	var files []string
	for _, pattern := range []string{"README.md", "docs/*.md", "docs/zh/*.md"} {
		found, err := filepath.Glob(filepath.Join(harness.Root(), pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	ran := 0
	for _, path := range files {
		script := commands(t, path)
		if script == "" {
			continue
		}
		ran++
		name, err := filepath.Rel(harness.Root(), path)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { run(t, script) })
	}
	if ran < 5 {
		t.Errorf("only %d files have commands", ran)
	}
}

func run(t *testing.T, script string) {
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	// What an engine of the documentation writes by its defaults, and its socket,
	// are this script's own; an engine that it starts ends with it.
	const private = `
mount -t tmpfs none /run
for d in /etc /var/lib; do
	mkdir -p /run/over$d/upper /run/over$d/work
	mount -t overlay -o lowerdir=$d,upperdir=/run/over$d/upper,workdir=/run/over$d/work none $d
done
mkdir -p /etc/wherry /var/lib/wherry
mount -t tmpfs none /var/lib/wherry
end() { for p in $(jobs -p); do kill $p && wait $p || true; done; }
trap end EXIT
`
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := e.Command(ctx, "nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", e.PID()), "--", "unshare", "--mount", "--propagation", "private",
		"bash", "-euo", "pipefail", "-c", private+script)
	cmd.Dir = t.TempDir()
	// docker's variables are those that the documentation names; ours would win.
	cmd.Env = slices.DeleteFunc(cmd.Env, func(kv string) bool { return strings.HasPrefix(kv, "WHERRY_HOST=") })
	cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(harness.Binary("wherry"))+":"+os.Getenv("PATH"), "HOME="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
