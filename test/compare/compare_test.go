// Package compare runs the same commands of the real docker client against
// dockerd and against wherryd, and of wherry against wherryd, and wants the same
// output. testdata/commands.txt, more.txt, flags.txt and events.txt hold the
// commands in order; accepted.txt the differences between the engines that are
// meant, each with its reason, clients.txt those between the clients. These lists
// may only shrink: an entry that no longer differs fails the test as a new
// difference does.
package compare

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// scrub hides what differs between two runs of the same engine.
var scrub = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "<ID>"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "<ID>"},
	{regexp.MustCompile(`\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d\d:?\d\d| ?Z)?( UTC)?`), "<TIME>"},
	{regexp.MustCompile(`/(containers|layers/rw)/[0-9a-f]{2}/<ID>`), "/$1/<SHARD>/<ID>"},
	{regexp.MustCompile(`(?i)\b(about )?(less than )?(a|an|\d+) (second|minute|hour|day|week|month|year)s?\b`), "<SPAN>"},
	{regexp.MustCompile(`\b\d+(\.\d+)? ?[kMG]i?B\b`), "<SIZE>"},
	{regexp.MustCompile(`\b172\.\d+\.\d+\.\d+\b`), "<IP>"},
	{regexp.MustCompile(`\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b`), "<MAC>"},
	{regexp.MustCompile(`/tmp/wt[0-9]+-[0-9]+-[0-9]+`), "<DIR>"},
	{regexp.MustCompile(`wt[0-9]+-[0-9]+`), "<GROUP>"},
	{regexp.MustCompile(`(?m)^((?:root|UID)\s+)\d+\s+\d+\s+\d+\s+\S+\s+(\S+)\s+\S+`), "$1<PID> <PID> 0 <STIME> $2 <TIME>"},
	// Which program of the runtime failed is an engine's own business.
	{regexp.MustCompile(`failed to create (shim )?task( for container)?: (OCI runtime create failed: runc create failed: )?(unable to start container process: )?`), "failed to create task: "},
	{regexp.MustCompile(`(failed to create task: .*): unknown`), "$1"},
	{regexp.MustCompile(`OCI runtime exec failed: exec failed: (unable to start container process: )?(.*?)(: unknown)?(\r?\n)`), "exec failed: $2$4"},
	// The 20.10 client prints one, both or none, as its threads meet.
	{regexp.MustCompile(`time="<TIME>" level=error msg="error waiting for container: context canceled"\n`), ""},
	{regexp.MustCompile(`time="<TIME>" level=error msg="Can't (add file \S+ to tar|close tar writer): io: read/write on closed pipe"\n`), ""}, // the client's own race with a refusal
	{regexp.MustCompile(`See 'docker run --help'\.\n`), ""},
	{regexp.MustCompile(`no such image: \S+: No such image`), "No such image"}, // 20.10 says it twice
	{regexp.MustCompile(`You cannot remove a running container <ID>. Stop the container before attempting removal or force remove|cannot remove container "\w+": container is running: stop the container before removing or force remove`), "container is running"},
	{regexp.MustCompile(`[ \t]{2,}`), "  "}, // columns are as wide as what was scrubbed
	{regexp.MustCompile(`(?m)[ \t]+$`), ""},
}

func clean(text string) string {
	for _, s := range scrub {
		text = s.re.ReplaceAllString(text, s.with)
	}
	// Newer engines begin their messages with a small letter.
	return firstWord.ReplaceAllStringFunc(text, strings.ToLower)
}

var firstWord = regexp.MustCompile(`(response from daemon|cannot kill container: \w+|failed to create task): [A-Z]`)

// With -second=dockerd the list itself is checked: whatever differs then is
// not the same from run to run and needs a scrub or another command.
var second = flag.String("second", "wherryd", "the engine to compare with dockerd")

var list = flag.String("commands", "testdata/commands.txt", "the list of commands; one of your own to try things out")

