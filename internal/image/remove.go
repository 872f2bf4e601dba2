package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	imageapi "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// RemoveOptions are those of rmi.
type RemoveOptions struct {
	Force   bool // also when several names or a stopped container refer to it
	NoPrune bool // leave parents without a name alone
	// Platforms, if any, are removed of the image, and it stays.
	Platforms []ocispec.Platform
}

// Remove takes a name away or, when it was the last one or an id was given,
// the image, by dockerd's rules and with its words. The answer lists what
// happened in order. The files are gone when it returns, except for layers
// that another image or a container stands on.
func (s *Store) Remove(ctx context.Context, ref string, o RemoveOptions) ([]imageapi.DeleteResponse, error) {
	s.change.Lock()
	defer s.change.Unlock()
	if len(o.Platforms) > 0 {
		return removePlatforms(ctx, s, ref, o)
	}
	e, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	img, err := known(ctx, s, e)
	if err != nil {
		return nil, err
	}
	rm := &removal{s: s, img: img, force: o.Force}
	if err := rm.start(); err != nil {
		return nil, err
	}
	if isIDPrefix(img.ID, ref) && !rm.isName(ref) {
		err = rm.byID()
	} else {
		err = rm.byName(ref)
	}
	if err != nil {
		return nil, err
	}
	return rm.apply(ctx, !o.NoPrune)
}

// removal is one rmi: what it found, then what it is going to do.
type removal struct {
	s     *Store
	img   *Image
	force bool
	refs  []*record // named ones
	bare  []*record // dangling ones

	untag  []*record
	delete bool
}

func (rm *removal) start() error {
	rm.s.mu.RLock()
	defer rm.s.mu.RUnlock()
	e := rm.s.index.ids[rm.img.ID]
	if e == nil {
		return errdefs.ErrNotFound.WithMessage("No such image: " + rm.img.ID.String())
	}
	for _, r := range e.records {
		if r.ref == nil {
			rm.bare = append(rm.bare, r)
		} else {
			rm.refs = append(rm.refs, r)
		}
	}
	return nil
}

// isName reports whether ref, which also looks like an id, names the image.
func (rm *removal) isName(ref string) bool {
	n, err := reference.ParseNormalizedNamed(ref)
	return err == nil && rm.find(reference.TagNameOnly(n).String()) != nil
}

func (rm *removal) find(name string) *record {
	for _, r := range rm.refs {
		if r.name == name {
			return r
		}
	}
	return nil
}

// single reports whether the image has one name at most, not counting the
// digests that belong to that name's repository.
func single(refs []*record) bool {
	if len(refs) <= 1 {
		return true
	}
	var tag *record
	digests := map[string]bool{}
	for _, r := range refs {
		switch {
		case r.canonical():
			digests[r.ref.Name()] = true
		case tag == nil:
			tag = r
		default:
			return false
		}
	}
	if tag == nil {
		tag = refs[0]
	}
	return len(digests) == 1 && digests[tag.ref.Name()]
}

func (rm *removal) byName(ref string) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return invalid("%s", err)
	}
	if c, ok := named.(reference.Canonical); ok {
		named, err = reference.WithDigest(reference.TrimNamed(c), c.Digest())
		if err != nil {
			return invalid("%s", err)
		}
	} else {
		named = reference.TagNameOnly(named)
	}
	users := rm.s.usedBy(rm.img.ID)
	if !rm.force && single(rm.refs) && len(users) > 0 {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s",
			reference.FamiliarString(named), id.Short(users[0].Container), id.Short(rm.img.ID.String())))
	}
	r := rm.find(named.String())
	if r == nil { // name@digest of a tag that was never pulled by digest
		return errdefs.ErrNotFound.WithMessage("No such image: " + reference.FamiliarString(named))
	}
	rm.untag = append(rm.untag, r)
	left, tags := []*record{}, 0
	for _, o := range rm.refs {
		if o == r {
			continue
		}
		left = append(left, o)
		if o.ref.Name() == r.ref.Name() && !o.canonical() {
			tags++
		}
	}
	if !r.canonical() && tags == 0 {
		// With the last tag of a repository its digests go too.
		rest := left
		left = nil
		for _, o := range rest {
			if o.ref.Name() == r.ref.Name() && o.canonical() {
				rm.untag = append(rm.untag, o)
			} else {
				left = append(left, o)
			}
		}
	}
	if len(left) > 0 {
		return nil
	}
	rm.delete = true
	return rm.conflict(false)
}

