package image

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	imageapi "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/storage"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/image/manifest"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// Inspection is an image in full. Parent is the image that it was committed
// from or built on here, "" for none; Origin reads of what container it was
// made. Only older clients are told.
type Inspection struct {
	imageapi.InspectResponse
	Parent digest.Digest          `json:"-"`
	Origin func() (Origin, error) `json:"-"`
}

// Inspect describes one image in full, as it is for a platform (nil: the one
// that it is used for here).
func (s *Store) Inspect(ctx context.Context, ref string, p *ocispec.Platform, manifests bool) (*Inspection, error) {
	img, err := at(ctx, s, ref, p)
	if err != nil {
		return nil, err
	}
	target, config := img.Target, img.Config.Config
	origin := func() (o Origin, err error) {
		b, err := s.content.Read(ctx, img.ID, manifest.MaxSize)
		if err == nil {
			err = json.Unmarshal(b, &o)
		}
		return o, err
	}
	out := &Inspection{Parent: img.Parent, Origin: origin, InspectResponse: imageapi.InspectResponse{
		ID: img.ID.String(), RepoTags: img.RepoTags, RepoDigests: img.RepoDigests,
		Author: img.Config.Author, Config: &config,
		Architecture: img.Config.Architecture, Variant: img.Config.Variant, Os: img.Config.OS, OsVersion: img.Config.OSVersion,
		Size: img.Size, RootFS: imageapi.RootFS{Type: img.Config.RootFS.Type},
		Metadata:   imageapi.Metadata{LastTagTime: img.Tagged},
		Descriptor: &target,
	}}
	if n := len(img.Config.History); n > 0 {
		out.Comment = img.Config.History[n-1].Comment
	}
	if !img.Created.IsZero() {
		out.Created = img.Created.Format(time.RFC3339Nano)
	}
	for _, d := range img.Config.RootFS.DiffIDs {
		out.RootFS.Layers = append(out.RootFS.Layers, d.String())
	}
	if manifests {
		if out.Manifests, err = s.Manifests(ctx, ref); err != nil {
			return nil, err
		}
	}
	lower, err := s.Layers(ctx, img)
	if err != nil && !errdefs.IsNotFound(err) { // another platform's need not be unpacked
		return nil, err
	}
	out.GraphDriver = &storage.DriverData{Name: s.snapshots.Driver(), Data: map[string]string{}}
	if s.snapshots.Driver() == snapshot.Overlay2 && len(lower.Dirs) > 0 {
		out.GraphDriver.Data["UpperDir"] = lower.Dirs[0]
		if len(lower.Dirs) > 1 {
			out.GraphDriver.Data["LowerDir"] = strings.Join(lower.Dirs[1:], ":")
		}
	}
	return out, nil
}

// Manifests describes the manifests that the image was loaded or pulled with.
func (s *Store) Manifests(ctx context.Context, ref string) ([]imageapi.ManifestSummary, error) {
	img, err := s.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	return s.manifests(ctx, img)
}

// History lists the steps that made the image, as it is for a platform (nil:
// the one that it is used for here), newest first.
func (s *Store) History(ctx context.Context, ref string, p *ocispec.Platform) ([]imageapi.HistoryResponseItem, error) {
	img, err := at(ctx, s, ref, p)
	if err != nil {
		return nil, err
	}
	out := []imageapi.HistoryResponseItem{}
	layer, diffs := 0, img.Config.RootFS.DiffIDs
	for _, h := range img.Config.History {
		item := imageapi.HistoryResponseItem{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			item.Created = h.Created.Unix()
		}
		if !h.EmptyLayer {
			if layer == len(diffs) {
				return nil, invalid("too many non-empty layers in History section")
			}
			layer++
			if _, item.Size, err = s.snapshots.Layer(content.With(ctx), identity.ChainID(diffs[:layer]).String()); err != nil && !errdefs.IsNotFound(err) {
				return nil, err
			}
		}
		out = append(out, item)
	}
	// The last step of an image, and of those that it was made from here.
	for n := len(out); n > 0; {
		out[n-1].ID, out[n-1].Tags = img.ID.String(), img.RepoTags
		if img.Parent == "" {
			break
		}
		if img, err = s.Resolve(ctx, img.Parent.String()); err != nil || len(img.Config.History) >= n {
			break // removed, or not what it says
		}
		n = len(img.Config.History)
	}
	slices.Reverse(out)
	return out, nil
}
