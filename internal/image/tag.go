package image

import (
	"context"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
)

// parseTag reads a name that is to be given to an image; without a tag it is
// "latest".
func parseTag(target string) (reference.Named, error) {
	ref, err := reference.ParseNormalizedNamed(target)
	if err != nil {
		return nil, invalid("%s", err)
	}
	if _, ok := ref.(reference.Digested); ok {
		return nil, invalid("refusing to create a tag with a digest reference")
	}
	if reference.FamiliarName(ref) == string(digest.Canonical) {
		return nil, invalid("refusing to create an ambiguous tag using digest algorithm as name")
	}
	return reference.TagNameOnly(ref), nil
}

// Tag gives the image src the further name target. A name that stood for
// another image changes over.
func (s *Store) Tag(ctx context.Context, src, target string) error {
	// Nobody removes the image between the look and the new name.
	s.change.Lock()
	defer s.change.Unlock()
	img, err := s.Resolve(ctx, src)
	if err != nil {
		return err
	}
	ref, err := parseTag(target)
	if err != nil {
		return err
	}
	r := named(img, ref)
	if _, err := s.commit(ctx, nil, []*record{r}); err != nil {
		return err
	}
	s.publish(events.ActionTag, img, img.ID.String(), reference.FamiliarString(ref))
	return nil
}

// named is the record that gives img the name ref.
func named(img *Image, ref reference.Named) *record {
	return &record{name: ref.String(), ref: ref, target: img.Target, manifest: img.Manifest.Digest, id: img.ID, parent: img.Parent}
}
