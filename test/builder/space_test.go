package builder

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/moby/moby/api/types/build"
	"github.com/wherry-engine/wherry/test/harness"
)

// The history of builds is in the account of the cache.
func TestHistoryCounts(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN true\n"})
	for _, args := range [][]string{{"build", "-q", dir}, {"builder", "prune", "-af"}} {
		if out, stderr, code, err := e.CLI(args...); err != nil || code != 0 {
			t.Fatalf("%v: %q %q %d %v", args, out, stderr, code, err)
		}
	}
	out, _, _, err := e.CLI("builder", "du")
	if err != nil || !strings.Contains(out, "\nhistory ") {
		t.Errorf("builder du: %v\n%s", err, out)
	}
	if n := cacheSize(t, e); n < 1000 {
		t.Errorf("system df counts %d bytes", n)
	}
}

// cacheSize is what `system df` says of the build cache.
func cacheSize(t *testing.T, e *harness.Engine) int64 {
	t.Helper()
	var now struct {
		BuildCacheUsage *build.DiskUsage
	}
	if err := e.GetJSON("/v1.52/system/df?type=build-cache", &now); err != nil {
		t.Fatal(err)
	}
	if now.BuildCacheUsage == nil {
		t.Fatal("no build cache in the account")
	}
	return now.BuildCacheUsage.TotalSize
}

// What TestSpace has and does. What running builds stand on cannot go: it is
// three layers of each, and the blobs of those that become images.
const (
	spaceDisk   = 2 << 30
	spaceCap    = 256 << 20
	spaceLayer  = 16 << 20
	spaceBuilds = 20
	spaceRounds = 2
)

// Twenty builds at a time on a small file system, which write several times
// what it holds, all succeed, and leave a cache within its cap and one layer.
func TestSpace(t *testing.T) {
	e := onSmallDisk(t, fmt.Sprintf(`{"builder":{"gc":{"enabled":true,"defaultKeepStorage":"%d"}}}`, spaceCap), spaceDisk)
	var wg sync.WaitGroup
	for i := range spaceBuilds {
		dirs := make([]string, spaceRounds)
		for round := range dirs {
			dirs[round] = files(t, map[string]string{"Dockerfile": fmt.Sprintf(`FROM busybox
ENV which=%[2]d.%[3]d
RUN head -c %[1]d /dev/zero > /one && echo $which >> /one
RUN head -c %[1]d /dev/zero > /two && echo $which >> /two
RUN rm /one && head -c %[1]d /dev/zero > /three && echo $which >> /three
RUN ls -l /two /three && echo $which > /last
`, spaceLayer, i, round)})
		}
		wg.Go(func() {
			for _, dir := range dirs {
				// Half of them make an image, which is removed again.
				args, name := []string{"build", "--progress", "plain"}, fmt.Sprint("made", i)
				if i%2 == 0 {
					args = append(args, "-t", name)
				} else {
					args = append(args, "--output", "type=cacheonly")
				}
				if out, stderr, code, err := e.CLI(append(args, dir)...); err != nil || code != 0 {
					t.Errorf("build %d: %d %v\n%s%s", i, code, err, out, tail(stderr))
					return
				}
				if i%2 == 0 {
					if out, stderr, code, err := e.CLI("rmi", name); err != nil || code != 0 {
						t.Errorf("rmi %s: %q %q %d %v", name, out, stderr, code, err)
					}
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.Logf("%d MB free of %d", free(t, e)>>20, spaceDisk>>20)
		return
	}
	eventually(t, "the cache is within its cap and one layer", func() bool { return cacheSize(t, e) <= spaceCap+spaceLayer })
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

// daemon.json bounds the history; without any entries there is none.
func TestHistoryBounds(t *testing.T) {
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nARG A\nRUN true\n"})
	for most, config := range []string{`{"builder":{"history":{"maxEntries":0}}}`, `{"builder":{"history":{"maxAge":"0","maxEntries":1}}}`} {
		e := engine(t, config)
		for _, a := range []string{"A=1", "A=2", "A=3"} {
			wherry(t, e, "build", "-q", "--build-arg", a, dir)
		}
		if err := e.Restart(); err != nil { // which looks at it
			t.Fatal(err)
		}
		eventually(t, config, func() bool {
			return strings.Count(wherry(t, e, "builder", "history", "ls", "--format", "json"), "\n") == most
		})
	}
}
