package builder

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/image"
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
		"other": "FROM scratch\nCOPY large /\n",
	})
	steps := [][]string{
		{"build", "-q", "-t", "made", dir}, {"build", "-q", "-f", dir + "/other", dir}, {"rmi", "made"}, {"image", "prune", "-f"}, {"rmi", "busybox"},
		{"builder", "prune", "-f", "--filter", "type=source.local"}, {"builder", "prune", "-af"},
	}
	for _, args := range steps {
		if out, stderr, code, err := e.CLI(args...); err != nil || code != 0 {
			t.Fatalf("%v: %q %q %d %v", args, out, stderr, code, err)
		}
		var now struct {
			ImageUsage      *image.DiskUsage
			BuildCacheUsage *build.DiskUsage
		}
		if err := e.GetJSON("/v1.52/system/df?verbose=1", &now); err != nil {
			t.Fatal(err)
		}
		images, cache := now.ImageUsage.TotalSize, now.BuildCacheUsage.TotalSize
		for _, r := range now.BuildCacheUsage.Items {
			if r.ID == "history" {
				cache -= r.Size // it lies elsewhere
			}
		}
		var disk, dirs int64
		seen := map[uint64]bool{}
		for _, part := range []string{"content/blobs", "content/thin", "layers/snapshots"} {
			err := filepath.WalkDir(filepath.Join(e.DataRoot(), part), func(_ string, d fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				info, err := d.Info()
				switch {
				case err != nil:
				case d.IsDir():
					dirs += info.Size()
				case d.Type().IsRegular():
					st, ok := info.Sys().(*syscall.Stat_t)
					if ok && !seen[st.Ino] {
						seen[st.Ino] = true
						disk += info.Size()
					}
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if sum := images + cache; sum < disk || sum > disk+dirs {
			t.Errorf("after %s: images %d + cache %d = %d, on disk are %d and directories of %d", args[0], images, cache, sum, disk, dirs)
		}
		if now.ImageUsage.TotalCount == 0 && images != 0 {
			t.Errorf("after %s: there is no image, and images have %d bytes", args, images)
		}
	}
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
