package image

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	imageapi "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/image/tree"
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

// removePlatforms removes single platforms of an image. When the one that its
// names stand for here is among them, they stand for another that is here from
// then on; the last one goes only with the image. s.change is held.
func removePlatforms(ctx context.Context, s *Store, ref string, o RemoveOptions) ([]imageapi.DeleteResponse, error) {
	ctx = content.With(ctx)
	img, err := s.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	var gone []digest.Digest
	for _, p := range o.Platforms {
		one, err := at(ctx, s, ref, &p)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(gone, one.Manifest.Digest) {
			gone = append(gone, one.Manifest.Digest)
		}
	}
	if slices.Contains(gone, img.Manifest.Digest) {
		if err := changeOver(ctx, s, img, gone, o.Force); err != nil {
			return nil, err
		}
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

// changeOver lets the names of img stand for another manifest of its index that
// is here, the best one that is not among gone.
func changeOver(ctx context.Context, s *Store, img *Image, gone []digest.Digest, force bool) error {
	rm := &removal{s: s, img: img, force: force}
	if err := rm.start(); err != nil {
		return err
	}
	if err := rm.conflict(false); err != nil {
		return err
	}
	list, err := s.tree.Candidates(ctx, img.Target)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(c tree.Candidate) bool {
		return c.Runnable && c.Missing == nil && !slices.Contains(gone, c.Desc.Digest)
	})
	if i < 0 || len(rm.refs) == 0 {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("conflict: unable to delete %s (cannot be forced) - no other platform of the image is here: remove the image", id.Short(img.ID.String())))
	}
	ctx, release, err := s.content.Lease(ctx)
	if err != nil {
		return err
	}
	defer release()
	next, err := s.tree.Settle(ctx, list[i].Desc, &list[i], nil, tree.Watcher{})
	if err != nil {
		return fmt.Errorf("unpack %s: %w", platforms.FormatAll(list[i].Platform), err)
	}
	var records []*record
	for _, old := range rm.refs {
		r := *old
		r.manifest, r.id, r.parent = list[i].Desc.Digest, next.ID(), ""
		records = append(records, &r)
	}
	orphans, err := s.commit(ctx, nil, records)
	if err != nil || len(orphans) == 0 {
		return err
	}
	// A crash before this leaves an image without a name behind.
	_, err = s.commit(ctx, []string{danglingPrefix + img.Target.Digest.String()}, nil)
	return err
}
