package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// unlinked says of layers that they have no file in common.
func unlinked(context.Context, []string) (map[string]int64, error) { return nil, nil }

// alone says the same to a prune.
func alone(context.Context) (func(map[string]bool) int64, error) {
	return func(map[string]bool) int64 { return 0 }, nil
}

// What `system df` says of images is what lies on the disk, blobs that a pull
// has not finished among it; what no container needs could go, and goes.
func TestDiskUsage(t *testing.T) {
	f := open(t, "")
	ctx := context.Background()
	f.mustLoad(dockerArchive([]string{"one:1"}, nil, busybox(), gz(tarOf(file{name: "a", body: "only one's"}))))
	f.mustLoad(dockerArchive([]string{"two:1"}, nil, busybox(), tarOf(file{name: "b", body: "only two's"})))
	leased, end, err := f.content.Resume(ctx, "pull")
	if err != nil {
		t.Fatal(err)
	}
	p, err := f.content.Partial(leased, ocispec.Descriptor{Digest: digest.FromString("cut off"), Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write(make([]byte, 12345)); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(leased, false); err != nil {
		t.Fatal(err)
	}
	end(true)
	disk := func() (n int64) {
		t.Helper()
		for _, dir := range []string{"content/blobs", "content/ingest", "layers/snapshots"} {
			err := filepath.WalkDir(filepath.Join(f.root, dir), func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() || dir == "content/ingest" && d.Name() != "data" {
					return err
				}
				info, err := d.Info()
				if err == nil {
					n += info.Size()
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		return n
	}
	u, err := f.DiskUsage(ctx, nil, unlinked)
	if err != nil || u.TotalSize != disk() || u.Reclaimable != u.TotalSize {
		t.Errorf("%d bytes, %d could go, on disk are %d: %v", u.TotalSize, u.Reclaimable, disk(), err)
	}
	one := f.image("one:1").ID.String()
	f.SetUsers(func(id string) []Use {
		if id == one {
			return []Use{{Container: "c"}}
		}
		return nil
	})
	if u, err = f.DiskUsage(ctx, nil, unlinked); err != nil || u.ActiveCount != 1 {
		t.Fatal(u, err)
	}
	unknown := func(context.Context) (func(map[string]bool) int64, error) { return nil, errors.New("no space left") }
	_, freed, err := f.Prune(ctx, true, nil, unknown) // all the same
	if err != nil || int64(freed) != u.Reclaimable {
		t.Errorf("%d bytes went, %d could: %v", freed, u.Reclaimable, err)
	}
	if u, err = f.DiskUsage(ctx, nil, unlinked); err != nil || u.TotalSize != disk() || u.Reclaimable != 0 {
		t.Errorf("after a prune %d bytes, %d could go, on disk are %d: %v", u.TotalSize, u.Reclaimable, disk(), err)
	}
}

// TestUsageMeanwhile: images that come and go while they are counted, and a
// damaged document of another platform, keep nobody from the account.
func TestUsageMeanwhile(t *testing.T) {
	f := open(t, "")
	var l layout
	host := platforms.DefaultSpec()
	other := l.image(ocispec.Platform{OS: "linux", Architecture: "s390x"}, "foreign")
	top := l.index(l.image(ocispec.Platform{OS: host.OS, Architecture: host.Architecture}, "mine"), other)
	top.Annotations = map[string]string{images.AnnotationImageName: "docker.io/library/multi:1", ocispec.AnnotationRefName: "1"}
	f.mustLoad(l.tar(top))
	if err := os.WriteFile(filepath.Join(f.root, "content/blobs/sha256", other.Digest.Encoded()), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if u, err := f.DiskUsage(t.Context(), nil, unlinked); err != nil || u.TotalCount != 1 {
		t.Errorf("%+v, %v", u, err)
	}
	f.mustLoad(dockerArchive([]string{"stays:1"}, nil, busybox(), tarOf(file{name: "a", body: "a"})))
	archive := dockerArchive([]string{"goes:1"}, nil, busybox(), tarOf(file{name: "b", body: "b"}), tarOf(file{name: "c", body: "c"}))
	twin := dockerArchive([]string{"twin:1"}, map[string]string{"a": "b"}, busybox(), tarOf(file{name: "b", body: "b"}), tarOf(file{name: "c", body: "c"}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 8 {
			for _, a := range [][]byte{archive, twin} {
				if _, err := f.load(a); err != nil {
					t.Error(err)
				}
			}
			f.remove("goes:1", true)
			f.remove("twin:1", true)
		}
	}()
	for n := 0; ; n++ {
		if _, err := f.DiskUsage(t.Context(), nil, unlinked); err != nil {
			t.Error(n, err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
