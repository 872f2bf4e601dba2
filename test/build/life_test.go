package build

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// contextOf writes files into a new directory.
func contextOf(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func wherryWith(t testing.TB) *harness.Engine {
	t.Helper()
	harness.Require(t, "root", "engine", "busybox")
	e := harness.Run(t, harness.Options{})
	load(t, e)
	return e
}

// must runs a command line of wherry that succeeds, and returns what it wrote.
func must(t testing.TB, e *harness.Engine, args ...string) (stdout, stderr string) {
	t.Helper()
	out, errOut, code, err := e.CLI(args...)
	if err != nil || code != 0 {
		t.Fatalf("wherry %s: code %d, %v\n%s", strings.Join(args, " "), code, err, errOut)
	}
	return out, errOut
}

// TestKilledClient kills the client in the middle of a step: the step ends,
// nothing of it stays, and the next build uses what was finished before.
func TestKilledClient(t *testing.T) {
	e := wherryWith(t)
	const mark = "86399" // seconds that nobody else sleeps
	const finished = "FROM busybox\nRUN echo made $(cat /proc/sys/kernel/random/uuid) | tee /finished\n"
	dir := contextOf(t, map[string]string{"Dockerfile": finished + "RUN echo begun; sleep " + mark})
	cmd := e.Command(context.Background(), harness.Binary("wherry"), "build", "--progress", "plain", dir)
	progress, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	begun, made := false, ""
	for lines := bufio.NewScanner(progress); !begun && lines.Scan(); {
		begun = strings.HasSuffix(lines.Text(), " begun")
		if _, id, ok := strings.Cut(lines.Text(), " made "); ok && len(id) == 36 {
			made = id
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // killed
	if !begun {
		t.Fatal("the step did not begin")
	}
	// Nobody is told when the engine has given the step up.
	for deadline := time.Now().Add(10 * time.Second); sleeping(t, mark); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the step still runs 10 s after its client was killed")
		}
	}
	// The builder may still know the step from the killed build, and then does
	// not call it cached; what it made tells.
	dir = contextOf(t, map[string]string{"Dockerfile": finished + "RUN echo other"})
	_, text := must(t, e, "build", "-t", "after", dir)
	out, _ := must(t, e, "run", "--rm", "after", "cat", "/finished")
	if made == "" || out != "made "+made+"\n" {
		t.Errorf("the step that was finished is done again: it made %q, now %q\n%s", made, out, text)
	}
	out, _ = must(t, e, "builder", "history", "ls", "--format", "{{.Status}}")
	if strings.Contains(out, "Running") {
		t.Errorf("the history says that it runs: %q", out)
	}
}

// sleeping tells whether a process sleeps that many seconds.
func sleeping(t testing.TB, mark string) bool {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && bytes.Contains(b, []byte("sleep\x00"+mark)) {
			return true
		}
	}
	return false
}

