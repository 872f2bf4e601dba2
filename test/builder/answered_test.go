package builder

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// copies are enough to have the record take some milliseconds.
const copies = 20

// many is a Dockerfile of so many steps that its record takes its time.
func many(round int) string {
	var text strings.Builder
	fmt.Fprintf(&text, "FROM busybox\nENV round=%d\n", round)
	for n := range copies {
		fmt.Fprintf(&text, "COPY f /f%d\n", n)
	}
	return text.String()
}

// own runs the engine's client, which must succeed, and gives what it prints.
func own(t *testing.T, e *harness.Engine, args ...string) string {
	t.Helper()
	out, stderr, code, err := e.CLI(args...)
	if err != nil || code != 0 {
		t.Fatalf("wherry %s: exit %d %v\n%s%s", strings.Join(args, " "), code, err, out, stderr)
	}
	return out
}

// blob is where the engine has a blob.
func blob(e *harness.Engine, digest string) string {
	_, sum, _ := strings.Cut(digest, ":")
	return filepath.Join(e.DataRoot(), "content", "blobs", "sha256", sum)
}

// A build is answered when its image is there; who asks for its record, for the
// account of the disk, or removes the image, finds the build over all the same.
func TestAnsweredBeforeItsRecord(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"f": "x", "Dockerfile": many(0)})
	meta := filepath.Join(t.TempDir(), "meta")
	built := func() map[string]string {
		own(t, e, "build", "-q", "-t", "it", "--label", "n="+t.Name(), "--metadata-file", meta, dir)
		text, err := os.ReadFile(meta)
		if err != nil {
			t.Fatal(err)
		}
		var all map[string]any
		if err := json.Unmarshal(text, &all); err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for k, v := range all {
			out[k] = fmt.Sprint(v)
		}
		return out
	}
	size := func() (n int64) {
		var u struct {
			BuildCacheUsage struct {
				Items []struct {
					ID   string
					Size int64
				}
			}
		}
		if err := e.GetJSON("/v1.52/system/df?type=build-cache&verbose=1", &u); err != nil {
			t.Fatal(err)
		}
		for _, r := range u.BuildCacheUsage.Items {
			if r.ID == "history" {
				n = r.Size
			}
		}
		return n
	}
	for range 5 {
		before := size()
		built()
		if now := size(); now <= before {
			t.Errorf("the account of the history after one more build: %d bytes, %d before", now, before)
		}
		ref := built()["buildx.build.ref"]
		ref = ref[strings.LastIndex(ref, "/")+1:]
		if out := own(t, e, "builder", "history", "ls", "--filter", "ref="+ref); !strings.Contains(out, ref) || !strings.Contains(out, "Completed") {
			t.Errorf("the history after the build %s:\n%s", ref, out)
		}
		was := built()
		list := []string{was["containerimage.digest"], was["containerimage.config.digest"]}
		for _, digest := range list {
			if _, err := os.Stat(blob(e, digest)); err != nil {
				t.Error(err)
			}
		}
		own(t, e, "rmi", "it")
		for _, digest := range list {
			if _, err := os.Stat(blob(e, digest)); !os.IsNotExist(err) {
				t.Errorf("%s after rmi: %v", digest, err)
			}
		}
		ref = built()["buildx.build.ref"]
		if out := own(t, e, "builder", "history", "rm", ref[strings.LastIndex(ref, "/")+1:]); out != "" {
			t.Errorf("history rm says %q", out)
		}
	}
	digest := built()["containerimage.digest"]
	own(t, e, "image", "prune", "-a", "-f", "--filter", "label=n")
	if _, err := os.Stat(blob(e, digest)); !os.IsNotExist(err) {
		t.Errorf("%s after image prune: %v", digest, err)
	}
	for range 3 {
		built()
		if out := own(t, e, "builder", "prune", "-a", "-f"); strings.Count(out, "\n") < copies {
			t.Errorf("a prune right after a build leaves records that the build had in use:\n%s", out)
		}
		own(t, e, "rmi", "it")
	}

	// A cache that is written behind the image is waited for; all else of the
	// answer is the same.
	early := built()
	cache := t.TempDir()
	own(t, e, "build", "-q", "-t", "it", "--label", "n="+t.Name(), "--metadata-file", meta, "--cache-to", "type=local,dest="+cache, dir)
	text, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	var late map[string]any
	if err := json.Unmarshal(text, &late); err != nil {
		t.Fatal(err)
	}
	if late["cache.manifest"] == nil {
		t.Errorf("the answer to a build with --cache-to: %s", text)
	}
	delete(late, "cache.manifest")
	if got, want := slices.Sorted(maps.Keys(early)), slices.Sorted(maps.Keys(late)); !slices.Equal(got, want) {
		t.Errorf("an early answer has %v, a late one %v", got, want)
	}
	for k, v := range early {
		if k != "buildx.build.ref" && v != fmt.Sprint(late[k]) {
			t.Errorf("%s is %s in an early answer, %v in a late one", k, v, late[k])
		}
	}
}

// A kill of the engine behind the answer loses the record at most, and that only
// while nobody has seen it.
func TestKilledBehindTheAnswer(t *testing.T) {
	e := engine(t, "")
	lost := 0
	for round := range 6 {
		dir := files(t, map[string]string{"f": fmt.Sprint(round), "Dockerfile": many(round)})
		id := strings.TrimSpace(own(t, e, "build", "-q", "-t", "it", dir))
		known := round%2 == 1 && strings.Count(own(t, e, "builder", "history", "ls"), "\n") == 2
		e.Kill()
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(own(t, e, "image", "inspect", "-f", "{{.Id}}", "it")); got != id {
			t.Errorf("round %d: the name leads to %s after the kill, built was %s", round, got, id)
		}
		if out := own(t, e, "run", "--rm", "it", "cat", "/f0"); out != fmt.Sprint(round) {
			t.Errorf("round %d: the image says %q", round, out)
		}
		if strings.Count(own(t, e, "builder", "history", "ls"), "\n") < 2 { // the header alone
			lost++
			if known {
				t.Errorf("round %d: a record that was listed before the kill is lost", round)
			}
		} else if round%2 == 1 && !known {
			t.Errorf("round %d: the record was not listed before the kill", round)
		}
		if m := left(t, e); len(m) > 0 {
			t.Errorf("mounts after the start: %v", m)
		}
		out, stderr, code, err := e.CLI("build", "--progress", "plain", "-t", "again", dir)
		if err != nil || code != 0 || strings.Count(stderr, " CACHED\n") < copies {
			t.Errorf("round %d, the same build after the kill: exit %d %v\n%s%s", round, code, err, out, stderr)
		}
		own(t, e, "builder", "history", "rm", "--all")
		if out := own(t, e, "builder", "history", "ls"); strings.Count(out, "\n") > 1 {
			t.Errorf("the history after it was emptied: %s", out)
		}
	}
	t.Logf("%d records of 6 were lost", lost)
}
