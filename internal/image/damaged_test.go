package image

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/internal/content"
)

// An image whose manifest or config was damaged on the disk is named by what
// needs it; the others are listed as before, it too, and it can be removed by
// name and by id and loaded again.
func TestDamagedOnDisk(t *testing.T) {
	archive := dockerArchive([]string{"bad:1"}, map[string]string{"k": "v"}, tarOf(file{name: "a", body: "a"}))
	damages := map[string]func(path string) error{
		"changed": func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b[len(b)/2] ^= 1
			return os.WriteFile(path, b, 0o600)
		},
		"cut":  func(path string) error { return os.Truncate(path, 10) },
		"gone": os.Remove,
	}
	for how, damage := range damages {
		for _, part := range []string{"config", "manifest"} {
			for _, by := range []string{"name", "id"} {
				t.Run(how+" "+part+" by "+by, func(t *testing.T) {
					ctx := context.Background()
					f := open(t, "")
					f.mustLoad(dockerArchive([]string{"good:1"}, nil, tarOf(file{name: "b", body: "b"})))
					f.mustLoad(archive)
					img := f.image("bad:1")
					blob := img.ID
					if part == "manifest" {
						blob = img.Manifest.Digest
					}
					found := 0
					err := filepath.WalkDir(f.root, func(path string, d fs.DirEntry, err error) error {
						if err == nil && filepath.Base(path) == blob.Encoded() {
							found++
							err = damage(path)
						}
						return err
					})
					if err != nil || found != 1 {
						t.Fatal(found, err)
					}
					f.restart()
					if _, err := f.Resolve(ctx, "bad:1"); err == nil || !strings.Contains(err.Error(), "is damaged: ") || !strings.Contains(err.Error(), "rmi") {
						t.Errorf("resolved: %v", err)
					}
					list, err := f.List(ctx, ListOptions{SharedSize: true, Manifests: true})
					var names []string
					for _, one := range list {
						names = append(names, one.RepoTags...)
					}
					slices.Sort(names)
					if err != nil || !slices.Equal(names, []string{"bad:1", "good:1"}) {
						t.Fatalf("listed %v, %v", names, err)
					}
					if u, err := f.DiskUsage(ctx, nil, unlinked); err != nil || u.TotalCount != 2 {
						t.Errorf("disk usage %+v, %v", u, err)
					}
					ref := "bad:1"
					if by == "id" {
						ref = img.ID.String()
					}
					if got := f.remove(ref, false); !strings.HasPrefix(got, "Untagged: bad:1\nDeleted: ") {
						t.Fatalf("removed: %s", got)
					}
					if ok, err := f.content.Size(content.With(ctx), blob); err == nil {
						t.Fatalf("the damaged blob is still there, %d bytes", ok)
					}
					f.mustLoad(archive)
					if got := f.image("bad:1"); got.ID != img.ID || got.Config.Config.Labels["k"] != "v" {
						t.Errorf("loaded again: %+v", got)
					}
				})
			}
		}
	}
}
