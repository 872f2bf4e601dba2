package builder

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// A kill of the engine, or of the client, while any of the steps runs leaves
// nothing, and the next build uses every step that was finished.
func TestKilledAnywhere(t *testing.T) {
	e := engine(t, "")
	const steps = 8
	for round := range 6 {
		var text strings.Builder
		fmt.Fprintf(&text, "FROM busybox\nENV round=%d\nCOPY f /f\n", round)
		for n := range steps {
			fmt.Fprintf(&text, "RUN date +%%N > /%[1]d; echo now $(expr %[1]d + 0)\n", n)
		}
		dir := files(t, map[string]string{"f": fmt.Sprint(round), "Dockerfile": text.String()})
		point, client := rand.IntN(steps), round%2 == 1
		killBuild(t, e, dir, point, client)
		if !client {
			if err := e.Start(); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "no step is left", func() bool { return len(stepsOf(e)) == 0 })
		eventually(t, "no mount is left", func() bool { return len(left(t, e)) == 0 })
		out, stderr, code, err := e.CLI("build", "--progress", "plain", "-t", "again", dir)
		if err != nil || code != 0 {
			t.Fatalf("round %d, after a kill in step %d: %d %v\n%s%s", round, point, code, err, out, stderr)
		}
		// One for COPY.
		if n := strings.Count(stderr, " CACHED\n"); n < point+1 {
			t.Errorf("round %d, after a kill in step %d (client: %v) %d steps are cached\n%s", round, point, client, n, stderr)
		}
		if out, stderr, code, err := e.CLI("run", "--rm", "again", "cat", "/f", fmt.Sprint("/", steps-1)); err != nil || code != 0 || !strings.HasPrefix(out, fmt.Sprint(round)) {
			t.Errorf("round %d: %q %q %d %v", round, out, stderr, code, err)
		}
	}
}

// killBuild begins a build and kills engine or client once the step speaks.
func killBuild(t *testing.T, e *harness.Engine, dir string, step int, client bool) {
	t.Helper()
	cmd := e.Command(t.Context(), harness.Binary("wherry"), "build", "--progress", "plain", dir)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stderr = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var seen strings.Builder
	killed := false
	for lines := bufio.NewScanner(r); lines.Scan(); {
		fmt.Fprintln(&seen, lines.Text())
		if !killed && strings.HasSuffix(lines.Text(), fmt.Sprint(" now ", step)) {
			killed = true
			if client {
				cmd.Process.Kill()
			} else {
				e.Kill()
			}
		}
	}
	cmd.Wait() //nolint:errcheck // it was cut off
	if !killed {
		t.Fatalf("step %d was not seen\n%s", step, seen.String())
	}
}

// stepsOf lists what runs in steps of builds.
func stepsOf(e *harness.Engine) (list []string) {
	for _, p := range e.Processes() {
		if strings.Contains(p, "/bin/sh -c date") {
			list = append(list, p)
		}
	}
	return list
}

// After a crash of the machine, which may have torn what is not synced, the
// builder begins with an empty cache; images stay.
func TestMachineCrash(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN date +%N > /f\n"})
	build := func(tag string) (cached bool) {
		t.Helper()
		out, stderr, code, err := e.CLI("build", "--progress", "plain", "-t", tag, dir)
		if err != nil || code != 0 {
			t.Fatalf("%q %q %d %v", out, stderr, code, err)
		}
		return strings.Contains(stderr, " CACHED\n")
	}
	build("one")
	if !build("two") {
		t.Error("the second build is not cached")
	}
	e.Kill()
	for name, text := range map[string]string{"open": "another boot\n", "cache.db": "torn", "metadata_v2.db": "torn", "history.db": "", "history-meta.db": "torn"} {
		if err := os.WriteFile(e.DataRoot()+"/build/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	if build("three") {
		t.Error("the build after the crash is cached")
	}
	for _, tag := range []string{"one", "two", "three"} {
		if out, stderr, code, err := e.CLI("run", "--rm", tag, "cat", "/f"); err != nil || code != 0 || out == "" {
			t.Errorf("%s: %q %q %d %v", tag, out, stderr, code, err)
		}
	}
}
