package image

import (
	"context"
	"encoding/json"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/image/manifest"
)

// Arrival is an image that a registry client brings. Target, Manifest and the
// manifest's config are in the content store, under the lease of the context;
// its layers may still be on their way.
type Arrival struct {
	Target   ocispec.Descriptor // what the names will stand for
	Manifest ocispec.Descriptor // Target, or the one below it that is to run
	Names    []reference.Named  // tagged or canonical
	// Ready returns when layer n's blob is in the store.
	Ready func(ctx context.Context, n int) error
	// Unpacking and Unpacked report on layer n, from several goroutines.
	Unpacking func(n int, done, total int64)
	Unpacked  func(n int)
}

// Receive unpacks an arriving image and gives it its names; fresh tells whether
// any of them is new or stood for something else before. It is durable when
// Receive returns.
func (s *Store) Receive(ctx context.Context, a Arrival) (img *Image, fresh bool, err error) {
	ctx = content.With(ctx)
	c, err := s.arrived(ctx, a.Manifest)
	if err != nil {
		return nil, false, err
	}
	done, err := s.settle(ctx, a.Target, c, watcher{ready: a.Ready, report: a.Unpacking, done: a.Unpacked})
	if err != nil {
		return nil, false, err
	}
	if err := s.snapshots.Sync(); err != nil {
		return nil, false, err
	}
	s.change.Lock()
	defer s.change.Unlock()
	l := &loading{target: done.target, done: done}
	var puts []*record
	s.mu.RLock()
	for _, n := range a.Names {
		r := l.record(n)
		if old := s.index.names[r.name]; old == nil || old.id != r.id || old.manifest != r.manifest || old.target.Digest != r.target.Digest {
			puts = append(puts, r)
		}
	}
	s.mu.RUnlock()
	if len(puts) > 0 {
		if _, err := s.commit(ctx, nil, puts); err != nil {
			return nil, false, err
		}
	}
	img, err = s.Resolve(ctx, done.id().String())
	return img, len(puts) > 0, err
}

// arrived reads the manifest that was chosen, and its config.
func (s *graph) arrived(ctx context.Context, d ocispec.Descriptor) (*candidate, error) {
	b, err := s.content.Read(ctx, d.Digest, manifest.MaxSize)
	if err != nil {
		return nil, err
	}
	doc, err := manifest.Parse(d, b)
	if err != nil {
		return nil, err
	}
	if doc.Image == nil {
		return nil, invalid("%s is an index, not an image", d.Digest)
	}
	c := &candidate{desc: ocispec.Descriptor{MediaType: doc.MediaType, Digest: d.Digest, Size: int64(len(b))}, manifest: *doc.Image, runnable: true}
	if b, err = s.content.Read(ctx, doc.Image.Config.Digest, maxConfig); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &c.config); err != nil {
		return nil, invalid("image config %s: %v", doc.Image.Config.Digest, err)
	}
	return c, nil
}

// Pushed records the digest that a registry now knows an image by.
func (s *Store) Pushed(ctx context.Context, img *Image, ref reference.Canonical) error {
	s.change.Lock()
	defer s.change.Unlock()
	r := named(img, ref)
	s.mu.RLock()
	known := s.index.names[r.name] != nil
	s.mu.RUnlock()
	if known || r.target.Digest != ref.Digest() {
		return nil
	}
	_, err := s.commit(content.With(ctx), nil, []*record{r})
	return err
}

// Tags lists the tags of a repository that are here, sorted.
func (s *Store) Tags(repository reference.Named) []reference.Named {
	return s.tagsOf(repository.Name())
}

// Announce publishes that an image was pulled or pushed under a name.
func (s *Store) Announce(action events.Action, img *Image, ref reference.Named) {
	s.publish(action, img, reference.FamiliarString(ref), reference.FamiliarName(ref))
}

// Abandon removes what failed work has written, unless other work needs it.
func (s *Store) Abandon(ctx context.Context, cause error) { s.collectAfter(ctx, cause) }
