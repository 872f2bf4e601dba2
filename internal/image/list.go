package image

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	imageapi "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/image/manifest"
)

// ListOptions are those of images.
type ListOptions struct {
	All        bool // also nameless images that others were built from
	Filters    filter.Args
	SharedSize bool
	Digests    bool // without effect: digests are always listed, as dockerd does
	Manifests  bool
}

// List describes the images, newest first.
func (s *Store) List(ctx context.Context, o ListOptions) ([]*imageapi.Summary, error) {
	f, err := newListFilter(ctx, s, o.Filters)
	if err != nil {
		return nil, err
	}
	entries := s.entries()
	parents := map[digest.Digest]bool{}
	for _, e := range entries {
		parents[e.records[0].parent] = true
	}
	imgs := make([]*Image, 0, len(entries))
	for _, e := range entries {
		img, err := known(ctx, s, e)
		if s.gone(e, err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		imgs = append(imgs, img)
	}
	shares := map[digest.Digest]int{} // chain -> images
	if o.SharedSize {
		for _, img := range imgs {
			for i := range img.Config.RootFS.DiffIDs {
				shares[identity.ChainID(img.Config.RootFS.DiffIDs[:i+1])]++
			}
		}
	}
	sort.Slice(imgs, func(i, j int) bool {
		if !imgs[i].Created.Equal(imgs[j].Created) {
			return imgs[i].Created.After(imgs[j].Created)
		}
		return imgs[i].ID < imgs[j].ID
	})
	out := []*imageapi.Summary{}
	for _, img := range imgs {
		tags, digests, ok := f.match(img)
		if !ok || len(img.RepoTags)+len(img.RepoDigests) == 0 && parents[img.ID] && !o.All {
			continue
		}
		sum := summary(img, tags, digests, len(s.usedBy(img.ID)))
		if o.SharedSize {
			if sum.SharedSize, err = sharedSize(ctx, s, img, shares); err != nil {
				return nil, err
			}
		}
		if o.Manifests && img.Manifest.Digest != "" {
			if sum.Manifests, err = s.manifests(ctx, img); err != nil && ctx.Err() != nil {
				return nil, err
			} else if err != nil {
				slog.Warn("an image is listed without its platforms", "image", img.ID, "error", err)
			}
			// Who shows manifests takes the size for all that the image has here, as
			// engines that keep images by manifests tell it.
			for _, m := range sum.Manifests {
				sum.Size += m.Size.Content
			}
		}
		out = append(out, sum)
	}
	return out, nil
}

func summary(img *Image, tags, digests []string, containers int) *imageapi.Summary {
	target := img.Target
	sum := &imageapi.Summary{ID: img.ID.String(), ParentID: img.Parent.String(), RepoTags: tags, RepoDigests: digests,
		Created: img.Created.Unix(), Labels: img.Config.Config.Labels, Size: img.Size, SharedSize: -1,
		Containers: int64(containers), Descriptor: &target}
	if img.Created.IsZero() {
		sum.Created = 0
	}
	return sum
}

// sharedSize sums the layers that an image shares with others.
func sharedSize(ctx context.Context, s *Store, img *Image, shares map[digest.Digest]int) (n int64, err error) {
	for i := range img.Config.RootFS.DiffIDs {
		chain := identity.ChainID(img.Config.RootFS.DiffIDs[:i+1])
		if shares[chain] < 2 {
			break // what is above an unshared layer is unshared
		}
		_, size, err := s.snapshots.Layer(content.With(ctx), chain.String())
		if errdefs.IsNotFound(err) {
			break // removed meanwhile
		}
		if err != nil {
			return 0, err
		}
		n += size
	}
	return n, nil
}

// listFilter is the checked form of a list's filters.
type listFilter struct {
	args          filter.Args
	dangling      *bool
	before, since time.Time
	until         time.Time
}

func newListFilter(ctx context.Context, s *Store, a filter.Args) (*listFilter, error) {
	if err := a.Validate("dangling", "label", "label!", "before", "since", "reference", "until"); err != nil {
		return nil, err
	}
	f := &listFilter{args: a}
	if a.Has("dangling") {
		v, err := a.Bool("dangling", false)
		if err != nil {
			return nil, err
		}
		f.dangling = &v
	}
	for key, at := range map[string]*time.Time{"before": &f.before, "since": &f.since} {
		for _, ref := range a[key] {
			img, err := s.Resolve(ctx, ref)
			if err != nil {
				return nil, err
			}
			if at.IsZero() || key == "before" && img.Created.Before(*at) || key == "since" && img.Created.After(*at) {
				*at = img.Created
			}
		}
	}
	for _, text := range a["until"] {
		at, err := until(text)
		if err != nil {
			return nil, err
		}
		if f.until.IsZero() || at.Before(f.until) {
			f.until = at
		}
	}
	for _, p := range a["reference"] {
		if _, err := path.Match(p, ""); err != nil {
			return nil, invalid("invalid filter 'reference=%s': %v", p, err)
		}
	}
	return f, nil
}

// until reads a moment: seconds since 1970, a date, or a duration before now.
func until(text string) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-d), nil
	}
	if sec, err := strconv.ParseFloat(text, 64); err == nil {
		return time.Unix(0, int64(sec*1e9)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, invalid("invalid filter 'until=%s'", text)
}

// match reports whether the image is listed, and under which names.
func (f *listFilter) match(img *Image) (tags, digests []string, ok bool) {
	tags, digests = img.RepoTags, img.RepoDigests
	if f.dangling != nil && *f.dangling != (len(tags) == 0) ||
		!f.before.IsZero() && !img.Created.Before(f.before) ||
		!f.since.IsZero() && !img.Created.After(f.since) ||
		!f.until.IsZero() && !img.Created.Before(f.until) {
		return nil, nil, false
	}
	labels := img.Config.Config.Labels
	if !f.args.Labels("label", labels) {
		return nil, nil, false
	}
	for _, l := range f.args["label!"] {
		if (filter.Args{"label": {l}}).Labels("label", labels) {
			return nil, nil, false
		}
	}
	if f.args.Has("reference") {
		tags, digests = f.named(tags), f.named(digests)
		if len(tags)+len(digests) == 0 {
			return nil, nil, false
		}
	}
	return tags, digests, true
}

func (f *listFilter) named(names []string) []string {
	out := []string{}
	for _, n := range names {
		ref, err := reference.ParseNormalizedNamed(n)
		if err == nil && slices.ContainsFunc(f.args["reference"], func(p string) bool {
			ok, err := reference.FamiliarMatch(p, ref)
			return err == nil && ok
		}) {
			out = append(out, n)
		}
	}
	return out
}

// manifests describes what lies below an image's target.
func (s *Store) manifests(ctx context.Context, img *Image) ([]imageapi.ManifestSummary, error) {
	ctx = content.With(ctx)
	list, err := s.tree.Candidates(ctx, img.Target)
	if err != nil {
		return nil, err
	}
	out := []imageapi.ManifestSummary{}
	for _, c := range list {
		m := imageapi.ManifestSummary{ID: c.Desc.Digest.String(), Descriptor: c.Desc, Available: c.Missing == nil, Kind: imageapi.ManifestKindUnknown}
		m.Size.Content = c.Desc.Size
		for _, b := range append(slices.Clone(c.Manifest.Layers), c.Manifest.Config) {
			if n, err := s.content.Size(ctx, b.Digest); err == nil {
				m.Size.Content += n
			}
		}
		m.Size.Total = m.Size.Content
		switch {
		case c.Runnable:
			m.Kind = imageapi.ManifestKindImage
			p := &imageapi.ImageProperties{Platform: c.Platform, Containers: []string{}}
			if c.Desc.Digest == img.Manifest.Digest {
				p.Size.Unpacked = img.Size
				for _, u := range s.usedBy(img.ID) {
					p.Containers = append(p.Containers, u.Container)
				}
			}
			m.Size.Total += p.Size.Unpacked
			m.ImageData = p
		case strings.HasPrefix(c.Desc.Annotations["vnd.docker.reference.type"], "attestation"):
			m.Kind = imageapi.ManifestKindAttestation
			m.AttestationData = &imageapi.AttestationProperties{For: digest.Digest(c.Desc.Annotations["vnd.docker.reference.digest"])}
		}
		out = append(out, m)
	}
	return out, nil
}

// DiskUsage is the images' part of `system df`: all blobs, with those that a
// pull has not finished, and all layers, each once. What others keep that no image
// needs is in their part. twice tells of snapshots what one before has by links.
func (s *Store) DiskUsage(ctx context.Context, others []leases.Resource, twice func(context.Context, []string) (map[string]int64, error)) (*imageapi.DiskUsage, error) {
	list, err := s.List(ctx, ListOptions{All: true, SharedSize: true})
	if err != nil {
		return nil, err
	}
	u := &imageapi.DiskUsage{TotalCount: int64(len(list))}
	for _, sum := range list {
		u.Items = append(u.Items, *sum)
	}
	// Those that containers need come first: what they share with others is used.
	slices.SortStableFunc(list, func(a, b *imageapi.Summary) int { return cmp.Compare(b.Containers, a.Containers) })
	var used int64
	layers, blobs := map[string]bool{}, map[digest.Digest]bool{} // a blob may have the digest of a chain
	order, inUse := []string{}, 0                                // snapshots, and how many of them
	for _, sum := range list {
		img, err := s.Resolve(ctx, sum.ID)
		if err != nil {
			continue // removed meanwhile
		}
		n, names, err := sizeOf(ctx, s, img, layers, blobs)
		order = append(order, names...)
		if err != nil {
			return nil, err
		}
		if sum.Containers > 0 {
			u.ActiveCount++
			used += n
			inUse = len(order)
		}
	}
	if u.TotalSize, err = s.Disk(ctx); err != nil {
		return nil, err
	}
	over, err := twice(ctx, order)
	if err != nil {
		return nil, err
	}
	for i, name := range order {
		if u.TotalSize -= over[name]; i < inUse {
			used -= over[name]
		}
	}
	for _, o := range others {
		if d := digest.Digest(o.ID); o.Type == "content" && !blobs[d] {
			blobs[d] = true
			if n, err := s.content.Size(content.With(ctx), d); err == nil {
				u.TotalSize -= n
			}
		} else if o.Type != "content" && !layers[o.ID] {
			layers[o.ID] = true
			if _, n, err := s.snapshots.Layer(content.With(ctx), o.ID); err == nil {
				u.TotalSize -= n
			}
		}
	}
	u.Reclaimable = max(0, u.TotalSize-used)
	return u, nil
}

// sizeOf sums an image's layers and blobs that are not yet counted, and names the
// snapshots that have the files of the layers.
func sizeOf(ctx context.Context, s *Store, img *Image, layers map[string]bool, blobs map[digest.Digest]bool) (n int64, names []string, err error) {
	for i := range img.Config.RootFS.DiffIDs {
		chain := identity.ChainID(img.Config.RootFS.DiffIDs[:i+1]).String()
		if layers[chain] {
			continue
		}
		files, size, err := s.snapshots.Layer(content.With(ctx), chain)
		if errdefs.IsNotFound(err) {
			break // nor are those above it
		}
		if err != nil {
			return 0, nil, fmt.Errorf("image %s: %w", img.ID, err)
		}
		if !layers[files] {
			names = append(names, files)
		}
		layers[chain], layers[files] = true, true
		n += size
	}
	size, err := blobsOf(ctx, s, img, blobs)
	switch {
	case err == nil || errdefs.IsNotFound(err): // removed meanwhile
	case ctx.Err() != nil:
		return 0, nil, err
	default:
		slog.Warn("an image is counted in part", "image", img.ID, "error", err)
	}
	return n + size, names, nil
}

// blobsOf sums the blobs of an image that are here and not yet counted; with an
// error, those that were found before it.
func blobsOf(ctx context.Context, s *Store, img *Image, counted map[digest.Digest]bool) (n int64, err error) {
	ctx = content.With(ctx)
	err = s.tree.Walk(ctx, img.Target, func(d ocispec.Descriptor, doc *manifest.Document) error {
		list := []ocispec.Descriptor{d}
		if doc.Image != nil {
			list = append(append(list, doc.Image.Config), doc.Image.Layers...)
		}
		for _, b := range list {
			size, err := s.content.Size(ctx, b.Digest)
			if err == nil && !counted[b.Digest] {
				counted[b.Digest] = true
				n += size
			}
		}
		return nil
	})
	return n, err
}
