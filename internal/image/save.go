package image

import (
	"context"
	"io"
	"slices"
	"sort"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/image/archive"
	"github.com/wherry-engine/wherry/internal/image/tree"
)

// saving is one image on its way into an archive.
type saving struct {
	img    *Image
	tags   []reference.Named // none: saved by its id
	choice *tree.Choice      // nil: everything that is here
}

// Save writes the named images to one archive that is both a docker-archive
// and an OCI layout. Blobs go out byte for byte as they came in, so digests
// stay. A name without a tag stands for all tags of that repository. With
// platforms, of each image only what they need is saved; for one of them the
// archive names its manifest, for several the index, without the rest.
func (s *Store) Save(ctx context.Context, names []string, want []ocispec.Platform, w io.Writer) error {
	ctx, release, err := s.content.Lease(content.With(ctx))
	if err != nil {
		return err
	}
	defer release()
	list, err := saveList(ctx, s, names)
	if err != nil {
		return err
	}
	for _, sv := range list {
		if err := hold(ctx, s, sv.img); err != nil {
			return err
		}
	}
	if len(want) > 0 {
		for _, sv := range list {
			if err := sv.part(ctx, s, want); err != nil {
				return err
			}
		}
	}
	out := make([]*archive.Saved, len(list))
	for i, sv := range list {
		out[i] = &archive.Saved{ID: sv.img.ID, Target: sv.img.Target, Manifest: sv.img.Manifest, Chain: sv.img.ChainID, Tags: sv.tags, Choice: sv.choice}
	}
	if err := archive.Write(ctx, s.tree, w, out); err != nil {
		return err
	}
	for _, sv := range list {
		s.publish(events.ActionSave, sv.img, sv.img.ID.String(), sv.img.ID.String())
	}
	return nil
}

// part makes it the saving of what some platforms need.
func (sv *saving) part(ctx context.Context, s *Store, want []ocispec.Platform) error {
	name := sv.img.ID.String()
	if len(sv.tags) > 0 {
		name = reference.FamiliarString(sv.tags[0])
	}
	choice, err := s.tree.Choose(ctx, name, sv.img.Target, want)
	if err != nil {
		return err
	}
	one := *sv.img // it is shared
	sv.choice, sv.img = choice, &one
	first := choice.Images[0]
	one.ID, one.Manifest, one.ChainID = first.Manifest.Config.Digest, first.Desc, ""
	if len(choice.Images) == 1 {
		one.Target = first.Desc
	}
	if diffs := first.Config.RootFS.DiffIDs; len(diffs) > 0 {
		one.ChainID = identity.ChainID(diffs)
	}
	return nil
}

// saveList resolves the names, each image once.
func saveList(ctx context.Context, s *Store, names []string) ([]*saving, error) {
	var list []*saving
	add := func(img *Image, tags ...reference.Named) {
		i := slices.IndexFunc(list, func(o *saving) bool { return o.img.ID == img.ID && o.img.Target.Digest == img.Target.Digest })
		if i < 0 {
			i = len(list)
			list = append(list, &saving{img: img})
		}
		for _, t := range tags {
			if !slices.ContainsFunc(list[i].tags, func(o reference.Named) bool { return o.String() == t.String() }) {
				list[i].tags = append(list[i].tags, t)
			}
		}
	}
	if len(names) == 0 {
		return nil, invalid("no images named")
	}
	for _, name := range names {
		named, err := reference.ParseNormalizedNamed(name)
		if err == nil && reference.IsNameOnly(named) && !id.Valid(name) {
			tags := s.tagsOf(named.Name())
			for _, t := range tags {
				img, err := s.Resolve(ctx, reference.FamiliarString(t))
				if err != nil {
					return nil, err
				}
				add(img, t)
			}
			if len(tags) > 0 {
				continue
			}
		}
		img, err := s.Resolve(ctx, name)
		if err != nil {
			return nil, err
		}
		if named != nil {
			if _, ok := named.(reference.Canonical); !ok {
				named = reference.TagNameOnly(named)
				if e := s.byName(named); e != nil && e.id == img.ID {
					add(img, named)
					continue
				}
			}
		}
		add(img)
	}
	return list, nil
}

// tagsOf lists the tags of a repository.
func (s *table) tagsOf(repository string) (list []reference.Named) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, r := range s.index.names {
		if r.ref != nil && r.ref.Name() == repository && !r.canonical() {
			list = append(list, r.ref)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].String() < list[j].String() })
	return list
}
