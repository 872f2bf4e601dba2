package builder

import (
	"io/fs"
	"path/filepath"
	"strings"
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
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY one /\nRUN cp /one /two\n", "one": text})
	steps := [][]string{{"build", "-q", "-t", "made", dir}, {"rmi", "made"}, {"rmi", "busybox"}, {"builder", "prune", "-af"}}
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
		for _, part := range []string{"content/blobs", "layers/snapshots"} {
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
					disk += info.Size()
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
