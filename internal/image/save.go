package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"sort"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/image/manifest"
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
	a := &archiver{s: s, tw: tar.NewWriter(w), done: map[digest.Digest]bool{}}
	if err := a.dirs("blobs/", "blobs/sha256/"); err != nil {
		return err
	}
	for _, sv := range list {
		if err := a.image(ctx, sv); err != nil {
			return err
		}
	}
	if err := a.documents(list); err != nil {
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

// archiver writes the members of the archive, each blob once.
type archiver struct {
	s      *Store
	tw     *tar.Writer
	done   map[digest.Digest]bool
	docker []dockerEntry
	index  []ocispec.Descriptor
}

// epoch is every member's time: the same images make the same archive.
var epoch = time.Unix(0, 0)

func (a *archiver) dirs(names ...string) error {
	for _, n := range names {
		if err := a.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: n, Mode: 0o755, ModTime: epoch}); err != nil {
			return err
		}
	}
	return nil
}

func blobPath(d digest.Digest) string {
	return path.Join("blobs", string(d.Algorithm()), d.Encoded())
}

// blob copies one blob, unless it is there; needed: its absence is an error.
func (a *archiver) blob(ctx context.Context, d digest.Digest, needed bool) error {
	if a.done[d] {
		return nil
	}
	r, size, err := a.s.content.Reader(ctx, d)
	if errdefs.IsNotFound(err) && !needed {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	a.done[d] = true
	if err := a.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: blobPath(d), Size: size, Mode: 0o444, ModTime: epoch}); err != nil {
		return err
	}
	if _, err := io.Copy(a.tw, r); err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	return context.Cause(ctx)
}

func (a *archiver) image(ctx context.Context, sv *saving) error {
	img := sv.img
	err := a.s.tree.Walk(ctx, img.Target, func(d ocispec.Descriptor, doc *manifest.Document) error {
		if !sv.choice.Wants(d) {
			return nil
		}
		if doc.Image != nil {
			// Of the manifests for other platforms there may be parts only.
			needed := d.Digest == img.Manifest.Digest
			for _, b := range append([]ocispec.Descriptor{doc.Image.Config}, doc.Image.Layers...) {
				if err := a.blob(ctx, b.Digest, needed); err != nil {
					return err
				}
			}
		}
		return a.blob(ctx, d.Digest, true)
	})
	if err != nil {
		return fmt.Errorf("save image %s: %w", img.ID, err)
	}
	b, err := a.s.content.Read(ctx, img.Manifest.Digest, manifest.MaxSize)
	if err != nil {
		return err
	}
	doc, err := manifest.Parse(img.Manifest, b)
	if err != nil {
		return err
	}
	e := dockerEntry{Config: blobPath(img.ID), Layers: []string{}}
	for _, l := range doc.Image.Layers {
		e.Layers = append(e.Layers, blobPath(l.Digest))
	}
	target := ocispec.Descriptor{MediaType: img.Target.MediaType, Digest: img.Target.Digest, Size: img.Target.Size}
	if len(sv.tags) == 0 {
		a.index = append(a.index, target)
	}
	for _, t := range sv.tags {
		e.RepoTags = append(e.RepoTags, reference.FamiliarString(t))
		named := target
		named.Annotations = map[string]string{annotationName: t.String()}
		if tagged, ok := t.(reference.Tagged); ok {
			named.Annotations[ocispec.AnnotationRefName] = tagged.Tag()
		}
		a.index = append(a.index, named)
	}
	a.docker = append(a.docker, e)
	return nil
}

// documents writes what describes the blobs, for readers of each format.
func (a *archiver) documents(list []*saving) error {
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: a.index}
	index.SchemaVersion = 2
	repositories := map[string]map[string]string{}
	for _, sv := range list {
		for _, t := range sv.tags {
			tagged, ok := t.(reference.Tagged)
			if !ok || sv.img.ChainID == "" { // that file names the uppermost layer, and there may be none
				continue
			}
			name := reference.FamiliarName(t)
			if repositories[name] == nil {
				repositories[name] = map[string]string{}
			}
			repositories[name][tagged.Tag()] = sv.img.ChainID.Encoded()
		}
	}
	docs := []struct {
		name string
		body any
	}{
		{"index.json", index},
		{"manifest.json", a.docker},
		{"oci-layout", ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
		{"repositories", repositories},
	}
	for _, d := range docs {
		if d.name == "repositories" && len(repositories) == 0 {
			continue
		}
		b, err := json.Marshal(d.body)
		if err != nil {
			return err
		}
		if err := a.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: d.name, Size: int64(len(b)), Mode: 0o644, ModTime: epoch}); err != nil {
			return err
		}
		if _, err := a.tw.Write(b); err != nil {
			return err
		}
	}
	return a.tw.Close()
}
