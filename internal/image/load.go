package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/image/manifest"
	"github.com/wherry-engine/wherry/internal/image/members"
	"github.com/wherry-engine/wherry/internal/image/tree"
)

// annotationName is what docker, buildx and containerd write a full image
// name to; org.opencontainers.image.ref.name may be only a tag.
const annotationName = "io.containerd.image.name"
const maxNames = 10_000 // of an archive: each costs the table more than the one before

// loader reads one archive.
type loader struct{ *Store }

// loading is one image of an archive, on its way into the store.
type loading struct {
	target ocispec.Descriptor
	names  []reference.Named
	done   *tree.Adopted
}

// Load takes all images of an archive into the store: a docker-archive (of
// `docker save`, of any age), an OCI layout, or both in one; the stream plain
// or compressed with gzip, zstd, xz or bzip2. progress gets dockerd's messages
// one after the other, from one goroutine. With platforms, only what they need
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
	m, err := members.Scan(ctx, s.content, r)
	if err != nil {
		return err
	}
	list, err := s.plan(ctx, m)
	if err != nil {
		return err
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
		if err := s.enter(ctx, l, progress); err != nil {
			return err
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

// enter commits the names of a loaded image and says so.
func (s *loader) enter(ctx context.Context, l *loading, progress func(jsonstream.Message)) error {
	s.change.Lock()
	defer s.change.Unlock()
	var puts []*record
	var said []string
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
		return err
	}
	img, err := s.Resolve(ctx, l.done.ID().String())
	if err != nil {
		return err
	}
	for _, n := range l.names {
		said = append(said, "Loaded image: "+reference.FamiliarString(n)+"\n")
	}
	if len(l.names) == 0 {
		said = append(said, "Loaded image ID: "+img.ID.String()+"\n")
	}
	s.publish(events.ActionLoad, img, img.ID.String(), img.ID.String())
	for _, text := range said {
		progress(jsonstream.Message{Stream: text})
	}
	return nil
}

func (l *loading) record(n reference.Named) *record {
	r := &record{name: danglingPrefix + l.target.Digest.String(), ref: n, target: l.target, manifest: l.done.Image.Desc.Digest, id: l.done.ID()}
	if n != nil {
		r.name = n.String()
	}
	return r
}

// plan turns the archive's documents into the list of its images.
func (s *loader) plan(ctx context.Context, m *members.List) ([]*loading, error) {
	var list []*loading
	if b := m.Docs["index.json"]; b != nil {
		doc, err := manifest.Parse(ocispec.Descriptor{}, b)
		if err != nil {
			return nil, fmt.Errorf("index.json: %w", err)
		}
		if doc.Index == nil {
			return nil, invalid("index.json is not an index")
		}
		for _, d := range doc.Index.Manifests {
			if !manifest.Is(d.MediaType) {
				return nil, invalid("index.json refers to the unsupported media type %q", d.MediaType)
			}
			name, err := annotatedName(d.Annotations)
			if err != nil {
				return nil, err
			}
			d.Annotations, d.Platform, d.URLs = nil, nil, nil
			list = add(list, d, name)
		}
	}
	b := m.Docs["manifest.json"]
	if b == nil && list == nil {
		return nil, invalid("the archive holds neither a manifest.json nor an index.json: it is not an image archive")
	}
	if b != nil {
		return s.planDocker(ctx, m, b, list)
	}
	return list, nil
}

// add puts an image on the list, once for each target.
func add(list []*loading, d ocispec.Descriptor, name reference.Named) []*loading {
	i := slices.IndexFunc(list, func(l *loading) bool { return l.target.Digest == d.Digest })
	if i < 0 {
		i = len(list)
		list = append(list, &loading{target: d})
	}
	if name != nil && !slices.ContainsFunc(list[i].names, func(n reference.Named) bool { return n.String() == name.String() }) {
		list[i].names = append(list[i].names, name)
	}
	return list
}

// annotatedName returns the name that a descriptor's annotations give, or nil.
func annotatedName(a map[string]string) (reference.Named, error) {
	text := a[annotationName]
	if text == "" {
		text = a[ocispec.AnnotationRefName]
		if !strings.ContainsAny(text, ":/") {
			return nil, nil // a tag at most, of a repository that is not named
		}
	}
	n, err := reference.ParseNormalizedNamed(text)
	if err != nil {
		return nil, invalid("index.json: %q: %v", text, err)
	}
	return reference.TagNameOnly(n), nil
}

// dockerEntry is one image in a docker-archive's manifest.json.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// planDocker adds the images of manifest.json to those of index.json. Entries
// that both describe must not contradict each other.
func (s *loader) planDocker(ctx context.Context, m *members.List, b []byte, list []*loading) ([]*loading, error) {
	var entries []dockerEntry
	if err := json.Unmarshal(b, &entries); err != nil {
		return nil, invalid("manifest.json: %v", err)
	}
	owner := map[digest.Digest]*loading{} // by id
	named := map[string]*loading{}
	for _, l := range list {
		for _, n := range l.names {
			named[n.String()] = l
		}
		cs, err := s.tree.Candidates(ctx, l.target)
		if err != nil {
			return nil, err
		}
		for _, c := range cs {
			owner[c.Manifest.Config.Digest] = l
		}
	}
	for _, e := range entries {
		config, err := m.Blob(e.Config)
		if err != nil {
			return nil, err
		}
		l := owner[config.Digest]
		if l == nil {
			d, err := s.dockerImage(ctx, m, e, config)
			if err != nil {
				return nil, err
			}
			l = &loading{target: d}
			owner[config.Digest] = l
			list = append(list, l)
		}
		for _, t := range e.RepoTags {
			n, err := reference.ParseNormalizedNamed(t)
			if err != nil {
				return nil, invalid("manifest.json: %q: %v", t, err)
			}
			n = reference.TagNameOnly(n)
			switch of := named[n.String()]; {
			case of == nil && len(named) == maxNames:
				return nil, invalid("the archive has more than %d names", maxNames)
			case of == nil:
				named[n.String()], l.names = l, append(l.names, n)
			case of != l:
				return nil, invalid("ambiguous image archive: %s names two images in it", reference.FamiliarString(n))
			}
		}
	}
	return list, nil
}

// dockerImage writes the manifest that an entry of manifest.json stands for.
// It depends on nothing but config and layers: loading again changes nothing.
func (s *loader) dockerImage(ctx context.Context, m *members.List, e dockerEntry, config ocispec.Descriptor) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	if config.Size > tree.MaxConfig {
		return none, invalid("%s has %d bytes, more than %d", e.Config, config.Size, tree.MaxConfig)
	}
	config.MediaType = ocispec.MediaTypeImageConfig
	doc := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{}}
	doc.SchemaVersion = 2
	for _, name := range e.Layers {
		d, err := m.Blob(name)
		if err != nil {
			return none, err
		}
		if d.MediaType, err = s.tree.LayerType(ctx, d); err != nil {
			return none, err
		}
		doc.Layers = append(doc.Layers, d)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return none, err
	}
	return s.content.WriteBytes(ctx, ocispec.MediaTypeImageManifest, b)
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
