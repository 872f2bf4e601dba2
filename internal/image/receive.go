package image

import (
	"context"
	"slices"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/image/manifest"
	"github.com/wherry-engine/wherry/internal/image/tree"
)

// Arrival is an image that a registry client brings. Target, Manifest and the
// manifest's config are in the content store, under the lease of the context;
// its layers may still be on their way.
type Arrival struct {
	Target   ocispec.Descriptor // what the names will stand for
	Manifest ocispec.Descriptor // Target, or the one below it that is to run
	Names    []reference.Named  // tagged or canonical
	// Anonymous keeps an image that has no name, and would not have one otherwise.
	Anonymous bool
	// Ready returns when layer n's blob is in the store.
	Ready func(ctx context.Context, n int) error
	// Unpacking and Unpacked report on layer n, from several goroutines.
	Unpacking func(n int, done, total int64)
	Unpacked  func(n int)
}

// Exchange is the store's side of transfers to and from registries.
type Exchange struct{ s *Store }

// NewExchange returns the exchange of a store.
func NewExchange(s *Store) Exchange { return Exchange{s} }

// Receive unpacks an arriving image and gives it its names; fresh tells whether
// any of them is new or stood for something else before. It is durable when
// Receive returns.
func (x Exchange) Receive(ctx context.Context, a Arrival) (img *Image, fresh bool, err error) {
	s := x.s
	ctx = content.With(ctx)
	c, err := s.tree.Arrived(ctx, a.Manifest)
	if err != nil {
		return nil, false, err
	}
	done, err := s.tree.Settle(ctx, a.Target, c, nil, tree.Watcher{Ready: a.Ready, Report: a.Unpacking, Done: a.Unpacked})
	if err != nil {
		return nil, false, err
	}
	if err := s.snapshots.Sync(); err != nil {
		return nil, false, err
	}
	s.change.Lock()
	defer s.change.Unlock()
	l := &loading{target: done.Target, done: done}
	var puts []*record
	s.mu.RLock()
	for _, n := range a.Names {
		r := l.record(n)
		if old := s.index.names[r.name]; old == nil || old.id != r.id || old.manifest != r.manifest || old.target.Digest != r.target.Digest {
			puts = append(puts, r)
		}
	}
	if a.Anonymous && s.index.ids[done.ID()] == nil {
		puts = append(puts, l.record(nil))
	}
	s.mu.RUnlock()
	if len(puts) > 0 {
		if _, err := s.commit(ctx, nil, puts); err != nil {
			return nil, false, err
		}
	}
	img, err = s.Resolve(ctx, done.ID().String())
	return img, len(puts) > 0, err
}

// Pushed records the digest that a registry now knows an image by, if it was not
// removed meanwhile. With layers that a push has compressed that is another
// than its target's.
func (x Exchange) Pushed(ctx context.Context, img *Image, ref reference.Canonical) error {
	s := x.s
	s.change.Lock()
	defer s.change.Unlock()
	r := named(img, ref)
	s.mu.RLock()
	known, gone := s.index.names[r.name] != nil, s.index.ids[img.ID] == nil
	s.mu.RUnlock()
	if known || gone {
		return nil
	}
	_, err := s.commit(content.With(ctx), nil, []*record{r})
	return err
}

// Again gives other names to an image that was pushed from here with layers
// compressed, and would now come back under the digest that this gave it: what
// it consists of is here. ok tells whether there is one, fresh is Receive's.
func (x Exchange) Again(ctx context.Context, ref reference.Canonical, names []reference.Named) (img *Image, fresh, ok bool, err error) {
	s := x.s
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.RLock()
	r := s.index.names[ref.String()]
	s.mu.RUnlock()
	if r == nil || r.target.Digest == ref.Digest() {
		return nil, false, false, nil
	}
	if img, err = s.Resolve(ctx, ref.String()); err != nil {
		return nil, false, false, err
	}
	var puts []*record
	s.mu.RLock()
	for _, n := range names {
		if old := s.index.names[n.String()]; old == nil || old.id != r.id {
			puts = append(puts, named(img, n))
		}
	}
	s.mu.RUnlock()
	if len(puts) > 0 {
		_, err = s.commit(content.With(ctx), nil, puts)
	}
	return img, len(puts) > 0, true, err
}

// Tags lists the tags of a repository that are here, sorted.
func (x Exchange) Tags(repository reference.Named) []reference.Named {
	return x.s.tagsOf(repository.Name())
}

// Announce publishes that an image was pulled or pushed under a name, or was
// given it. A tag is told of the image, the others of the name.
func (x Exchange) Announce(action events.Action, img *Image, ref reference.Named) {
	id, name := reference.FamiliarString(ref), reference.FamiliarName(ref)
	if action == events.ActionTag {
		id, name = img.ID.String(), id
	}
	x.s.publish(action, img, id, name)
}

// Abandon removes what failed work has written, unless other work needs it.
func (x Exchange) Abandon(ctx context.Context, cause error) { collectAfter(ctx, x.s, cause) }

// Piece is one document of an image that is here.
type Piece struct {
	Desc ocispec.Descriptor
	Doc  *manifest.Document
}

// Pieces lists the documents below an image's target that are here, the
// target last, and the ones that its indexes name and that are not here.
func (x Exchange) Pieces(ctx context.Context, img *Image) (list []Piece, missing []ocispec.Descriptor, err error) {
	ctx = content.With(ctx)
	have := map[string]bool{}
	err = x.s.tree.Walk(ctx, img.Target, func(d ocispec.Descriptor, doc *manifest.Document) error {
		if !have[d.Digest.String()] {
			have[d.Digest.String()] = true
			list = append(list, Piece{d, doc})
		}
		return nil
	})
	for _, p := range list {
		if p.Doc.Index == nil {
			continue
		}
		for _, m := range p.Doc.Index.Manifests {
			if !have[m.Digest.String()] {
				missing = append(missing, m)
			}
		}
	}
	slices.Reverse(list)
	return list, missing, err
}

// Resolve finds an image by reference, as Store.Resolve, and keeps it for the
// lease in ctx.
func (x Exchange) Resolve(ctx context.Context, ref string) (*Image, error) {
	img, err := x.s.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	return img, hold(ctx, x.s, img)
}
