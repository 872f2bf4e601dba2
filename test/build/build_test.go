package build

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/wherry-engine/wherry/test/harness"
)

var (
	update = flag.Bool("update", false, "write what wherry builds into the cases; read the diff")
	record = flag.Bool("record", false, "ask the other builders again, and write testdata/recorded")
)

// enough cases are promised.
const enough = 150

// baseImage is what busybox:latest holds, which trees are compared with.
func baseImage(t testing.TB) *made {
	t.Helper()
	list, err := images()
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(list[0].DockerArchive())
	if err != nil {
		t.Fatal(err)
	}
	m, err := readArchive(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestCases builds every case with wherry and holds it to its expectations,
// and those to what the other builders were recorded to make.
func TestCases(t *testing.T) {
	harness.Require(t, "root", "engine", "busybox", "git")
	cases := loadCases(t)
	if len(cases) < enough {
		t.Errorf("%d cases, want at least %d", len(cases), enough)
	}
	b, base := newWherry(t), baseImage(t)
	t.Run("case", func(t *testing.T) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.check(t, b, b.run(t, c, base))
			})
		}
	})
	if t.Failed() || *update {
		return
	}
	compareRecorded(t, cases)
}

// check holds a result to the case.
func (c *testCase) check(t *testing.T, b *builder, r *result) {
	t.Helper()
	for _, s := range append(c.fail, c.says...) {
		if s = b.vars.Replace(s); !strings.Contains(r.stderr, s) {
			t.Errorf("the build does not say %q:\n%s", s, r.stderr)
		}
	}
	if len(c.fail) > 0 {
		if r.code == 0 {
			t.Error("the build succeeds")
		}
		return
	}
	if r.code != 0 {
		t.Fatalf("exit code %d:\n%s", r.code, r.stderr)
	}
	got := map[string]string{"tree": r.files}
	if r.made != nil {
		got["config"], got["history"] = r.config, r.history
	}
	if *update {
		if err := c.keep(got); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"tree", "config", "history"} {
		if d := cmp.Diff(c.want(name), got[name]); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	if len(c.run) > 0 || len(c.cmd) > 0 {
		c.start(t, b.engine)
	}
}

// start runs a container of the image.
func (c *testCase) start(t *testing.T, e *harness.Engine) {
	t.Helper()
	out, errOut, code, err := e.CLI(append([]string{"run", "--rm", c.tag()}, c.cmd...)...)
	if err != nil || code != 0 {
		t.Fatalf("run: code %d, %v: %s", code, err, errOut)
	}
	if d := cmp.Diff(strings.Join(c.run, "\n")+"\n", out); d != "" {
		t.Errorf("run prints (-want +got):\n%s", d)
	}
}

// recorded is what a builder made of a case: the parts that are compared.
type recorded struct{ tree, config, history, failed string }

func recordedPath(peer string) string {
	return filepath.Join("testdata", "recorded", peer+".txtar")
}

func readRecorded(t testing.TB, peer string) map[string]recorded {
	t.Helper()
	ar, err := txtar.ParseFile(recordedPath(peer))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]recorded{}
	for _, f := range ar.Files {
		name, part := path.Dir(f.Name), path.Base(f.Name)
		r := out[name]
		switch part {
		case "tree":
			r.tree = string(f.Data)
		case "config":
			r.config = string(f.Data)
		case "history":
			r.history = string(f.Data)
		case "failed":
			r.failed = string(f.Data)
		default:
			t.Fatalf("%s: %s: unknown part", recordedPath(peer), f.Name)
		}
		out[name] = r
	}
	return out
}

// accepted are differences that are meant: pattern of cases, builder, part
// (tree, config, build) and the reason.
type accepted struct {
	pattern, peer, part, reason string
	used                        bool
}

func readAccepted(t testing.TB) []*accepted {
	t.Helper()
	text, err := os.ReadFile("testdata/accepted.txt")
	if err != nil {
		t.Fatal(err)
	}
	var out []*accepted
	for _, line := range strings.Split(string(text), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.SplitN(line, " ", 4)
		if len(f) != 4 || f[3] == "" {
			t.Fatalf("accepted.txt: %q: want pattern, builder, part and reason", line)
		}
		out = append(out, &accepted{pattern: f[0], peer: f[1], part: f[2], reason: f[3]})
	}
	return out
}

// compareRecorded compares every case's expectations with the recordings.
func compareRecorded(t *testing.T, cases []*testCase) {
	t.Helper()
	list := readAccepted(t)
	meant := func(c *testCase, peer, part string) bool {
		found := false
		for _, a := range list {
			ok, err := path.Match(a.pattern, c.name)
			if err != nil {
				t.Fatalf("accepted.txt: %s: %v", a.pattern, err)
			}
			if ok && a.part == part && (a.peer == peer || a.peer == "all") {
				a.used, found = true, true
			}
		}
		return found
	}
	agreed := map[string]int{}
	for _, peer := range peers {
		rec := readRecorded(t, peer)
		for _, c := range cases {
			r, ok := rec[c.name]
			if !ok {
				t.Errorf("%s: not recorded with %s", c.name, peer)
				continue
			}
			diffs := c.differences(r)
			if len(diffs) == 0 {
				agreed[peer]++
			}
			for part, d := range diffs {
				if !meant(c, peer, part) {
					t.Errorf("%s: %s makes another %s (-wherry +%s):\n%s", c.name, peer, part, peer, d)
				}
			}
		}
	}
	for _, a := range list {
		if !a.used {
			t.Errorf("accepted.txt: %s %s %s: nothing differs there any more", a.pattern, a.peer, a.part)
		}
	}
	t.Logf("of %d cases, the same by %v", len(cases), agreed)
}

// differences of a recording from the case's expectations, by part.
func (c *testCase) differences(r recorded) map[string]string {
	out := map[string]string{}
	if fails := len(c.fail) > 0; fails != (r.failed != "") {
		out["build"] = "it builds\n"
		if r.failed != "" {
			out["build"] = "it fails: " + r.failed
		}
	}
	if r.failed != "" || len(c.fail) > 0 {
		return out
	}
	if d := cmp.Diff(c.want("tree"), r.tree); d != "" {
		out["tree"] = d
	}
	if d := cmp.Diff(c.want("config"), r.config); d != "" {
		out["config"] = d
	}
	return out
}

// peers are the builders that were recorded.
var peers = []string{"buildkit", "classic", "buildah", "buildkitd"}

// recording turns a result into what is kept of it.
func (r *result) recording(c *testCase) recorded {
	if r.code != 0 {
		lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
		return recorded{failed: lines[len(lines)-1] + "\n"}
	}
	out := recorded{tree: r.files}
	if r.made != nil {
		out.config, out.history = r.config, r.history
	}
	return out
}

func writeRecorded(t *testing.T, peer string, cases []*testCase, rec map[string]recorded) {
	t.Helper()
	ar := &txtar.Archive{Comment: []byte(fmt.Sprintf("What %s made of each case; written by -record.\n", peer))}
	for _, c := range cases {
		r, ok := rec[c.name]
		if !ok {
			continue
		}
		for _, part := range []struct{ name, text string }{{"tree", r.tree}, {"config", r.config}, {"history", r.history}, {"failed", r.failed}} {
			if part.text != "" {
				ar.Files = append(ar.Files, txtar.File{Name: c.name + "/" + part.name, Data: []byte(part.text)})
			}
		}
	}
	if err := os.MkdirAll(filepath.Dir(recordedPath(peer)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(recordedPath(peer), txtar.Format(ar), 0o644); err != nil {
		t.Fatal(err)
	}
}
