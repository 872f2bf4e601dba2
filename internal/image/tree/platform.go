package tree

import (
	"context"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Choice is the part of an image that some platforms need.
type Choice struct {
	Images []Candidate // complete ones; the one for this host, else the one asked for first, comes first
	wanted map[digest.Digest]bool
}

// Choose finds the images below target for platforms, which must not be empty.
// One that is not there, or not whole, is errdefs.ErrNotFound; ref is what the
// error calls the image.
func (s *Tree) Choose(ctx context.Context, ref string, target ocispec.Descriptor, want []ocispec.Platform) (*Choice, error) {
	list, err := s.Candidates(ctx, target)
	if err != nil {
		return nil, err
	}
	choice := &Choice{wanted: map[digest.Digest]bool{}}
	for _, p := range want {
		match := platforms.OnlyStrict(p)
		i := slices.IndexFunc(list, func(c Candidate) bool { return c.Runnable && c.Missing == nil && match.Match(c.Platform) })
		if i < 0 {
			return nil, errdefs.ErrNotFound.WithMessage("image with reference " + ref + " was found but does not provide the specified platform (" + platforms.FormatAll(platforms.Normalize(p)) + ")")
		}
		if !choice.wanted[list[i].Desc.Digest] {
			choice.wanted[list[i].Desc.Digest] = true
			choice.Images = append(choice.Images, list[i])
		}
	}
	host := platforms.Default()
	slices.SortStableFunc(choice.Images, func(a, b Candidate) int {
		switch {
		case host.Match(a.Platform) == host.Match(b.Platform):
			return 0
		case host.Match(a.Platform):
			return -1
		}
		return 1
	})
	return choice, nil
}

// Wants tells whether a document below the target belongs to the choice: its
// images, what is attested of them, and indexes. Everything does to nil.
func (c *Choice) Wants(d ocispec.Descriptor) bool {
	if c == nil || c.wanted[d.Digest] || d.MediaType == ocispec.MediaTypeImageIndex || d.MediaType == "application/vnd.docker.distribution.manifest.list.v2+json" {
		return true
	}
	return c.wanted[digest.Digest(d.Annotations["vnd.docker.reference.digest"])]
}
