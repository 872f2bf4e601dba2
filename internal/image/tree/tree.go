// Package tree owns what lies below an image's target: documents, configs and
// layers as blobs, the links that keep them, and the chain that they unpack to.
package tree

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/image/manifest"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// MaxConfig is how much of a config is read into memory.
const MaxConfig = 8 << 20

// What an index may lead to: how deep, to how many documents, each as often as
// it is named, and to how many bytes of them, or of their configs.
const (
	maxDepth     = 4
	maxDocuments = 10_000
	maxTotal     = 64 << 20
)

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// Tree reads and links them. It is safe for use by several goroutines.
type Tree struct {
	Content   *content.Store
	Snapshots *snapshot.Store
}

// Candidate is an image manifest below a target.
type Candidate struct {
	Desc     ocispec.Descriptor
	Manifest ocispec.Manifest
	Config   dockerspec.DockerOCIImage
	Platform ocispec.Platform
	Missing  error // what is not there of it; Config is not read then
	Runnable bool  // it has a container's config, not an artifact's
}

// Walk visits every document below target that is there, an index once.
func (s *Tree) Walk(ctx context.Context, target ocispec.Descriptor, fn func(ocispec.Descriptor, *manifest.Document) error) error {
	w := walk{Tree: s, fn: fn, indexes: map[digest.Digest]bool{}}
	return w.visit(ctx, target, 0)
}

// walk is one visit of all documents. A few small indexes can name each other's
// entries millions of times; what it reads has a bound.
type walk struct {
	*Tree
	fn      func(ocispec.Descriptor, *manifest.Document) error
	indexes map[digest.Digest]bool // that it has been to
	visits  int
	read    budget
}

// budget is how many bytes were read for one purpose.
type budget int

// spend notes n more.
func (b *budget) spend(n int, of digest.Digest) error {
	if *b += budget(n); *b > maxTotal {
		return invalid("index %s: it leads to more than %d MB of manifests or configs", of, maxTotal>>20)
	}
	return nil
}

