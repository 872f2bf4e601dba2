package image

import (
	"context"
	"encoding/json"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// describe stores what says of these layers that they are an image. The caller
// holds a lease; the content is durable when it returns, the image has no
// record yet.
func describe(ctx context.Context, s *Store, config any, layers []ocispec.Descriptor) (*loading, error) {
	b, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	cfg, err := s.content.WriteBytes(ctx, ocispec.MediaTypeImageConfig, b)
	if err != nil {
		return nil, err
	}
	doc := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: cfg, Layers: layers}
	doc.SchemaVersion = 2
	if b, err = json.Marshal(doc); err != nil {
		return nil, err
	}
	target, err := s.content.WriteBytes(ctx, ocispec.MediaTypeImageManifest, b)
	if err != nil {
		return nil, err
	}
	a, err := s.tree.Adopt(ctx, target, nil)
	if err != nil {
		return nil, err
	}
	return &loading{target: target, done: a}, s.snapshots.Sync()
}
