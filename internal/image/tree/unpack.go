package tree

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
	"github.com/wherry-engine/wherry/internal/image/manifest"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// LabelDiffID on a layer's blob: the digest of its plain content, once checked.
const LabelDiffID = "containerd.io/uncompressed"

// Adopted is an image whose blobs are complete, labelled and unpacked.
type Adopted struct {
	Target ocispec.Descriptor
	Image  *Candidate
}

// ID is the image's id.
func (a *Adopted) ID() digest.Digest { return a.Image.Manifest.Config.Digest }

// Watcher follows the layers of an image into the store. Its functions may be
// nil; they are called from several goroutines.
type Watcher struct {
	Ready  func(ctx context.Context, n int) error // returns when layer n's blob is there
	Report func(n int, done, total int64)
	Done   func(n int)
}

// LoadingLayers words the progress of unpacking as docker's load does.
func LoadingLayers(diffs []digest.Digest, progress func(jsonstream.Message)) Watcher {
	if progress == nil {
		return Watcher{}
	}
	var mu sync.Mutex
	return Watcher{Report: func(n int, done, total int64) {
		mu.Lock()
		defer mu.Unlock()
		progress(jsonstream.Message{Status: "Loading layer", ID: id.Short(diffs[n].String()), Progress: &jsonstream.Progress{Current: done, Total: total}})
	}}
}

// Adopt checks what target refers to, unpacks the manifest for this host and
// links everything for the collector. Until a name is committed, only the
// lease in ctx keeps it.
func (s *Tree) Adopt(ctx context.Context, target ocispec.Descriptor, progress func(jsonstream.Message)) (*Adopted, error) {
	c, err := s.Pick(ctx, target)
	if err != nil {
		return nil, err
	}
	return s.Settle(ctx, target, c, nil, LoadingLayers(c.Config.RootFS.DiffIDs, progress))
}

// Settle is Adopt for a manifest that was chosen already; choice, if any, is
// what is kept of an index.
func (s *Tree) Settle(ctx context.Context, target ocispec.Descriptor, c *Candidate, choice *Choice, w Watcher) (*Adopted, error) {
	chain, err := s.unpack(ctx, c, w)
	if err != nil {
		return nil, err
	}
	// An archive's index.json may leave out what the manifest says itself.
	if target, err = s.Keep(ctx, target, choice); err != nil {
		return nil, err
	}
	if chain != "" {
		label := map[string]string{"containerd.io/gc.ref.snapshot." + s.Snapshots.Driver(): chain.String()}
		if err := s.Content.Label(ctx, c.Manifest.Config.Digest, label); err != nil {
			return nil, err
		}
	}
	return &Adopted{Target: target, Image: c}, nil
}

// unpack makes the image's chain of layers.
func (s *Tree) unpack(ctx context.Context, c *Candidate, w Watcher) (digest.Digest, error) {
	diffs, blobs := c.Config.RootFS.DiffIDs, c.Manifest.Layers
	if len(blobs) > snapshot.MaxDepth {
		return "", invalid("max depth exceeded: it has %d layers, more than %d", len(blobs), snapshot.MaxDepth)
	}
	if len(diffs) != len(blobs) {
		return "", invalid("invalid manifest, layers length mismatch: expected %d, got %d", len(blobs), len(diffs))
	}
	if err := manifest.CheckLayers(&c.Manifest); err != nil {
		return "", err
	}
	layers := make([]snapshot.Layer, len(blobs))
	opened := make([]bool, len(blobs))
	for i, b := range blobs {
		layers[i] = snapshot.Layer{DiffID: diffs[i], Open: func() (io.ReadCloser, error) {
			opened[i] = true
			if w.Report == nil {
				return s.plain(ctx, b, nil)
			}
			return s.plain(ctx, b, func(done, total int64) { w.Report(i, done, total) })
		}, Done: func() {
			if w.Done != nil {
				w.Done(i)
			}
		}}
		if w.Ready != nil {
			layers[i].Ready = func(ctx context.Context) error { return w.Ready(ctx, i) }
		}
	}
	chain, err := s.Snapshots.Unpack(ctx, layers)
	if err != nil {
		return "", err
	}
	for i, b := range blobs {
		if w.Ready != nil {
			if err := w.Ready(ctx, i); err != nil {
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
func (s *Tree) checkDiffID(ctx context.Context, n int, b ocispec.Descriptor, want digest.Digest, checked bool) error {
	if b.Digest == want {
		return nil // not compressed; it was checked when it was written
	}
	labels, err := s.Content.Labels(ctx, b.Digest)
	if err != nil {
		return err
	}
	got := digest.Digest(labels[LabelDiffID])
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
	if labels[LabelDiffID] == want.String() {
		return nil
	}
	return s.Content.Label(ctx, b.Digest, map[string]string{LabelDiffID: want.String()})
}

// plain opens the uncompressed content of a layer's blob. progress, if any, is
// told the blob's bytes as they are read.
func (s *Tree) plain(ctx context.Context, b ocispec.Descriptor, progress func(done, total int64)) (io.ReadCloser, error) {
	in, size, err := s.Content.Reader(ctx, b.Digest)
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