type result struct {
	out, err string
	code     int
}

func (r result) String() string {
	return fmt.Sprintf("exit %d\n--- stdout\n%s--- stderr\n%s", r.code, ended(r.out), ended(r.err))
}

func ended(s string) string {
	if s != "" && !strings.HasSuffix(s, "\n") {
		s += "\n"
	}
	return s
}

func lines(t *testing.T, path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, l := range strings.Split(string(b), "\n") {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") {
			list = append(list, l)
		}
	}
	return list
}

// accepted maps a command to the reason why it may differ: "COMMAND  ## REASON".
func accepted(t *testing.T, file string) map[string]string {
	reasons := map[string]string{}
	for _, l := range lines(t, file) {
		command, reason, ok := strings.Cut(l, "  ## ")
		if !ok || strings.TrimSpace(reason) == "" {
			t.Fatalf("%s: no reason in %q", file, l)
		}
		reasons[strings.TrimSpace(command)] = reason
	}
	return reasons
}

func TestCompare(t *testing.T) {
	harness.Require(t, "root", "dockerd", "busybox")
	docker, wherry := harness.DockerCLI(), harness.Binary("wherry")
	for _, c := range []struct {
		name, condition, list string
		clients               []string
	}{
		{"more", "docker28", "testdata/more.txt", []string{docker, wherry}},
		{"docker28", "docker28", *list, []string{docker, wherry}},
		{"docker20", "docker20", *list, []string{harness.OldDockerCLI()}},
		{"flags", "docker28", "testdata/flags.txt", []string{docker, wherry}},
		{"events", "docker28", "testdata/events.txt", []string{docker, wherry}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // most of the time goes by while dockerd waits
			harness.Require(t, c.condition)
			side(t, c.list, c.clients...)
		})
	}
}

// side runs a list with docker's client against both engines, and with a second
// client against wherryd, and compares. dockerd
// itself does not answer the same at each run (which of two events comes first,
// whether it saw an OOM in time), so what is not as expected is looked at a second
// time, with new engines, and is an error if it is so again.
func side(t *testing.T, list string, clients ...string) {
	commands := lines(t, list)
	first := surprises(t, commands, clients)
	if len(first) == 0 {
		return
	}
	again := surprises(t, commands, clients)
	for c, what := range first {
		if _, twice := again[c]; twice {
			t.Errorf("%s\n%s", c, what)
		} else {
			t.Logf("only in the first run: %s\n%s", c, what)
		}
	}
}

// surprises runs the commands in three places at once and gives what is not as
// expected, by the compared pair and the command.
func surprises(t *testing.T, commands, clients []string) map[string]string {
	engines := []harness.Kind{harness.Docker}
	for range clients {
		engines = append(engines, harness.Kind(*second))
	}
	results := make([][]result, len(engines))
	var wg sync.WaitGroup
	for i, kind := range engines {
		e := harness.Run(t, harness.Options{Kind: kind})
		if err := e.LoadBusybox(); err != nil {
			t.Fatal(err)
		}
		dir := workdir(t, clients[max(0, i-1)])
		wg.Go(func() {
			for _, c := range commands {
				results[i] = append(results[i], run(e, dir, c))
			}
		})
	}
	wg.Wait()
	found := compare(t, "dockerd and wherryd", commands, results[0], results[1], accepted(t, "testdata/accepted.txt"))
	if len(clients) > 1 {
		maps.Copy(found, compare(t, "docker and wherry", commands, results[1], results[2], accepted(t, "testdata/clients.txt")))
	}
	return found
}

// compare gives what the second of two has not answered as expected.
func compare(t *testing.T, two string, commands []string, first, second []result, reasons map[string]string) map[string]string {
	found := map[string]string{}
	for n, c := range commands {
		want, got := first[n].String(), second[n].String()
		reason, known := reasons[c]
		switch {
		case want == got && known:
			found[two+": "+c] = "no longer differs; take it out of the list of accepted ones"
		case want != got && !known:
			found[two+": "+c] = diff(want, got)
		case want != got:
			t.Logf("%s: %s differs: %s", two, c, reason)
		}
	}
	t.Logf("%s: %d commands, %d not as expected", two, len(commands), len(found))
	return found
}

