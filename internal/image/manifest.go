package image

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/image/manifest"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// What is read into memory at once, and how deep an index may reach.
const (
	maxConfig = 8 << 20
	maxDepth  = 4
)

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// graph reads and links what lies below an image's target: documents, layers,
// unpacked chains.
type graph struct {
	content   *content.Store
	snapshots *snapshot.Store
}

// candidate is an image manifest below a target.
type candidate struct {
	desc     ocispec.Descriptor
	manifest ocispec.Manifest
	config   dockerspec.DockerOCIImage
	platform ocispec.Platform
	missing  error // what is not there of it; config is not read then
	runnable bool  // it has a container's config, not an artifact's
}

// walk visits every document below target that is there.
func (s *graph) walk(ctx context.Context, target ocispec.Descriptor, depth int, fn func(ocispec.Descriptor, *manifest.Document) error) error {
	if depth > maxDepth {
		return invalid("index %s: nested too deep", target.Digest)
	}
	b, err := s.content.Read(ctx, target.Digest, manifest.MaxSize)
	if err != nil {
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
	if err := fn(target, doc); err != nil || doc.Index == nil {
		return err
	}
	for _, m := range doc.Index.Manifests {
		// An archive or a pull of one platform brings only its part of an index.
		if _, err := s.content.Size(ctx, m.Digest); errdefs.IsNotFound(err) {
			continue
		}
		if !manifest.Is(m.MediaType) {
			continue
		}
		if err := s.walk(ctx, m, depth+1, fn); err != nil {
			return err
		}
	}
	return nil
}

// candidates lists the image manifests below target.
func (s *graph) candidates(ctx context.Context, target ocispec.Descriptor) ([]candidate, error) {
	var list []candidate
	err := s.walk(ctx, target, 0, func(d ocispec.Descriptor, doc *manifest.Document) error {
		if doc.Image == nil {
			return nil
		}
		c := candidate{desc: d, manifest: *doc.Image}
		switch doc.Image.Config.MediaType {
		case manifest.DockerConfig, ocispec.MediaTypeImageConfig, "":
			c.runnable = d.Annotations["vnd.docker.reference.type"] == ""
		}
		for _, b := range append([]ocispec.Descriptor{doc.Image.Config}, doc.Image.Layers...) {
			if _, err := s.content.Size(ctx, b.Digest); err != nil {
				c.missing = err
				break
			}
		}
		if c.missing == nil && c.runnable {
			b, err := s.content.Read(ctx, doc.Image.Config.Digest, maxConfig)
			if err != nil {
				return err
			}
			if err := json.Unmarshal(b, &c.config); err != nil {
				return invalid("image config %s: %v", doc.Image.Config.Digest, err)
			}
			c.platform = platforms.Normalize(c.config.Platform)
		}
		if d.Platform != nil {
			c.platform = platforms.Normalize(*d.Platform)
		}
		list = append(list, c)
		return nil
	})
	return list, err
}

// pick chooses the manifest that an image name stands for on this host: the
// best fit among the complete ones, else the first complete one, for another
// platform's image can still be kept, tagged and saved.
func (s *graph) pick(ctx context.Context, target ocispec.Descriptor) (*candidate, error) {
	list, err := s.candidates(ctx, target)
	if err != nil {
		return nil, err
	}
	host := platforms.Default()
	var best *candidate
	var missing error
	for i := range list {
		c := &list[i]
		switch {
		case !c.runnable:
		case c.missing != nil:
			missing = c.missing
		case best == nil,
			host.Match(c.platform) && (!host.Match(best.platform) || host.Less(c.platform, best.platform)):
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

// keep labels the blobs below target so that the collector follows them, and
// returns target's full descriptor.
func (s *graph) keep(ctx context.Context, target ocispec.Descriptor) (ocispec.Descriptor, error) {
	full := target
	err := s.walk(ctx, target, 0, func(d ocispec.Descriptor, doc *manifest.Document) error {
		if d.Digest == target.Digest {
			full = d
		}
		labels := map[string]string{}
		if doc.Index != nil {
			for i, m := range doc.Index.Manifests {
				labels[fmt.Sprintf("containerd.io/gc.ref.content.m.%d", i)] = m.Digest.String()
			}
		} else {
			labels["containerd.io/gc.ref.content.config"] = doc.Image.Config.Digest.String()
			for i, l := range doc.Image.Layers {
				labels[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", i)] = l.Digest.String()
			}
		}
		had, err := s.content.Labels(ctx, d.Digest)
		if err != nil {
			return err
		}
		maps.DeleteFunc(labels, func(k, v string) bool { return had[k] == v })
		return s.content.Label(ctx, d.Digest, labels)
	})
	return full, err
}
