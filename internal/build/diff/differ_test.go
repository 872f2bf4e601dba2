package diff

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/util/overlay"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// one is a record of which the files are in a directory.
type one struct{ name, dir string }

func (o one) Committed(_ context.Context, record string) (string, string, bool) {
	return o.dir, "snapshot", record == o.name
}

// others is the differ for what is not ours.
type others int

func (o *others) Compare(context.Context, []mount.Mount, []mount.Mount, ...diff.Opt) (ocispec.Descriptor, error) {
	*o++
	return ocispec.Descriptor{}, nil
}

// TestDiffer: a layer is made of its files, or written as a whole where that is
// not known; before anybody can need it, whoever makes its archive durable is told.
// What is no layer of a directory is another differ's.
func TestDiffer(t *testing.T) {
	for name, deep := range map[string]int{"as usual": 3, "deep": depth + 2} {
		t.Run(name, func(t *testing.T) {
			root, store := bed(t)
			dir := filepath.Join(root, "layer")
			below := filepath.Join(dir, strings.Repeat("d/", deep))
			if err := os.MkdirAll(below, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(below, "file"), []byte("content"), 0o644); err != nil {
				t.Fatal(err)
			}
			var want bytes.Buffer
			if err := overlay.WriteUpperdir(t.Context(), &want, dir, nil); err != nil {
				t.Fatal(err)
			}
			ctx, done, err := store.Lease(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer done()
			placed, other := 0, others(0)
			d := &Differ{Layers: one{"record", dir}, Content: store, Snapshotter: "overlay2", Other: &other, Placed: func() {
				placed++
				if _, err := store.Size(ctx, digest.FromBytes(want.Bytes())); !errdefs.IsNotFound(err) {
					t.Errorf("the blob is there: %v", err)
				}
			}}
			upper := []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "ro"}}}
			plain := diff.WithMediaType(ocispec.MediaTypeImageLayer)
			desc, err := d.Compare(ctx, nil, upper, plain, diff.WithReference("record"))
			if err != nil || desc.Digest != digest.FromBytes(want.Bytes()) || other != 0 {
				t.Fatalf("%s, want %s (%v), %d by another", desc.Digest, digest.FromBytes(want.Bytes()), err, other)
			}
			if thin := deep < depth; thin != (placed == 1) {
				t.Errorf("told %d times", placed)
			}
			if got, err := content.ReadBlob(ctx, store.Blobs(), desc); err != nil || !bytes.Equal(got, want.Bytes()) {
				t.Errorf("read %d bytes of %d: %v", len(got), want.Len(), err)
			}
			for n, opts := range [][]diff.Opt{
				{plain, diff.WithReference("another")}, {diff.WithMediaType(ocispec.MediaTypeImageLayerGzip), diff.WithReference("record")},
			} {
				if _, err := d.Compare(ctx, nil, upper, opts...); err != nil || int(other) != n+1 {
					t.Errorf("%d: %d by another, %v", n, other, err)
				}
			}
		})
	}
}
