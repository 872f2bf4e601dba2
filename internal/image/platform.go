package image

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	imageapi "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/id"
)

// at resolves ref to its image for a platform, nil for the one that the name
// stands for. What is not unpacked has no size.
func at(ctx context.Context, s *Store, ref string, p *ocispec.Platform) (*Image, error) {
	img, err := s.Resolve(ctx, ref)
	if err != nil || p == nil {
		return img, err
	}
	choice, err := s.tree.Choose(content.With(ctx), ref, img.Target, []ocispec.Platform{*p})
	if err != nil {
		return nil, err
	}
	c := choice.Images[0]
	if c.Desc.Digest == img.Manifest.Digest {
		return img, nil
	}
	one := *img // it is shared
	one.ID, one.Manifest, one.Config, one.ChainID, one.Size, one.Parent = c.Manifest.Config.Digest, c.Desc, c.Config, "", 0, ""
	one.Created = time.Time{}
	if c.Config.Created != nil {
		one.Created = *c.Config.Created
	}
	if len(c.Config.RootFS.DiffIDs) > 0 {
		one.ChainID = identity.ChainID(c.Config.RootFS.DiffIDs)
	}
	if lower, err := s.Layers(ctx, &one); err == nil {
		one.Size = lower.Size
	} else if !errdefs.IsNotFound(err) {
		return nil, err
	}
	return &one, nil
}

// removePlatforms removes single platforms of an image, but not the one that
// its name stands for here: that goes with the image.
func removePlatforms(ctx context.Context, s *Store, ref string, list []ocispec.Platform) ([]imageapi.DeleteResponse, error) {
	ctx = content.With(ctx)
	img, err := s.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	var gone []digest.Digest
	for _, p := range list {
		one, err := at(ctx, s, ref, &p)
		if err != nil {
			return nil, err
		}
		if one.Manifest.Digest == img.Manifest.Digest {
			return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("conflict: unable to delete %s (cannot be forced) - %s is the platform that the image is used for here",
				id.Short(img.ID.String()), platforms.FormatAll(platforms.Normalize(p))))
		}
		gone = append(gone, one.Manifest.Digest)
	}
	var out []imageapi.DeleteResponse
	for _, d := range gone {
		if err := s.tree.Release(ctx, img.Target, d); err != nil {
			return out, err
		}
		out = append(out, imageapi.DeleteResponse{Deleted: d.String()})
	}
	return out, s.Collect(context.WithoutCancel(ctx))
}
