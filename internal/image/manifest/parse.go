// Package manifest owns how manifests and indexes are read: strictly, within
// bounds, docker's and OCI's alike.
package manifest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds on what one document may hold.
const (
	MaxSize   = 4 << 20
	maxFanOut = 1024
)

// Docker's media types, which OCI's stand beside.
const (
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// Document is a parsed manifest (Image) or index; the other one is nil.
type Document struct {
	MediaType string
	Image     *ocispec.Manifest
	Index     *ocispec.Index
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// Parse is strict: what two readers could take for different images
// (CVE-2021-41190) is refused, whichever of the two it was meant to be.
func Parse(d ocispec.Descriptor, b []byte) (*Document, error) {
	if len(b) > MaxSize {
		return nil, invalid("manifest %s has %d bytes, more than %d", d.Digest, len(b), MaxSize)
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
	doc := &Document{MediaType: d.MediaType}
	if doc.MediaType == "" {
		doc.MediaType = head.MediaType
	}
	if isIndex {
		if doc.MediaType == "" {
			doc.MediaType = ocispec.MediaTypeImageIndex
		}
		if doc.MediaType != ocispec.MediaTypeImageIndex && doc.MediaType != DockerList {
			return nil, invalid("manifest %s: an index of unsupported media type %q", d.Digest, doc.MediaType)
		}
		doc.Index = &ocispec.Index{}
		if err := json.Unmarshal(b, doc.Index); err != nil {
			return nil, invalid("index %s: %v", d.Digest, err)
		}
		if len(doc.Index.Manifests) > maxFanOut {
			return nil, invalid("index %s refers to %d manifests, more than %d", d.Digest, len(doc.Index.Manifests), maxFanOut)
		}
		for _, m := range doc.Index.Manifests {
			if err := m.Digest.Validate(); err != nil {
				return nil, invalid("index %s: %q: %v", d.Digest, m.Digest, err)
			}
		}
		return doc, nil
	}
	if doc.MediaType == "" {
		doc.MediaType = ocispec.MediaTypeImageManifest
	}
	if doc.MediaType != ocispec.MediaTypeImageManifest && doc.MediaType != DockerManifest {
		return nil, invalid("manifest %s: unsupported media type %q", d.Digest, doc.MediaType)
	}
	doc.Image = &ocispec.Manifest{}
	if err := json.Unmarshal(b, doc.Image); err != nil {
		return nil, invalid("manifest %s: %v", d.Digest, err)
	}
	for _, b := range append(slices.Clone(doc.Image.Layers), doc.Image.Config) {
		if err := b.Digest.Validate(); err != nil {
			return nil, invalid("manifest %s: %q: %v", d.Digest, b.Digest, err)
		}
	}
	return doc, nil
}

// Is tells whether a descriptor of that media type refers to a manifest or an
// index. An empty one does: old indexes leave it out.
func Is(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, DockerManifest, DockerList, "":
		return true
	}
	return false
}

// CheckLayers refuses an image whose layers are not tars of files.
func CheckLayers(m *ocispec.Manifest) error {
	for _, l := range m.Layers {
		switch strings.TrimSuffix(strings.TrimSuffix(l.MediaType, "+gzip"), "+zstd") {
		case ocispec.MediaTypeImageLayer, "application/vnd.oci.image.layer.nondistributable.v1.tar",
			"application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar.zstd",
			"application/vnd.docker.image.rootfs.foreign.diff.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":
		default:
			return invalid("layer %s has the unsupported media type %.200q", l.Digest, l.MediaType)
		}
		if l.Size < 0 {
			return invalid("layer %s has the size %d", l.Digest, l.Size)
		}
	}
	return nil
}
