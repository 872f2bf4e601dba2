package tree

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/archive"
)

// LayerType tells a layer's media type from its first bytes.
func (s *Tree) LayerType(ctx context.Context, d ocispec.Descriptor) (string, error) {
	r, _, err := s.Content.Reader(ctx, d.Digest)
	if err != nil {
		return "", err
	}
	defer r.Close()
	head := make([]byte, archive.HeadLen)
	n, _ := io.ReadFull(r, head)
	switch archive.Detect(head[:n]) {
	case archive.Gzip:
		return ocispec.MediaTypeImageLayerGzip, nil
	case archive.Zstd:
		return ocispec.MediaTypeImageLayerZstd, nil
	}
	return ocispec.MediaTypeImageLayer, nil
}

// WriteLayer stores a layer that is not known yet, and computes its diffID on
// the way.
func (s *Tree) WriteLayer(ctx context.Context, r io.Reader) (ocispec.Descriptor, digest.Digest, error) {
	head := make([]byte, archive.HeadLen)
	n, err := io.ReadFull(r, head)
	if err != nil && n == 0 {
		return ocispec.Descriptor{}, "", invalid("the archive of the root file system is empty")
	}
	in := io.MultiReader(bytes.NewReader(head[:n]), r)
	c := archive.Detect(head[:n])
	if c == archive.XZ || c == archive.Bzip2 {
		plain, _, err := archive.Decompress(in)
		if err != nil {
			return ocispec.Descriptor{}, "", err
		}
		defer plain.Close()
		in, c = plain, archive.None
	}
	layer, _, err := s.Content.Write(ctx, in, ocispec.Descriptor{})
	if err != nil {
		return layer, "", err
	}
	layer.MediaType = ocispec.MediaTypeImageLayer
	if c == archive.None {
		return layer, layer.Digest, nil
	}
	layer.MediaType += "+" + string(c)
	plain, err := s.plain(ctx, layer, nil)
	if err != nil {
		return layer, "", err
	}
	defer plain.Close()
	diff, err := digest.FromReader(plain)
	if err != nil {
		return layer, "", fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	return layer, diff, s.Content.Label(ctx, layer.Digest, map[string]string{LabelDiffID: diff.String()})
}
