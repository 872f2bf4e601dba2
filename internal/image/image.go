package image

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/image/manifest"
	"github.com/wherry-engine/wherry/internal/image/tree"
)

// Image is a resolved image. It is shared between callers: read only.
type Image struct {
	ID       digest.Digest      // digest of the config: what people see as the image's id
	Target   ocispec.Descriptor // manifest or index, as it came
	Manifest ocispec.Descriptor // the manifest that runs on this host
	Config   dockerspec.DockerOCIImage
	RepoTags []string // familiar form, sorted
	// RepoDigests are the name@digest references that a pull or push recorded.
	RepoDigests []string
	ChainID     digest.Digest // of all layers; "" without layers
	Created     time.Time     // zero if the config does not say
	Size        int64         // bytes of the unpacked layers' files
	Parent      digest.Digest // id of the image it was built from here, if any
	Tagged      time.Time     // when a name was last given to it
}

// record is one row of the image table.
type record struct {
	name     string          // key: canonical reference, or dangling@digest
	ref      reference.Named // nil for a dangling one
	target   ocispec.Descriptor
	manifest digest.Digest
	id       digest.Digest
	parent   digest.Digest
	updated  time.Time
}

func (r *record) canonical() bool {
	_, ok := r.ref.(reference.Canonical)
	return ok
}

// details is what the blobs of an image say; it never changes for one id.
type details struct {
	config   dockerspec.DockerOCIImage
	manifest ocispec.Manifest
	desc     ocispec.Descriptor
	chain    digest.Digest
}

// readDetails reads manifest and config.
func readDetails(ctx context.Context, blobs *content.Store, r *record) (*details, error) {
	d := &details{}
	b, err := intact(ctx, blobs, r.manifest, manifest.MaxSize)
	if err != nil {
		return nil, err
	}
	m, err := manifest.Parse(ocispec.Descriptor{Digest: r.manifest}, b)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", r.manifest, err)
	}
	if m.Image == nil {
		return nil, fmt.Errorf("manifest %s is an index", r.manifest)
	}
	d.manifest = *m.Image
	d.desc = ocispec.Descriptor{MediaType: m.MediaType, Digest: r.manifest, Size: int64(len(b))}
	if b, err = intact(ctx, blobs, r.id, tree.MaxConfig); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &d.config); err != nil {
		return nil, fmt.Errorf("config %s: %w", r.id, err)
	}
	if len(d.config.RootFS.DiffIDs) > 0 {
		d.chain = identity.ChainID(d.config.RootFS.DiffIDs)
	}
	return d, nil
}

// intact reads a small blob that must be as it was stored.
func intact(ctx context.Context, blobs *content.Store, d digest.Digest, limit int64) ([]byte, error) {
	b, err := blobs.Read(ctx, d, limit)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	if d.Algorithm().FromBytes(b) != d {
		return nil, fmt.Errorf("blob %s on the disk does not have this digest any more", d)
	}
	return b, nil
}

// build joins the names of an entry with what its blobs say.
func (s *Store) build(ctx context.Context, e *entry) (*Image, error) {
	d := e.details.Load()
	if d == nil {
		var err error
		if d, err = readDetails(ctx, s.content, e.records[0]); err != nil {
			name := id.Short(e.id.String())
			return nil, fmt.Errorf("image %s is damaged: %w: remove it (rmi %s) and pull, load or build it again", name, err, name)
		}
		e.details.Store(d)
	}
	img := bare(e)
	img.Manifest, img.Config, img.ChainID = d.desc, d.config, d.chain
	if d.config.Created != nil {
		img.Created = *d.config.Created
	}
	lower, err := s.snapshots.Layers(ctx, d.chain)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	img.Size = lower.Size
	return img, nil
}

// bare is what the table alone knows of an image.
func bare(e *entry) *Image {
	img := &Image{ID: e.id, Target: e.records[0].target, Parent: e.records[0].parent, RepoTags: []string{}, RepoDigests: []string{}}
	for _, r := range e.records {
		switch {
		case r.ref == nil:
		case r.canonical():
			img.RepoDigests = append(img.RepoDigests, reference.FamiliarString(r.ref))
		default:
			img.RepoTags = append(img.RepoTags, reference.FamiliarString(r.ref))
		}
		if r.updated.After(img.Tagged) {
			img.Tagged = r.updated
		}
	}
	sort.Strings(img.RepoTags)
	sort.Strings(img.RepoDigests)
	return img
}
