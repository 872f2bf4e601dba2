package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/image/manifest"
	"github.com/wherry-engine/wherry/internal/image/tree"
)

// MaxNames is how many names the images of an archive may have: each costs who
// stores them more than the one before.
const MaxNames = 10_000

// Image is one of an archive that was read.
type Image struct {
	Target ocispec.Descriptor // in the store
	Names  []reference.Named  // with tags
}

// Entry is one image in manifest.json, docker's list of them.
type Entry struct {
	Config   string // path of the member
	RepoTags []string
	Layers   []string
}

// plan turns the archive's documents into the list of its images.
func (m *members) plan(ctx context.Context) ([]*Image, error) {
	var list []*Image
	if b := m.docs["index.json"]; b != nil {
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
	b := m.docs["manifest.json"]
	if b == nil && list == nil {
		return nil, invalid("the archive holds neither a manifest.json nor an index.json: it is not an image archive")
	}
	if b != nil {
		return m.planDocker(ctx, b, list)
	}
	return list, nil
}

// add puts an image on the list, once for each target.
func add(list []*Image, d ocispec.Descriptor, name reference.Named) []*Image {
	i := slices.IndexFunc(list, func(l *Image) bool { return l.Target.Digest == d.Digest })
	if i < 0 {
		i = len(list)
		list = append(list, &Image{Target: d})
	}
	if name != nil && !slices.ContainsFunc(list[i].Names, func(n reference.Named) bool { return n.String() == name.String() }) {
		list[i].Names = append(list[i].Names, name)
	}
	return list
}

// annotatedName returns the name that a descriptor's annotations give, or nil.
func annotatedName(a map[string]string) (reference.Named, error) {
	text := a[images.AnnotationImageName]
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

// planDocker adds the images of manifest.json to those of index.json. Entries
// that both describe must not contradict each other.
func (m *members) planDocker(ctx context.Context, b []byte, list []*Image) ([]*Image, error) {
	var entries []Entry
	if err := json.Unmarshal(b, &entries); err != nil {
		return nil, invalid("manifest.json: %v", err)
	}
	owner := map[digest.Digest]*Image{} // by id
	named := map[string]*Image{}
	for _, l := range list {
		for _, n := range l.Names {
			named[n.String()] = l
		}
		cs, err := m.tree.Candidates(ctx, l.Target)
		if err != nil {
			return nil, err
		}
		for _, c := range cs {
			owner[c.Manifest.Config.Digest] = l
		}
	}
	for _, e := range entries {
		config, err := m.blob(e.Config)
		if err != nil {
			return nil, err
		}
		l := owner[config.Digest]
		if l == nil {
			d, err := m.dockerImage(ctx, e, config)
			if err != nil {
				return nil, err
			}
			l = &Image{Target: d}
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
			case of == nil && len(named) == MaxNames:
				return nil, invalid("the archive has more than %d names", MaxNames)
			case of == nil:
				named[n.String()], l.Names = l, append(l.Names, n)
			case of != l:
				return nil, invalid("ambiguous image archive: %s names two images in it", reference.FamiliarString(n))
			}
		}
	}
	return list, nil
}

// dockerImage writes the manifest that an entry of manifest.json stands for.
// It depends on nothing but config and layers: loading again changes nothing.
func (m *members) dockerImage(ctx context.Context, e Entry, config ocispec.Descriptor) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	if config.Size > tree.MaxConfig {
		return none, invalid("%s has %d bytes, more than %d", e.Config, config.Size, tree.MaxConfig)
	}
	config.MediaType = ocispec.MediaTypeImageConfig
	doc := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{}}
	doc.SchemaVersion = 2
	for _, name := range e.Layers {
		d, err := m.blob(name)
		if err != nil {
			return none, err
		}
		if d.MediaType, err = m.tree.LayerType(ctx, d); err != nil {
			return none, err
		}
		doc.Layers = append(doc.Layers, d)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return none, err
	}
	return m.tree.Content.WriteBytes(ctx, ocispec.MediaTypeImageManifest, b)
}
