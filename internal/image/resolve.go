package image

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/id"
)

// maxRaw bounds the remembered answers to reference texts.
const maxRaw = 4096

// Resolve finds the image that ref names: a name with or without tag, a
// name@digest, an id or the beginning of one. The error is errdefs.ErrNotFound
// or, for a text that is no reference, errdefs.ErrInvalidArgument, both with
// dockerd's words.
func (s *Store) Resolve(ctx context.Context, ref string) (*Image, error) {
	s.mu.RLock()
	e := s.index.raw[ref]
	s.mu.RUnlock()
	if e == nil {
		var err error
		if e, err = s.find(ref); err != nil {
			return nil, err
		}
	}
	img, err := s.image(ctx, e)
	if err != nil || e.alike() {
		return img, err
	}
	return own(content.With(ctx), s, e, img, ref)
}

// alike tells whether all names stand for the same blob, as they mostly do.
func (e *entry) alike() bool {
	return !slices.ContainsFunc(e.records, func(r *record) bool { return r.target.Digest != e.records[0].target.Digest })
}

// own gives an image what one of its names stands for: it may be in an index
// by that name, and alone, or packed otherwise, by another.
func own(ctx context.Context, s *Store, e *entry, img *Image, ref string) (*Image, error) {
	r := e.record(ref)
	if r == nil || r.target.Digest == img.Target.Digest {
		return img, nil
	}
	out := *img
	out.Target = r.target
	if r.manifest != img.Manifest.Digest {
		d, err := readDetails(ctx, s.content, r)
		if err != nil {
			return nil, err
		}
		out.Manifest = d.desc
	}
	return &out, nil
}

// record is the one that a reference text leads to, nil for an id.
func (e *entry) record(ref string) *record {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil
	}
	i := slices.IndexFunc(e.records, func(r *record) bool { return r.name == named.String() })
	if c, ok := named.(reference.Canonical); ok && i < 0 {
		i = slices.IndexFunc(e.records, func(r *record) bool {
			return r.ref != nil && r.ref.Name() == c.Name() && (r.target.Digest == c.Digest() || r.manifest == c.Digest())
		})
	}
	if i < 0 {
		return nil
	}
	return e.records[i]
}

// image returns what an entry stands for, from memory after the first call.
func (s *Store) image(ctx context.Context, e *entry) (*Image, error) {
	if img := e.img.Load(); img != nil {
		return img, nil
	}
	img, err := s.build(content.With(ctx), e)
	if err != nil {
		return nil, err
	}
	e.img.Store(img)
	return img, nil
}

// known is image, and for one that cannot be read what the table alone knows:
// it is listed, so that people see it, and can be removed. The error is
// errdefs.ErrNotFound if it was removed meanwhile.
func known(ctx context.Context, s *Store, e *entry) (*Image, error) {
	img, err := s.image(ctx, e)
	if err == nil || s.gone(e, err) || ctx.Err() != nil {
		return img, err
	}
	slog.Warn("an image is listed without what it is", "error", err)
	return bare(e), nil
}

// gone tells whether err means that the entry's image was removed after it was
// listed.
func (s *table) gone(e *entry, err error) bool {
	if !errdefs.IsNotFound(err) {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.index.ids[e.id] != e
}

// hold keeps all that is here of an image for the lease in ctx. The error is
// errdefs.ErrNotFound if it was removed since it was resolved.
func hold(ctx context.Context, s *Store, img *Image) error {
	// Hold first, look then: a collection in between cannot take it away. What
	// the target refers to stays with it.
	if err := s.content.Hold(ctx, leases.Resource{ID: img.Target.Digest.String(), Type: "content"}); err != nil {
		return err
	}
	if _, err := s.content.Size(ctx, img.Target.Digest); errdefs.IsNotFound(err) {
		return errdefs.ErrNotFound.WithMessage("No such image: " + img.ID.String())
	} else if err != nil {
		return err
	}
	return nil
}

// find looks a reference text up and remembers the answer.
func (s *table) find(ref string) (*entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.index.find(ref)
	if err == nil {
		if len(s.index.raw) >= maxRaw {
			clear(s.index.raw)
		}
		s.index.raw[strings.Clone(ref)] = e
	}
	return e, err
}

func (x *index) find(ref string) (*entry, error) {
	parsed, err := reference.ParseAnyReference(ref)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	named, ok := parsed.(reference.Named)
	if !ok { // sha256:<64> or <64>
		d := digest.Digest(parsed.String())
		if e := x.ids[d]; e != nil {
			return e, nil
		}
		return nil, errdefs.ErrNotFound.WithMessage("No such image: " + ref)
	}
	if c, ok := named.(reference.Canonical); ok {
		if e := x.byDigest(c); e != nil {
			return e, nil
		}
		return nil, errdefs.ErrNotFound.WithMessage("No such image: " + reference.FamiliarString(named))
	}
	named = reference.TagNameOnly(named)
	if r := x.names[named.String()]; r != nil {
		return x.ids[r.id], nil
	}
	if hex := strings.TrimPrefix(ref, "sha256:"); id.ValidPrefix(hex) {
		if e, err := x.prefix(hex); e != nil || err != nil {
			return e, err
		}
	}
	return nil, errdefs.ErrNotFound.WithMessage("No such image: " + reference.FamiliarString(named))
}

// byDigest finds name@digest: the digest is that of a target, whose name must
// be known for the repository, whatever the tag in the reference says.
func (x *index) byDigest(c reference.Canonical) *entry {
	if r := x.names[reference.TrimNamed(c).String()+"@"+c.Digest().String()]; r != nil {
		return x.ids[r.id]
	}
	for _, r := range x.names {
		if r.ref != nil && r.ref.Name() == c.Name() && (r.target.Digest == c.Digest() || r.manifest == c.Digest()) {
			return x.ids[r.id]
		}
	}
	return nil
}

// isIDPrefix reports whether ref was meant as an image's id, in full or in part.
func isIDPrefix(image digest.Digest, ref string) bool {
	ref = strings.TrimPrefix(ref, "sha256:")
	return id.ValidPrefix(ref) && strings.HasPrefix(image.Encoded(), ref)
}

// byName is find for a reference that was parsed already.
func (s *table) byName(named reference.Named) *entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r := s.index.names[named.String()]; r != nil {
		return s.index.ids[r.id]
	}
	return nil
}

// entries lists all images.
func (s *table) entries() []*entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]*entry, 0, len(s.index.ids))
	for _, e := range s.index.ids {
		list = append(list, e)
	}
	return list
}
