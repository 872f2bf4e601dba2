package builder

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/image"

	"github.com/wherry-engine/wherry/test/harness"
)

// Images and the cache share layers and blobs. `system df` counts each of them
// once, whatever of both is removed: the sum is what lies on the disk, but for
// directories.
func TestAccount(t *testing.T) {
	e := engine(t, "")
	text := strings.Repeat("what is in the image\n", 1<<15)
	large := strings.Repeat("what layers have by links\n", 1<<16)
	dir := files(t, map[string]string{
		"Dockerfile": "FROM busybox AS stage\nCOPY one large /\nRUN cp /one /two && cp /large /made\nFROM busybox\nCOPY --from=stage /large /made /\n", "one": text, "large": large,
		"other": "FROM scratch\nCOPY large /\n", "another": "FROM scratch\nCOPY one large /\n",
	})
	steps := [][]string{
		{"build", "-q", "-t", "made", dir}, {"build", "-q", "-f", dir + "/other", dir}, {"rmi", "made"}, {"image", "prune", "-f"}, {"rmi", "busybox"},
		{"builder", "prune", "-f", "--filter", "type=source.local"}, {"builder", "prune", "-af"},
		{"build", "-q", "-t", "one", "-f", dir + "/other", dir}, {"build", "-q", "-t", "two", "-f", dir + "/another", dir},
		{"create", "--name", "user", "two", "/large"}, {"builder", "prune", "-af"}, {"rmi", "one"}, {"rm", "user"}, {"rmi", "two"},
	}
	for _, args := range steps {
		if out, stderr, code, err := e.CLI(args...); err != nil || code != 0 {
			t.Fatalf("%v: %q %q %d %v", args, out, stderr, code, err)
		}
		var now struct {
			ImageUsage      *image.DiskUsage
			BuildCacheUsage *build.DiskUsage
		}
		// What was removed goes behind the answer.
		var images int64
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			now.ImageUsage, now.BuildCacheUsage = nil, nil
			if err := e.GetJSON("/v1.52/system/df?verbose=1", &now); err != nil {
				t.Fatal(err)
			}
			images = now.ImageUsage.TotalSize
			cache := now.BuildCacheUsage.TotalSize
			for _, r := range now.BuildCacheUsage.Items {
				if r.ID == "history" {
					cache -= r.Size // it lies elsewhere
				}
			}
			disk, dirs, err := lies(e)
			if sum := images + cache; err == nil && sum >= disk && sum <= disk+dirs {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("after %s: images %d + cache %d = %d, on disk are %d and directories of %d: %v", args[0], images, cache, images+cache, disk, dirs, err)
			}
		}
		if free := now.ImageUsage.Reclaimable; free < 0 || free > images || now.ImageUsage.ActiveCount == 0 && free != images {
			t.Errorf("after %s: images have %d bytes, %d could go", args, images, free)
		}
		if now.ImageUsage.TotalCount == 0 && images != 0 {
			t.Errorf("after %s: there is no image, and images have %d bytes", args, images)
		}
	}
}

// What `image prune` says that it freed is what the disk has won, whatever images
// and the cache have in common, by links too.
func TestPruneFreed(t *testing.T) {
	e := engine(t, "")
	large := strings.Repeat("what layers have by links\n", 1<<16)
	dir := files(t, map[string]string{
		"Dockerfile": "FROM busybox AS stage\nCOPY large /\nRUN cp /large /made\nFROM busybox\nCOPY --from=stage /large /made /\n",
		"large":      large, "one": "FROM scratch\nCOPY large /\n", "two": "FROM busybox\nCOPY large /\nCOPY one /\n",
		"from": "FROM made\nRUN rm /made\n", "image": "FROM busybox\nCOPY --from=made /made /\n",
	})
	build := func(names ...string) (steps [][]string) {
		for _, name := range names {
			file := name
			if name == "made" {
				file = "Dockerfile"
			}
			steps = append(steps, []string{"build", "-q", "-t", name, "-f", filepath.Join(dir, file), dir})
		}
		return steps
	}
	cache := []string{"builder", "prune", "-af"}
	for n, c := range []struct {
		before [][]string
		some   bool // something goes
	}{
		{before: build("made", "one", "two")},
		{before: append(build("made", "one", "two"), cache), some: true},
		{before: append(build("one", "two"), cache, []string{"create", "--name", "other", "one", "x"}), some: true},
		{before: [][]string{{"rm", "other"}}, some: true},
		{before: append(build("made", "one", "from", "image"), cache, []string{"create", "--name", "user", "image", "x"}), some: true},
		{before: [][]string{{"rm", "user"}}, some: true},
		{before: append(build("made", "one", "image"), []string{"rmi", "made"}, cache, build("one")[0]), some: true},
	} {
		if _, _, _, err := e.CLI("rmi", "busybox"); err != nil {
			t.Fatal(err)
		}
		if err := e.LoadBusybox(); err != nil {
			t.Fatal(err)
		}
		for _, args := range c.before {
			wherry(t, e, args...)
		}
		before, _, err := lies(e)
		if err != nil {
			t.Fatal(err)
		}
		code, body, err := e.API("POST", `/images/prune?filters={"dangling":["false"]}`, nil)
		if err != nil || code != 200 {
			t.Fatal(code, string(body), err)
		}
		var report image.PruneReport
		if err := json.Unmarshal(body, &report); err != nil {
			t.Fatal(err)
		}
		// Files go behind the answer, of which nobody is told.
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			after, _, err := lies(e)
			if err == nil && before-after == int64(report.SpaceReclaimed) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%d: %d bytes are said to be free, %d are: %v", n, report.SpaceReclaimed, before-after, err)
			}
		}
		if c.some != (report.SpaceReclaimed > uint64(len(large))/2) {
			t.Errorf("%d: %d bytes went", n, report.SpaceReclaimed)
		}
	}
}

