package image

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/image/archive"
	"github.com/wherry-engine/wherry/internal/image/tree"
)

// loader reads one archive.
type loader struct{ *Store }

// loading is one image of an archive, on its way into the store.
type loading struct {
	target ocispec.Descriptor
	names  []reference.Named
	done   *tree.Adopted
}

// Load takes all images of an archive into the store; see package archive for
// what it may be. progress gets dockerd's messages one after the other, from
// one goroutine. With platforms, only what they need
// of each image is kept. After an error no image of the archive was added.
func (s *Store) Load(ctx context.Context, r io.Reader, quiet bool, want []ocispec.Platform, progress func(jsonstream.Message)) error {
	ctx, release, err := s.content.Lease(content.With(ctx))
	if err != nil {
		return err
	}
	err = (&loader{s}).loadLeased(ctx, r, quiet, want, progress)
	release()
	if err != nil {
		collectAfter(ctx, s, err)
	} else if len(want) > 0 {
		return s.Collect(context.WithoutCancel(ctx)) // the archive may hold more
	}
	return err
}

// collectAfter removes what a failed operation wrote.
func collectAfter(ctx context.Context, s *Store, cause error) {
	if err := s.Collect(context.WithoutCancel(ctx)); err != nil {
		logFailure(ctx, err, cause)
	}
}

func (s *loader) loadLeased(ctx context.Context, r io.Reader, quiet bool, want []ocispec.Platform, progress func(jsonstream.Message)) error {
	found, err := archive.Read(ctx, s.tree, r)
	if err != nil {
		return err
	}
	var list []*loading
	for _, f := range found {
		list = append(list, &loading{target: f.Target, names: f.Names})
	}
	layers := progress
	if quiet {
		layers = nil
	}
	for _, l := range list {
		if len(want) == 0 {
			l.done, err = s.tree.Adopt(ctx, l.target, layers)
		} else {
			l.done, err = s.part(ctx, l, want, layers)
		}
		if err != nil {
			return l.about(ctx, err)
		}
	}
	if err := s.snapshots.Sync(); err != nil {
		return err
	}
	for _, l := range list {
		said, err := s.enter(ctx, l)
		if err != nil {
			return err
		}
		// The client may be slow, or read nothing; nobody waits for it.
		for _, text := range said {
			progress(jsonstream.Message{Stream: text})
		}
	}
	return nil
}

// about names the image in an error about what it holds.
func (l *loading) about(ctx context.Context, err error) error {
	name := l.target.Digest.String()
	if len(l.names) > 0 {
		name = reference.FamiliarString(l.names[0])
	}
	if ctx.Err() != nil || strings.Contains(err.Error(), name) {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// part adopts what the platforms need of an image.
func (s *loader) part(ctx context.Context, l *loading, want []ocispec.Platform, progress func(jsonstream.Message)) (*tree.Adopted, error) {
	name := l.target.Digest.String()
	if len(l.names) > 0 {
		name = reference.FamiliarString(l.names[0])
	}
	choice, err := s.tree.Choose(ctx, name, l.target, want)
	if err != nil {
		return nil, err
	}
	c := &choice.Images[0]
	return s.tree.Settle(ctx, l.target, c, choice, tree.LoadingLayers(c.Config.RootFS.DiffIDs, progress))
}

// enter commits the names of a loaded image; said is what the client hears of it.
func (s *loader) enter(ctx context.Context, l *loading) (said []string, err error) {
	s.change.Lock()
	defer s.change.Unlock()
	var puts []*record
	for _, n := range l.names {
		name := reference.FamiliarString(n)
		if old := s.byName(n); old != nil && old.id != l.done.ID() {
			said = append(said, fmt.Sprintf("The image %s already exists, renaming the old one with ID %s to empty string\n", name, old.id))
		}
		puts = append(puts, l.record(n))
	}
	if len(puts) == 0 {
		s.mu.RLock()
		known := s.index.ids[l.done.ID()] != nil
		s.mu.RUnlock()
		if !known {
			puts = append(puts, l.record(nil))
		}
	}
	if _, err := s.commit(ctx, nil, puts); err != nil {
		return nil, err
	}
	img, err := s.Resolve(ctx, l.done.ID().String())
	if err != nil {
		return nil, err
	}
	for _, n := range l.names {
		said = append(said, "Loaded image: "+reference.FamiliarString(n)+"\n")
	}
	if len(l.names) == 0 {
		said = append(said, "Loaded image ID: "+img.ID.String()+"\n")
	}
	s.publish(events.ActionLoad, img, img.ID.String(), img.ID.String())
	return said, nil
}

func (l *loading) record(n reference.Named) *record {
	r := &record{name: danglingPrefix + l.target.Digest.String(), ref: n, target: l.target, manifest: l.done.Image.Desc.Digest, id: l.done.ID()}
	if n != nil {
		r.name = n.String()
	}
	return r
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