func (w *walk) visit(ctx context.Context, target ocispec.Descriptor, depth int) error {
	if depth > maxDepth {
		return invalid("index %s: nested too deep", target.Digest)
	}
	if w.visits++; w.visits > maxDocuments {
		return invalid("index %s: it leads to more than %d manifests", target.Digest, maxDocuments)
	}
	b, err := w.Content.Read(ctx, target.Digest, manifest.MaxSize)
	if err != nil {
		return err
	}
	if err := w.read.spend(len(b), target.Digest); err != nil {
		return err
	}
	if target.Size > 0 && target.Size != int64(len(b)) {
		return invalid("manifest %s has %d bytes, its reference says %d", target.Digest, len(b), target.Size)
	}
	doc, err := manifest.Parse(target, b)
	if err != nil {
		return err
	}
	target.MediaType, target.Size = doc.MediaType, int64(len(b))
	if err := w.fn(target, doc); err != nil || doc.Index == nil {
		return err
	}
	w.indexes[target.Digest] = true
	for _, m := range doc.Index.Manifests {
		// An archive or a pull of one platform brings only its part of an index.
		if _, err := w.Content.Size(ctx, m.Digest); errdefs.IsNotFound(err) {
			continue
		}
		if !manifest.Is(m.MediaType) || w.indexes[m.Digest] {
			continue
		}
		if err := w.visit(ctx, m, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// Candidates lists the image manifests below target.
func (s *Tree) Candidates(ctx context.Context, target ocispec.Descriptor) ([]Candidate, error) {
	var list []Candidate
	var read budget
	err := s.Walk(ctx, target, func(d ocispec.Descriptor, doc *manifest.Document) error {
		if doc.Image == nil {
			return nil
		}
		c := Candidate{Desc: d, Manifest: *doc.Image}
		switch doc.Image.Config.MediaType {
		case manifest.DockerConfig, ocispec.MediaTypeImageConfig, "":
			c.Runnable = d.Annotations["vnd.docker.reference.type"] == ""
		}
		for _, b := range append([]ocispec.Descriptor{doc.Image.Config}, doc.Image.Layers...) {
			if _, err := s.Content.Size(ctx, b.Digest); err != nil {
				c.Missing = err
				break
			}
		}
		if c.Missing == nil && c.Runnable {
			b, err := s.Content.Read(ctx, doc.Image.Config.Digest, MaxConfig)
			if err == nil {
				err = read.spend(len(b), target.Digest)
			}
			if err != nil {
				return err
			}
			if err := json.Unmarshal(b, &c.Config); err != nil {
				return invalid("image config %s: %v", doc.Image.Config.Digest, err)
			}
			c.Platform = platforms.Normalize(c.Config.Platform)
		}
		if d.Platform != nil {
			c.Platform = platforms.Normalize(*d.Platform)
		}
		list = append(list, c)
		return nil
	})
	return list, err
}

// Pick chooses the manifest that an image name stands for on this host: the
// best fit among the complete ones, else the first complete one, for another
// platform's image can still be kept, tagged and saved.
func (s *Tree) Pick(ctx context.Context, target ocispec.Descriptor) (*Candidate, error) {
	list, err := s.Candidates(ctx, target)
	if err != nil {
		return nil, err
	}
	host := platforms.Default()
	var best *Candidate
	var missing error
	for i := range list {
		c := &list[i]
		switch {
		case !c.Runnable:
		case c.Missing != nil:
			missing = c.Missing
		case best == nil,
			host.Match(c.Platform) && (!host.Match(best.Platform) || host.Less(c.Platform, best.Platform)):
			best = c
		}
	}
	switch {
	case best != nil:
		return best, nil
	case missing != nil:
		return nil, fmt.Errorf("%s is not complete: %w", target.Digest, missing)
	}
	return nil, invalid("%s holds no image that could run", target.Digest)
}

// Keep labels the blobs below target so that the collector follows them, to
// what the choice wants, and returns target's full descriptor.
func (s *Tree) Keep(ctx context.Context, target ocispec.Descriptor, choice *Choice) (ocispec.Descriptor, error) {
	full := target
	err := s.Walk(ctx, target, func(d ocispec.Descriptor, doc *manifest.Document) error {
		if d.Digest == target.Digest {
			full = d
		}
		labels := map[string]string{}
		if doc.Index != nil {
			for i, m := range doc.Index.Manifests {
				if choice.Wants(m) {
					labels[manifestLabel(i)] = m.Digest.String()
				}
			}
		} else {
			labels["containerd.io/gc.ref.content.config"] = doc.Image.Config.Digest.String()
			for i, l := range doc.Image.Layers {
				labels[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", i)] = l.Digest.String()
			}
		}
		had, err := s.Content.Labels(ctx, d.Digest)
		if err != nil {
			return err
		}
		maps.DeleteFunc(labels, func(k, v string) bool { return had[k] == v })
		return s.Content.Label(ctx, d.Digest, labels)
	})
	return full, err
}

// Arrived reads the manifest that was chosen, and its config.
func (s *Tree) Arrived(ctx context.Context, d ocispec.Descriptor) (*Candidate, error) {
	b, err := s.Content.Read(ctx, d.Digest, manifest.MaxSize)
	if err != nil {
		return nil, err
	}
	doc, err := manifest.Parse(d, b)
	if err != nil {
		return nil, err
	}
	if doc.Image == nil {
		return nil, invalid("%s is an index, not an image", d.Digest)
	}
	c := &Candidate{Desc: ocispec.Descriptor{MediaType: doc.MediaType, Digest: d.Digest, Size: int64(len(b))}, Manifest: *doc.Image, Runnable: true}
	if b, err = s.Content.Read(ctx, doc.Image.Config.Digest, MaxConfig); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &c.Config); err != nil {
		return nil, invalid("image config %s: %v", doc.Image.Config.Digest, err)
	}
	return c, nil
}

// manifestLabel is where an index refers to its manifest n.
func manifestLabel(n int) string { return fmt.Sprintf("containerd.io/gc.ref.content.m.%d", n) }

// Release takes the links to a manifest, and to what is attested of it, from
// the index target; the next collection removes it if nothing else needs it.
func (s *Tree) Release(ctx context.Context, target ocispec.Descriptor, gone digest.Digest) error {
	b, err := s.Content.Read(ctx, target.Digest, manifest.MaxSize)
	if err != nil {
		return err
	}
	doc, err := manifest.Parse(target, b)
	if err != nil {
		return err
	}
	labels := map[string]string{}
	for i, m := range doc.Index.Manifests {
		if m.Digest == gone || m.Annotations["vnd.docker.reference.digest"] == gone.String() {
			labels[manifestLabel(i)] = "" // none
		}
	}
	return s.Content.Label(ctx, target.Digest, labels)
}
