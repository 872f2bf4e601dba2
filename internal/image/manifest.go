package image

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// What is read into memory at once, and how far an index may reach.
const (
	maxManifest = 4 << 20
	maxConfig   = 8 << 20
	maxDepth    = 4
	maxFanOut   = 1024
)

// Docker's media types, which OCI's stand beside.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// document is a parsed manifest (image) or index.
type document struct {
	mediaType string
	image     *ocispec.Manifest
	index     *ocispec.Index
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// parseManifest is strict: what two readers could take for different images
// (CVE-2021-41190) is refused, whichever of the two it was meant to be.
func parseManifest(d ocispec.Descriptor, b []byte) (*document, error) {
	if len(b) > maxManifest {
		return nil, invalid("manifest %s has %d bytes, more than %d", d.Digest, len(b), maxManifest)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(b, &keys); err != nil {
		return nil, invalid("manifest %s: %v", d.Digest, err)
	}
	known := []string{"schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers", "signatures", "history"}
	for k := range keys {
		for _, want := range known {
			if k != want && strings.EqualFold(k, want) {
				return nil, invalid("ambiguous manifest %s: field %q", d.Digest, k)
			}
		}
	}
	has := func(k string) bool { v, ok := keys[k]; return ok && string(v) != "null" }
	var head struct {
		SchemaVersion int    `json:"schemaVersion"`
		MediaType     string `json:"mediaType"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, invalid("manifest %s: %v", d.Digest, err)
	}
	if head.SchemaVersion == 1 || has("fsLayers") {
		return nil, invalid("manifest %s: schema version 1 is no longer supported: convert the image to the OCI format", d.Digest)
	}
	if head.SchemaVersion != 2 {
		return nil, invalid("manifest %s: unsupported schema version %d", d.Digest, head.SchemaVersion)
	}
	isImage, isIndex := has("config") || has("layers"), has("manifests")
	if isImage == isIndex {
		return nil, invalid("ambiguous manifest %s: it must be either an image or an index", d.Digest)
	}
	if head.MediaType != "" && d.MediaType != "" && head.MediaType != d.MediaType {
		return nil, invalid("ambiguous manifest %s: it says it is %s, but is referred to as %s", d.Digest, head.MediaType, d.MediaType)
	}
	doc := &document{mediaType: d.MediaType}
	if doc.mediaType == "" {
		doc.mediaType = head.MediaType
	}
	if isIndex {
		if doc.mediaType == "" {
			doc.mediaType = ocispec.MediaTypeImageIndex
		}
		if doc.mediaType != ocispec.MediaTypeImageIndex && doc.mediaType != dockerList {
			return nil, invalid("manifest %s: an index of unsupported media type %q", d.Digest, doc.mediaType)
		}
		doc.index = &ocispec.Index{}
		if err := json.Unmarshal(b, doc.index); err != nil {
			return nil, invalid("index %s: %v", d.Digest, err)
		}
		if len(doc.index.Manifests) > maxFanOut {
			return nil, invalid("index %s refers to %d manifests, more than %d", d.Digest, len(doc.index.Manifests), maxFanOut)
		}
		for _, m := range doc.index.Manifests {
			if err := m.Digest.Validate(); err != nil {
				return nil, invalid("index %s: %q: %v", d.Digest, m.Digest, err)
			}
		}
		return doc, nil
	}
	if doc.mediaType == "" {
		doc.mediaType = ocispec.MediaTypeImageManifest
	}
	if doc.mediaType != ocispec.MediaTypeImageManifest && doc.mediaType != dockerManifest {
		return nil, invalid("manifest %s: unsupported media type %q", d.Digest, doc.mediaType)
	}
	doc.image = &ocispec.Manifest{}
	if err := json.Unmarshal(b, doc.image); err != nil {
		return nil, invalid("manifest %s: %v", d.Digest, err)
	}
	for _, b := range append(slices.Clone(doc.image.Layers), doc.image.Config) {
		if err := b.Digest.Validate(); err != nil {
			return nil, invalid("manifest %s: %q: %v", d.Digest, b.Digest, err)
		}
	}
	return doc, nil
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
func (s *graph) walk(ctx context.Context, target ocispec.Descriptor, depth int, fn func(ocispec.Descriptor, *document) error) error {
	if depth > maxDepth {
		return invalid("index %s: nested too deep", target.Digest)
	}
	b, err := s.content.Read(ctx, target.Digest, maxManifest)
	if err != nil {
		return err
	}
	if target.Size > 0 && target.Size != int64(len(b)) {
		return invalid("manifest %s has %d bytes, its reference says %d", target.Digest, len(b), target.Size)
	}
	doc, err := parseManifest(target, b)
	if err != nil {
		return err
	}
	target.MediaType, target.Size = doc.mediaType, int64(len(b))
	if err := fn(target, doc); err != nil || doc.index == nil {
		return err
	}
	for _, m := range doc.index.Manifests {
		// An archive or a pull of one platform brings only its part of an index.
		if _, err := s.content.Size(ctx, m.Digest); errdefs.IsNotFound(err) {
			continue
		}
		if !isManifest(m.MediaType) {
			continue
		}
		if err := s.walk(ctx, m, depth+1, fn); err != nil {
			return err
		}
	}
	return nil
}

func isManifest(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, dockerManifest, dockerList, "":
		return true
	}
	return false
}

// candidates lists the image manifests below target.
func (s *graph) candidates(ctx context.Context, target ocispec.Descriptor) ([]candidate, error) {
	var list []candidate
	err := s.walk(ctx, target, 0, func(d ocispec.Descriptor, doc *document) error {
		if doc.image == nil {
			return nil
		}
		c := candidate{desc: d, manifest: *doc.image}
		switch doc.image.Config.MediaType {
		case dockerConfig, ocispec.MediaTypeImageConfig, "":
			c.runnable = d.Annotations["vnd.docker.reference.type"] == ""
		}
		for _, b := range append([]ocispec.Descriptor{doc.image.Config}, doc.image.Layers...) {
			if _, err := s.content.Size(ctx, b.Digest); err != nil {
				c.missing = err
				break
			}
		}
		if c.missing == nil && c.runnable {
			b, err := s.content.Read(ctx, doc.image.Config.Digest, maxConfig)
			if err != nil {
				return err
			}
			if err := json.Unmarshal(b, &c.config); err != nil {
				return invalid("image config %s: %v", doc.image.Config.Digest, err)
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
	err := s.walk(ctx, target, 0, func(d ocispec.Descriptor, doc *document) error {
		if d.Digest == target.Digest {
			full = d
		}
		labels := map[string]string{}
		if doc.index != nil {
			for i, m := range doc.index.Manifests {
				labels[fmt.Sprintf("containerd.io/gc.ref.content.m.%d", i)] = m.Digest.String()
			}
		} else {
			labels["containerd.io/gc.ref.content.config"] = doc.image.Config.Digest.String()
			for i, l := range doc.image.Layers {
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