// lies is what blobs and layers have on the disk, each file once, and what their
// directories have.
func lies(e *harness.Engine) (disk, dirs int64, err error) {
	seen := map[uint64]bool{}
	for _, part := range []string{"content/blobs", "content/thin", "layers/snapshots"} {
		err = errors.Join(err, filepath.WalkDir(filepath.Join(e.DataRoot(), part), func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			switch {
			case err != nil:
			case d.IsDir():
				dirs += info.Size()
			case d.Type().IsRegular() && d.Name() != "linked": // the mark of a layer with links
				st, ok := info.Sys().(*syscall.Stat_t)
				if ok && !seen[st.Ino] {
					seen[st.Ino] = true
					disk += info.Size()
				}
			}
			return err
		}))
	}
	return disk, dirs, err
}

// A file that the context and a layer have by links counts once against the cap.
func TestCapCountsOnce(t *testing.T) {
	const size = 25 << 20
	e := engine(t, fmt.Sprintf(`{"builder":{"gc":{"defaultMaxUsedSpace":"%d","defaultMinFreeSpace":"1"}}}`, size*3/2))
	dir := files(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY large /\n", "large": strings.Repeat("x", size)})
	for n := range 3 {
		out, stderr, code, err := e.CLI("build", "--progress", "plain", "--output", "type=cacheonly", dir)
		if err != nil || code != 0 {
			t.Fatalf("%q %q %d %v", out, stderr, code, err)
		}
		if n > 0 && !strings.Contains(stderr, " CACHED\n") {
			t.Errorf("the copy was made again\n%s", stderr)
		}
		// Each look at the cache is behind one that empties it.
		if code, body, err := e.API("POST", "/build/prune?all=1&max-used-space="+fmt.Sprint(size*3/2), nil); err != nil || code != 200 {
			t.Fatal(code, string(body), err)
		}
		if total, records := usage(t, e); total < size || total > size*3/2 || records < 3 {
			t.Errorf("%d bytes in %d records", total, records)
		}
	}
}

// A build that looks for what is not there gives its context back: the next one
// has it again, and a prune takes it. So do the stages of one that look at once,
// and steps that mount it.
func TestNotFoundReleases(t *testing.T) {
	const size = 2 << 20
	e := engine(t, "")
	dir := files(t, map[string]string{
		"copy": "FROM busybox\nCOPY large nope /\n", "mount": "FROM busybox\nRUN --mount=type=bind,source=nope,target=/m --mount=type=bind,target=/all true\n",
		"stage":  "FROM busybox AS a\nRUN echo >/x\nFROM busybox\nCOPY --from=a /nope /\n",
		"stages": "FROM busybox AS a\nCOPY large nope1 /\nFROM busybox AS b\nCOPY large nope2 /\nFROM busybox\nCOPY --from=a / /a\nCOPY --from=b / /b\n",
		"large":  strings.Repeat("x", size),
	})
	for _, name := range []string{"copy", "copy", "mount", "stage", "stages", "stages", "copy"} {
		out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "--progress", "plain", "-f", filepath.Join(dir, name), dir)
		if code == 0 || !strings.Contains(out, "nope") {
			t.Fatalf("%s: exit %d\n%s", name, code, out)
		}
	}
	if total, records := usage(t, e); total > 3*size {
		t.Errorf("%d bytes in %d records", total, records)
	}
	wherry(t, e, "builder", "prune", "-af")
	if total, records := usage(t, e); records > 1 { // the history of builds
		t.Errorf("%d bytes in %d records are left", total, records)
	}
}

// What a step has written whose build is cancelled is nobody's: it goes.
func TestCancelledReleases(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN --mount=type=cache,target=/c echo >/file && echo has begun && sleep 1000\n"})
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	cmd := e.Command(ctx, harness.Binary("wherry"), "build", "--progress", "plain", dir)
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	for lines.Scan() && !strings.HasSuffix(lines.Text(), " has begun") {
	}
	stop()
	if err := cmd.Wait(); err == nil {
		t.Error("the build went on")
	}
	// What the step held is given back behind the client's end, of which nobody is told.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		wherry(t, e, "builder", "prune", "-af")
		total, records := usage(t, e)
		if records <= 1 { // the history of builds
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d bytes in %d records are left", total, records)
		}
	}
}
