// Package diff owns the layers that builds make: the archive of what a step has
// changed. It is made from the directory that has the step's files, and only its
// digest is computed then: the files stay where they are, and the archive is put
// together of them when somebody reads it (content/thin).
//
// The bytes are those of BuildKit's own differ for overlays, which a test holds
// beside it; an image's digest does not depend on who made its layers.
package diff

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/util/overlay"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	enginecontent "github.com/wherry-engine/wherry/internal/content"
)

// Layers is where the files of records are.
type Layers interface {
	// Committed gives the directory of the files of a record of the cache that do
	// not change any more, and the snapshot that has them; ok is false for others.
	Committed(ctx context.Context, record string) (dir, snapshot string, ok bool)
}

// Differ makes layers.
type Differ struct {
	Layers      Layers
	Content     *enginecontent.Store
	Snapshotter string
	Other       diff.Comparer // for what is no overlay
	// Placed is called before a layer's files are needed as long as its archive: who
	// makes that durable is to make them durable, too.
	Placed func()

	mu    sync.Mutex
	sizes map[string]int64
}

// remembered is of how many layers the size is kept at most.
const remembered = 1000

// Size gives the bytes of the files of a layer, by its directory, if it was made
// lately.
func (d *Differ) Size(dir string) (bytes int64, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	bytes, ok = d.sizes[dir]
	return bytes, ok
}

func (d *Differ) remember(dir string, bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sizes == nil || len(d.sizes) == remembered {
		d.sizes = map[string]int64{}
	}
	d.sizes[dir] = bytes
}

// Compare makes the layer that leads from lower to upper.
func (d *Differ) Compare(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispec.Descriptor, error) {
	var c diff.Config
	for _, o := range opts {
		if err := o(&c); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	dir, snapshot, ok := d.Layers.Committed(ctx, c.Reference)
	if from, err := overlay.GetUpperdir(lower, upper); err != nil || !ok || from != dir || c.MediaType != ocispec.MediaTypeImageLayer {
		return d.Other.Compare(ctx, lower, upper, opts...)
	}
	desc, err := d.archive(ctx, dir, snapshot, lower)
	if errors.Is(err, errDeep) {
		desc, err = d.whole(ctx, dir, lower)
	}
	if errors.Is(err, errMoved) {
		return d.Other.Compare(ctx, lower, upper, opts...)
	}
	return desc, err
}

// whole has BuildKit write the archive, with all its bytes.
func (d *Differ) whole(ctx context.Context, dir string, lower []mount.Mount) (ocispec.Descriptor, error) {
	r, w := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.CloseWithError(overlay.WriteUpperdir(ctx, w, dir, lower))
	}()
	desc, _, err := d.Content.Write(ctx, r, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer})
	r.CloseWithError(err)
	<-ended // what it has mounted is gone
	return desc, err
}

func (d *Differ) archive(ctx context.Context, dir, snapshot string, lower []mount.Mount) (desc ocispec.Descriptor, err error) {
	w, err := d.Content.Archive(dir)
	if err != nil {
		return desc, err
	}
	write := func(base string) error {
		size, err := Write(ctx, w, dir, base)
		if err == nil {
			d.remember(dir, size)
		}
		return err
	}
	if len(lower) == 0 {
		err = write("")
	} else {
		err = mount.WithTempMount(ctx, lower, write)
	}
	if err != nil {
		w.Abort()
		return desc, err
	}
	b, err := w.Finish()
	if err != nil {
		return desc, err
	}
	d.Placed()
	return d.Content.AddArchive(ctx, b, d.Snapshotter, snapshot)
}

// Blobs is the content store as BuildKit sees it. It has no writer for layers
// that the differ makes: BuildKit would write them itself.
type Blobs struct {
	content.Store
	Layers Layers
}

// errOurs sends BuildKit to the differ.
var errOurs = errdefs.ErrUnavailable.WithMessage("the layer is made by the engine's differ")

// Writer opens a blob for writing.
func (b Blobs) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	if o.Desc.MediaType == ocispec.MediaTypeImageLayer && o.Desc.Digest == "" {
		if _, _, ours := b.Layers.Committed(ctx, o.Ref); ours {
			return nil, errOurs
		}
	}
	return b.Store.Writer(ctx, opts...)
}