func (rm *removal) byID() error {
	rm.delete = true
	if single(rm.refs) {
		if err := rm.conflict(false); err != nil {
			return err
		}
	} else if err := rm.conflict(true); err != nil {
		return err
	}
	rm.untag = append(rm.untag, rm.refs...)
	return nil
}

// conflict says why the image cannot be deleted. names: that it has several is
// a reason.
func (rm *removal) conflict(names bool) error {
	short := id.Short(rm.img.ID.String())
	no := func(force, why string) error {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("conflict: unable to delete %s (%s) - %s", short, force, why))
	}
	if rm.s.hasChildren(rm.img.ID) {
		return no("cannot be forced", "image has dependent child images")
	}
	users := rm.s.usedBy(rm.img.ID)
	for _, u := range users {
		if u.Running {
			return no("cannot be forced", "image is being used by running container "+id.Short(u.Container))
		}
	}
	if rm.force {
		return nil
	}
	if names {
		return no("must be forced", "image is referenced in multiple repositories")
	}
	if len(users) > 0 {
		return no("must be forced", "image is being used by stopped container "+id.Short(users[0].Container))
	}
	return nil
}

func (s *table) hasChildren(parent digest.Digest) bool {
	for _, e := range s.entries() {
		if e.records[0].parent == parent {
			return true
		}
	}
	return false
}

// apply does what was decided, tells of it, and removes the files.
func (rm *removal) apply(ctx context.Context, prune bool) ([]imageapi.DeleteResponse, error) {
	s, self := rm.s, rm.img.ID.String()
	var drops []string
	var out []imageapi.DeleteResponse
	for _, r := range rm.untag {
		drops = append(drops, r.name)
		out = append(out, imageapi.DeleteResponse{Untagged: reference.FamiliarString(r.ref)})
	}
	if rm.delete {
		for _, r := range rm.bare {
			drops = append(drops, r.name)
		}
	}
	if _, err := s.commit(ctx, drops, nil); err != nil {
		return nil, err
	}
	for range rm.untag {
		s.publish(events.ActionUnTag, rm.img, self, self)
	}
	if !rm.delete {
		return out, nil
	}
	out = append(out, deleted(s, rm.img)...)
	if prune {
		out = append(out, pruneParents(ctx, s, rm.img.Parent)...)
	}
	// The names are gone; removing the files must not stop half-way.
	ctx = content.With(context.WithoutCancel(ctx))
	if err := s.Collect(ctx); err != nil {
		return out, fmt.Errorf("remove the files of image %s: %w", self, err)
	}
	// What others stand on is there still; a layer of several images went with the last.
	layers := s.content.Snapshotter(s.snapshots.Driver())
	listed := map[string]bool{}
	slices.Reverse(out)
	out = slices.DeleteFunc(out, func(r imageapi.DeleteResponse) bool {
		_, err := layers.Stat(ctx, r.Deleted)
		not := r.Deleted != "" && (listed[r.Deleted] || err == nil)
		listed[r.Deleted] = true
		return not
	})
	slices.Reverse(out)
	return out, nil
}

// deleted lists the image and its layers.
func deleted(s *Store, img *Image) []imageapi.DeleteResponse {
	s.publish(events.ActionDelete, img, img.ID.String(), img.ID.String())
	out := []imageapi.DeleteResponse{{Deleted: img.ID.String()}}
	for i := len(img.Config.RootFS.DiffIDs); i > 0; i-- {
		out = append(out, imageapi.DeleteResponse{Deleted: identity.ChainID(img.Config.RootFS.DiffIDs[:i]).String()})
	}
	return out
}

