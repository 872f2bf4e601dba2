package isolation

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

const outsideSecret = "the host's secret"

// ground is an engine with a container that exchanges a directory of its own
// with a link that leads out of it, as fast as the kernel can.
type ground struct {
	*harness.Engine
	outside string // a directory of the host that nothing may touch or read
	before  string
}

func newGround(t *testing.T) *ground {
	t.Helper()
	harness.Require(t, "busybox")
	g := &ground{Engine: harness.Run(t, harness.Options{}), outside: t.TempDir()}
	if err := g.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"secret", "sub/secret"} {
		path := filepath.Join(g.outside, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(outsideSecret), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g.before = g.look(t)
	return g
}

// look lists the directory outside.
func (g *ground) look(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(g.outside, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := d.Info()
		if err == nil {
			fmt.Fprintln(&b, path, i.Mode(), i.Size(), i.ModTime())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (g *ground) untouched(t *testing.T) {
	t.Helper()
	if now := g.look(t); now != g.before {
		t.Errorf("the host's directory was\n%sand is\n%s", g.before, now)
	}
}

func (g *ground) run(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	out, errOut, code, err := g.CLI(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out + errOut, code
}

// racer starts the container: below /v/dir there are a secret of its own and
// sub, and /v/link leads to the host's directory of the same form.
func (g *ground) racer(t *testing.T, link string, flags ...string) {
	t.Helper()
	program, err := harness.Program(t.TempDir(), "./test/isolation/probe")
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"run", "-d", "--name", "racer", "-v", program + ":/probe:ro"}, flags...)
	if out, code := g.run(t, append(args, "busybox", "sh", "-c",
		"mkdir -p /v/dir/sub && echo inside | tee /v/dir/secret > /v/dir/sub/secret && ln -s "+link+" /v/link && touch /ready && exec /probe race /v/dir /v/link")...); code != 0 {
		t.Fatal(out)
	}
	if out, code := g.run(t, "exec", "racer", "sh", "-c", "until test -e /ready; do :; done"); code != 0 {
		t.Fatal(out)
	}
}

func (g *ground) racing(t *testing.T) {
	t.Helper()
	if in, err := g.Inspect("racer"); err != nil || !in.State.Running {
		out, _ := g.run(t, "logs", "racer")
		t.Fatalf("the racer has ended: %v %s", err, out)
	}
}

// TestCVE_2018_15664_2019_14271_Racing copies out of and into a running
// container whose directory is exchanged with a link to the host meanwhile.
func TestCVE_2018_15664_2019_14271_Racing(t *testing.T) {
	g := newGround(t)
	g.racer(t, g.outside)
	var body bytes.Buffer
	w := tar.NewWriter(&body)
	for _, name := range []string{"new", "sub/new"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: 3, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("new")); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got := map[int]int{}
	for range 150 {
		for _, path := range []string{"/v/dir/secret", "/v/dir/sub", "/v/link/secret"} {
			code, answer, err := g.API("GET", "/containers/racer/archive?path="+url.QueryEscape(path), nil)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(answer, []byte(outsideSecret)) {
				t.Fatalf("GET %s: the host's file came out", path)
			}
			got[code]++
		}
		for _, path := range []string{"/v/dir", "/v/dir/sub", "/v/link"} {
			code, answer, err := g.API("PUT", "/containers/racer/archive?path="+url.QueryEscape(path), io.Reader(bytes.NewReader(body.Bytes())))
			if err != nil || code >= 500 {
				t.Fatalf("PUT %s: %d %s %v", path, code, answer, err)
			}
		}
	}
	g.racing(t)
	g.untouched(t)
	// The race was one: each side was met.
	if got[200] == 0 || got[404] == 0 {
		t.Errorf("answers by status: %v; both 200 and 404 were expected", got)
	}
}

// TestCVE_2021_30465_Racing starts containers with a mount in a volume whose
// directory another container exchanges with a link meanwhile.
func TestCVE_2021_30465_Racing(t *testing.T) {
	g := newGround(t)
	g.racer(t, "/../../../../../../.."+g.outside, "-v", "shared:/v")
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "mounted"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	started, refused := 0, 0
	for i := range 40 {
		out, code := g.run(t, "run", "--rm", "-v", "shared:/v", "-v", source+":/v/dir/sub/mnt", "--tmpfs", "/v/dir/tmp", "busybox", "sh", "-c",
			// Wherever they are, they are below this root, and the host's root is not in sight.
			"cut -d' ' -f5 /proc/self/mountinfo; cat "+g.outside+"/secret /v/dir/secret /v/link/secret 2>/dev/null; true")
		switch {
		case strings.Contains(out, outsideSecret):
			t.Fatalf("run %d: the host's file can be read:\n%s", i, out)
		case code == 0:
			started++
		case code != 125 && code != 126 && code != 127:
			t.Fatalf("run %d: %d\n%s", i, code, out)
		default:
			refused++
		}
	}
	g.racing(t)
	g.untouched(t)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), g.outside) {
		t.Error("something is mounted in the host's directory")
	}
	t.Logf("%d started, %d were refused", started, refused)
	if started == 0 {
		t.Error("none started: nothing was tested")
	}
}

// TestCVE_2024_21626_Racing executes commands in a directory that is exchanged
// with a link to whatever descriptors a process may have.
func TestCVE_2024_21626_Racing(t *testing.T) {
	g := newGround(t)
	for _, link := range []string{g.outside, "/proc/self/fd", "/proc/1/root" + g.outside} {
		g.racer(t, link)
		inside := 0
		for i := range 40 {
			at := "/v/dir/sub"
			if link == "/proc/self/fd" {
				at = fmt.Sprint("/v/dir/", 3+i%20)
			}
			out, _ := g.run(t, "exec", "-w", at, "racer", "sh", "-c", "cat secret ../secret ../../.."+g.outside+"/secret 2>/dev/null; pwd -P")
			if strings.Contains(out, outsideSecret) {
				t.Fatalf("exec %d with %s: the host's file can be read:\n%s", i, link, out)
			}
			if strings.Contains(out, "inside") {
				inside++
			}
		}
		g.racing(t)
		g.untouched(t)
		if inside == 0 && link != "/proc/self/fd" {
			t.Errorf("with %s no command has run in the directory: nothing was tested", link)
		}
		if out, code := g.run(t, "rm", "-f", "racer"); code != 0 {
			t.Fatal(out)
		}
	}
}