// TestParallel builds many things at once; what they share is built once.
func TestParallel(t *testing.T) {
	e := wherryWith(t)
	const n = 8
	ids := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		dir := contextOf(t, map[string]string{"Dockerfile": fmt.Sprintf(
			"FROM busybox\nRUN --mount=type=cache,target=/c echo x >> /c/shared && cp /c/shared /shared\nRUN echo %d > /mine\n", i%(n/2)), "f": "x"})
		wg.Go(func() {
			out, errOut, code, err := e.CLI("build", "-q", "-t", fmt.Sprintf("p%d", i), dir)
			if err != nil || code != 0 {
				t.Errorf("build %d: code %d, %v\n%s", i, code, err, errOut)
			}
			ids[i] = strings.TrimSpace(out)
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for i := range n {
		if ids[i] != ids[(i+n/2)%n] {
			t.Errorf("the same Dockerfile makes %s and %s", ids[i], ids[(i+n/2)%n])
		}
		out, _ := must(t, e, "run", "--rm", fmt.Sprintf("p%d", i), "cat", "/mine", "/shared")
		if want := fmt.Sprintf("%d\nx\n", i%(n/2)); out != want {
			t.Errorf("image %d holds %q, want %q: the shared step was done more than once", i, out, want)
		}
	}
}

// transferred is how many bytes of the context travelled, as the progress
// tells.
func transferred(t testing.TB, e *harness.Engine, dir string) (bytes int64) {
	t.Helper()
	_, text := must(t, e, "build", "--progress", "rawjson", dir)
	for line := range strings.SplitSeq(text, "\n") {
		var s struct {
			Statuses []struct {
				ID      string `json:"id"`
				Current int64  `json:"current"`
			} `json:"statuses"`
		}
		if line == "" {
			continue
		}
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		for _, st := range s.Statuses {
			if st.ID == "transferring context:" {
				bytes = max(bytes, st.Current)
			}
		}
	}
	return bytes
}

// TestOnlyChangesTravel changes one file of many.
func TestOnlyChangesTravel(t *testing.T) {
	e := wherryWith(t)
	files := map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n"}
	const size = 32 << 10
	for i := range 100 {
		files[fmt.Sprintf("d%d/f%d", i%10, i)] = strings.Repeat("x", size)
	}
	dir := contextOf(t, files)
	if n := transferred(t, e, dir); n < 100*size {
		t.Fatalf("%d bytes travel the first time: this test does not see them all", n)
	}
	if err := os.WriteFile(filepath.Join(dir, "d1/f1"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if n := transferred(t, e, dir); n == 0 || n >= size {
		t.Errorf("%d bytes travel when a file of 7 bytes changed", n)
	}
	must(t, e, "build", "-q", "-t", "changed", dir)
	if got := fileOf(t, e, "changed", "d1/f1"); got != `-rw-r--r-- 0:0 "changed"` {
		t.Errorf("the image has %s", got)
	}
}

// fileOf is what an image holds at a path.
func fileOf(t testing.TB, e *harness.Engine, tag, path string) string {
	t.Helper()
	b, err := save(e, tag)
	if err != nil {
		t.Fatal(err)
	}
	m, err := readArchive(b)
	if err != nil {
		t.Fatal(err)
	}
	return m.tree[path]
}

// TestRebuild changes what one COPY takes: only what follows is done again.
func TestRebuild(t *testing.T) {
	e := wherryWith(t)
	dir := contextOf(t, map[string]string{
		"Dockerfile": "FROM busybox\nRUN echo one\nCOPY a.txt /\nRUN echo two\nCOPY b.txt /\nRUN echo three\n", "a.txt": "a", "b.txt": "b",
	})
	must(t, e, "build", dir)
	first, _ := must(t, e, "build", "-q", dir)
	if second, text := must(t, e, "build", "--iidfile", filepath.Join(dir, "../iid"), dir); strings.Count(text, "CACHED") != 5 {
		t.Errorf("not all steps are cached:\n%s%s", second, text)
	}
	iid, err := os.ReadFile(filepath.Join(dir, "../iid"))
	if err != nil || string(iid) != strings.TrimSpace(first) {
		t.Errorf("the same build is %q, then %q (%v)", first, iid, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "b.txt"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, text := must(t, e, "build", dir)
	for _, s := range []string{"echo one", "COPY a.txt", "echo two"} {
		if !cached(text, s) {
			t.Errorf("%s is done again:\n%s", s, text)
		}
	}
	for _, s := range []string{"COPY b.txt", "echo three"} {
		if cached(text, s) {
			t.Errorf("%s is not done again:\n%s", s, text)
		}
	}
}

// cached tells whether plain progress calls the step that says what cached.
func cached(text, what string) bool {
	for line := range strings.SplitSeq(text, "\n") {
		if n, rest, ok := strings.Cut(line, " ["); ok && strings.HasSuffix(rest, what) || ok && strings.Contains(rest, what+" ") {
			return strings.Contains(text, "\n"+n+" CACHED\n")
		}
	}
	return false
}

// TestNoBuilder says what is missing when wherry stands alone.
func TestNoBuilder(t *testing.T) {
	harness.Require(t, "engine")
	dir := t.TempDir()
	alone := filepath.Join(dir, "wherry")
	b, err := os.ReadFile(harness.Binary("wherry"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(alone, b, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"build", "."}, {"image", "build", "."}, {"builder", "prune"}, {"build", "--help"}} {
		cmd := exec.Command(alone, args...)
		cmd.Env = []string{"PATH=" + dir, "HOME=" + dir}
		out, _ := cmd.CombinedOutput() // the code is looked at below
		if code := cmd.ProcessState.ExitCode(); code != 125 && args[len(args)-1] != "--help" {
			t.Errorf("%v: exit code %d", args, code)
		}
		for _, s := range []string{"wherry-build", "it is neither at " + dir, "make install"} {
			if !strings.Contains(string(out), s) {
				t.Errorf("%v: does not say %q: %q", args, s, out)
			}
		}
	}
	// On PATH it is found.
	if err := os.Symlink(harness.Binary("wherry-build"), filepath.Join(dir, "wherry-build")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(alone, "build", "--help")
	cmd.Env = []string{"PATH=" + dir, "HOME=" + dir}
	if out, err := cmd.Output(); err != nil || !strings.Contains(string(out), "--build-arg") {
		t.Errorf("build --help: %v, %q", err, out)
	}
}
