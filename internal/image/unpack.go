package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/archive"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// labelDiffID on a layer's blob: the digest of its plain content, once checked.
const labelDiffID = "containerd.io/uncompressed"

// adopted is an image whose blobs are complete, labelled and unpacked.
type adopted struct {
	target ocispec.Descriptor
	img    *candidate
}

func (a *adopted) id() digest.Digest { return a.img.manifest.Config.Digest }

// watcher follows the layers of an image into the store. Its functions may be
// nil; they are called from several goroutines.
type watcher struct {
	ready  func(ctx context.Context, n int) error // returns when layer n's blob is there
	report func(n int, done, total int64)
	done   func(n int)
}

// loadingLayers words the progress of unpacking as docker's load does.
func loadingLayers(diffs []digest.Digest, progress func(jsonstream.Message)) watcher {
	if progress == nil {
		return watcher{}
	}
	var mu sync.Mutex
	return watcher{report: func(n int, done, total int64) {
		mu.Lock()
		defer mu.Unlock()
		progress(jsonstream.Message{Status: "Loading layer", ID: id.Short(diffs[n].String()), Progress: &jsonstream.Progress{Current: done, Total: total}})
	}}
}

// adopt checks what target refers to, unpacks the manifest for this host and
// links everything for the collector. Until a name is committed, only the
// lease in ctx keeps it.
func (s *graph) adopt(ctx context.Context, target ocispec.Descriptor, progress func(jsonstream.Message)) (*adopted, error) {
	c, err := s.pick(ctx, target)
	if err != nil {
		return nil, err
	}
	return s.settle(ctx, target, c, loadingLayers(c.config.RootFS.DiffIDs, progress))
}

// settle is adopt for a manifest that was chosen already.
func (s *graph) settle(ctx context.Context, target ocispec.Descriptor, c *candidate, w watcher) (*adopted, error) {
	chain, err := s.unpack(ctx, c, w)
	if err != nil {
		return nil, err
	}
	// An archive's index.json may leave out what the manifest says itself.
	if target, err = s.keep(ctx, target); err != nil {
		return nil, err
	}
	if chain != "" {
		label := map[string]string{"containerd.io/gc.ref.snapshot." + s.snapshots.Driver(): chain.String()}
		if err := s.content.Label(ctx, c.manifest.Config.Digest, label); err != nil {
			return nil, err
		}
	}
	return &adopted{target: target, img: c}, nil
}

// unpack makes the image's chain of layers.
func (s *graph) unpack(ctx context.Context, c *candidate, w watcher) (digest.Digest, error) {
	diffs, blobs := c.config.RootFS.DiffIDs, c.manifest.Layers
	if len(diffs) != len(blobs) {
		return "", invalid("invalid manifest, layers length mismatch: expected %d, got %d", len(blobs), len(diffs))
	}
	if len(blobs) > snapshot.MaxDepth {
		return "", invalid("max depth exceeded")
	}
	layers := make([]snapshot.Layer, len(blobs))
	opened := make([]bool, len(blobs))
	for i, b := range blobs {
		layers[i] = snapshot.Layer{DiffID: diffs[i], Open: func() (io.ReadCloser, error) {
			opened[i] = true
			if w.report == nil {
				return s.plain(ctx, b, nil)
			}
			return s.plain(ctx, b, func(done, total int64) { w.report(i, done, total) })
		}, Done: func() {
			if w.done != nil {
				w.done(i)
			}
		}}
		if w.ready != nil {
			layers[i].Ready = func(ctx context.Context) error { return w.ready(ctx, i) }
		}
	}
	chain, err := s.snapshots.Unpack(ctx, layers)
	if err != nil {
		return "", err
	}
	for i, b := range blobs {
		if w.ready != nil {
			if err := w.ready(ctx, i); err != nil {
				return "", err
			}
		}
		if err := s.checkDiffID(ctx, i, b, diffs[i], opened[i]); err != nil {
			return "", err
		}
	}
	return chain, nil
}

// checkDiffID makes sure that a layer's blob is what the config says of it:
// also when the layer was there already and the blob was not looked into.
func (s *graph) checkDiffID(ctx context.Context, n int, b ocispec.Descriptor, want digest.Digest, checked bool) error {
	if b.Digest == want {
		return nil // not compressed; it was checked when it was written
	}
	labels, err := s.content.Labels(ctx, b.Digest)
	if err != nil {
		return err
	}
	got := digest.Digest(labels[labelDiffID])
	if checked {
		got = want
	}
	if got == "" {
		r, err := s.plain(ctx, b, nil)
		if err != nil {
			return err
		}
		defer r.Close()
		if got, err = digest.FromReader(r); err != nil {
			return invalid("layer %s: %v", b.Digest, err)
		}
	}
	if got != want {
		return invalid("invalid diffID for layer %d: expected %q, got %q", n, want, got)
	}
	if labels[labelDiffID] == want.String() {
		return nil
	}
	return s.content.Label(ctx, b.Digest, map[string]string{labelDiffID: want.String()})
}

// plain opens the uncompressed content of a layer's blob. progress, if any, is
// told the blob's bytes as they are read.
func (s *graph) plain(ctx context.Context, b ocispec.Descriptor, progress func(done, total int64)) (io.ReadCloser, error) {
	in, size, err := s.content.Reader(ctx, b.Digest)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", b.Digest, err)
	}
	var r io.Reader = in
	if progress != nil {
		r = &meter{r: in, size: size, report: progress}
	}
	plain, c, err := archive.Decompress(r)
	if err == nil && (c == archive.XZ || c == archive.Bzip2) {
		plain.Close()
		err = invalid("layer %s: compression %s is not supported for layers", b.Digest, c)
	}
	if err != nil {
		in.Close()
		return nil, err
	}
	return &stacked{Reader: plain, inner: plain, outer: in}, nil
}

// stacked closes a decompressor and what it reads from.
type stacked struct {
	io.Reader
	inner, outer io.Closer
}

func (s *stacked) Close() error { return errors.Join(s.inner.Close(), s.outer.Close()) }

// meter reports how much of a blob was read.
type meter struct {
	r          io.Reader
	size, done int64
	told       int64
	report     func(done, total int64)
}

// step is how many bytes lie between two reports.
const step = 512 << 10

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.done += int64(n)
	if m.done-m.told >= step || m.done == m.size && m.told != m.done {
		m.told = m.done
		m.report(m.done, m.size)
	}
	return n, err
}