// diff shows the lines from the first to the last that differ.
func diff(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	var text strings.Builder
	for _, l := range a {
		fmt.Fprintf(&text, "first:  %s\n", l)
	}
	for _, l := range b {
		fmt.Fprintf(&text, "second: %s\n", l)
	}
	return text.String()
}

// workdir is where the commands run: a `docker` in PATH and a few files.
func workdir(t *testing.T, client string) string {
	dir := t.TempDir()
	files := map[string]string{
		"vars": "ONE=1\nTWO=two words\n", "labels": "from.file=yes\n", "input": "first\nsecond\n", "share/file": "shared\n",
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	root := (&harness.Image{Layers: [][]harness.File{{{Name: "hello", Mode: 0o644, Data: []byte("hello\n")}}}}).RootTar()
	b, err := io.ReadAll(root)
	if err := errors.Join(err, os.WriteFile(filepath.Join(dir, "root.tar"), b, 0o644),
		os.Mkdir(filepath.Join(dir, ".bin"), 0o755), os.Symlink(client, filepath.Join(dir, ".bin", "docker")),
		os.WriteFile(filepath.Join(dir, ".bin", "first"), []byte(first), 0o755), os.WriteFile(filepath.Join(dir, ".bin", "events"), []byte(events), 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// first is `first COMMAND...`: the first line of a command that would go on.
const first = `#!/bin/sh
: > first.out
timeout 30 "$@" > first.out &
until grep -q . first.out; do sleep 0.05; done
kill $!
wait $! 2> /dev/null
head -n 1 first.out
`

// events is `events LAST COMMAND`: it runs the command, waits for an event LAST
// and prints what happened since, sorted, with all attributes but for how long it took.
const events = `#!/bin/sh
since=$(date +%s.%N)
sh -c "$2" > events.out 2>&1 < /dev/null
mkfifo events.pipe
docker events --since $since --filter event=$1 > events.pipe &
timeout 10 head -n 1 events.pipe > events.last || echo "no $1"
kill -9 $! 2> /dev/null
wait $! 2> /dev/null
rm events.pipe
docker events --since $since --until $(date +%s.%N) --format '{{.Type}} {{.Action}} {{.Actor.ID}} {{.Scope}}{{range $k, $v := .Actor.Attributes}}{{if ne $k "execDuration"}} {{$k}}={{$v}}{{end}}{{end}}' | LC_ALL=C sort
`

func run(e *harness.Engine, dir, line string) result {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	cmd := e.Command(ctx, "/bin/sh", "-c", line)
	cmd.Env = append(cmd.Env, "PATH="+filepath.Join(dir, ".bin")+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TZ=UTC")
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	r := result{out: clean(strings.ReplaceAll(out.String(), dir, "<WORK>")), err: clean(strings.ReplaceAll(errOut.String(), dir, "<WORK>"))}
	if cmd.ProcessState != nil {
		r.code = cmd.ProcessState.ExitCode()
	}
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		r.err += "did not end: " + err.Error() + "\n"
	}
	return r
}

// TestScrub pins what is hidden and what is not.
func TestScrub(t *testing.T) {
	for in, want := range map[string]string{
		"8a7abcad0123   busybox   Up 3 seconds    x": "<ID>  busybox  Up <SPAN>  x",
		"Exited (3) About a minute ago":              "Exited (3) <SPAN> ago",
		"Exited (3) Less than a second ago":          "Exited (3) <SPAN> ago",
		"2026-11-21T01:50:07.418820467Z hi":          "<TIME> hi",
		"1.98MB 172.17.0.2":                          "<SIZE> <IP>",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}