// pruneParents deletes the nameless, unused images that one was built from.
func pruneParents(ctx context.Context, s *Store, parent digest.Digest) (out []imageapi.DeleteResponse) {
	for parent != "" {
		img, err := s.Resolve(ctx, parent.String())
		if err != nil {
			return out
		}
		rm := &removal{s: s, img: img}
		if rm.start() != nil || len(rm.refs) > 0 || rm.conflict(false) != nil {
			return out
		}
		var drops []string
		for _, r := range rm.bare {
			drops = append(drops, r.name)
		}
		if _, err := s.commit(ctx, drops, nil); err != nil {
			return out
		}
		out = append(out, deleted(s, img)...)
		parent = img.Parent
	}
	return out
}

// Prune removes the images that no container uses: all of them, or only those
// without a name. keep, if any, spares an image. It returns what was deleted
// and the bytes of the layers' files and blobs that became free; linked, called
// before, tells how many bytes of layers that go are counted twice or stay by links.
func (s *Store) Prune(ctx context.Context, all bool, keep func(*Image) bool, linked func(context.Context) (func(gone map[string]bool) int64, error)) ([]imageapi.DeleteResponse, uint64, error) {
	reclaimed, err := measure(ctx, s, linked)
	if err != nil {
		return nil, 0, err
	}
	out := []imageapi.DeleteResponse{}
	for _, e := range s.entries() {
		img, err := known(ctx, s, e)
		if s.gone(e, err) {
			continue
		}
		if err != nil {
			return out, 0, err
		}
		if len(img.RepoTags) > 0 && !all || keep != nil && keep(img) || len(s.usedBy(img.ID)) > 0 {
			continue
		}
		names := append(append([]string{}, img.RepoTags...), img.RepoDigests...)
		if len(names) == 0 {
			names = []string{img.ID.String()}
		}
		for _, name := range names {
			list, err := s.Remove(ctx, name, RemoveOptions{})
			if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
				return out, 0, err
			}
			out = append(out, list...)
		}
	}
	// Pulls that were cut off and not taken up again are of no use either.
	if err := s.content.Forget(ctx, time.Now()); err != nil {
		return out, 0, err
	}
	if err := s.Collect(ctx); err != nil {
		return out, 0, err
	}
	freed, err := reclaimed()
	if err == nil && s.events != nil {
		now := time.Now()
		s.events(events.Message{Type: events.ImageEventType, Action: events.ActionPrune, Scope: "local",
			Actor: events.Actor{Attributes: map[string]string{"reclaimed": strconv.FormatUint(freed, 10)}}, Time: now.Unix(), TimeNano: now.UnixNano()})
	}
	return out, freed, err
}

// measure gives how much of the disk is free again since.
func measure(ctx context.Context, s *Store, linked func(context.Context) (func(map[string]bool) int64, error)) (since func() (uint64, error), err error) {
	ctx = content.With(ctx)
	blobs, err := s.content.Total(ctx)
	if err != nil {
		return nil, err
	}
	layers, err := snapshot.Sizes(ctx, s.snapshots)
	if err != nil {
		return nil, err
	}
	over, err := linked(ctx)
	if err != nil {
		// On a full disk, say. What is wanted is that something goes.
		slog.WarnContext(ctx, "images: a prune counts files that layers have by links for each of them", "error", err)
		over = func(map[string]bool) int64 { return 0 }
	}
	return func() (uint64, error) {
		now, err := s.content.Total(ctx)
		if err != nil {
			return 0, err
		}
		gone, bytes, err := snapshot.Gone(ctx, s.snapshots, layers)
		return uint64(max(0, blobs-now+bytes-over(gone))), err
	}, nil
}

// Disk returns the bytes of all blobs, whole and unfinished, and of all layers'
// files, each once.
func (s *Store) Disk(ctx context.Context) (int64, error) {
	ctx = content.With(ctx)
	blobs, err := s.content.Total(ctx)
	layers, err2 := s.snapshots.Total(ctx)
	return blobs + layers, errors.Join(err, err2)
}
