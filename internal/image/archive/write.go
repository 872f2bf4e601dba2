package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/image/manifest"
	"github.com/wherry-engine/wherry/internal/image/tree"
)

// Saved is an image that an archive is to hold.
type Saved struct {
	ID       digest.Digest      // of its config
	Target   ocispec.Descriptor // what the archive's index names
	Manifest ocispec.Descriptor // Target, or the one below it that manifest.json tells of
	Chain    digest.Digest      // of all layers; "" without layers
	Tags     []reference.Named  // none: it is named by its id alone
	Choice   *tree.Choice       // nil: everything that is here
}

// Write writes images to one archive that is both docker's and an OCI layout, and
// to the same bytes each time. The caller holds a lease on them.
func Write(ctx context.Context, t *tree.Tree, w io.Writer, list []*Saved) error {
	a := &writer{tree: t, tw: tar.NewWriter(w), done: map[digest.Digest]bool{}}
	// Once the archive has begun an error can only break it off.
	for _, img := range list {
		err := a.blobs(ctx, img, func(ctx context.Context, d digest.Digest, needed bool) error { return a.check(ctx, img, d, needed) })
		if err != nil {
			return fmt.Errorf("save image %s: %w", img.ID, err)
		}
	}
	clear(a.done)
	if err := a.dirs("blobs/", "blobs/sha256/"); err != nil {
		return err
	}
	for _, img := range list {
		if err := a.image(ctx, img); err != nil {
			return err
		}
	}
	return a.documents(list)
}

// writer writes the members of an archive, each blob once.
type writer struct {
	tree   *tree.Tree
	tw     *tar.Writer
	done   map[digest.Digest]bool
	docker []Entry
	index  []ocispec.Descriptor
}

// epoch is every member's time: the same images make the same archive.
var epoch = time.Unix(0, 0)

func (a *writer) dirs(names ...string) error {
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
func (a *writer) blob(ctx context.Context, d digest.Digest, needed bool) error {
	if a.done[d] {
		return nil
	}
	r, size, err := a.tree.Content.Reader(ctx, d)
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

// check looks at one blob, unless it did; needed: its absence is an error.
func (a *writer) check(ctx context.Context, img *Saved, d digest.Digest, needed bool) error {
	if a.done[d] {
		return nil
	}
	a.done[d] = true
	err := a.tree.Content.Check(ctx, d)
	if err == nil || errdefs.IsNotFound(err) && !needed || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	name := id.Short(img.ID.String())
	// Whatever kind of error that is, the image is there.
	return fmt.Errorf("it is damaged: %s: remove it (rmi %s) and, if it was built here, the build cache (builder prune -a), and pull, load or build it again", err.Error(), name)
}

// blobs calls fn for all blobs of an image, each before those that refer to it.
func (a *writer) blobs(ctx context.Context, img *Saved, fn func(ctx context.Context, d digest.Digest, needed bool) error) error {
	return a.tree.Walk(ctx, img.Target, func(d ocispec.Descriptor, doc *manifest.Document) error {
		if !img.Choice.Wants(d) {
			return nil
		}
		if doc.Image != nil {
			// Of the manifests for other platforms there may be parts only.
			needed := d.Digest == img.Manifest.Digest
			for _, b := range append([]ocispec.Descriptor{doc.Image.Config}, doc.Image.Layers...) {
				if err := fn(ctx, b.Digest, needed); err != nil {
					return err
				}
			}
		}
		return fn(ctx, d.Digest, true)
	})
}

func (a *writer) image(ctx context.Context, img *Saved) error {
	if err := a.blobs(ctx, img, a.blob); err != nil {
		return fmt.Errorf("save image %s: %w", img.ID, err)
	}
	b, err := a.tree.Content.Read(ctx, img.Manifest.Digest, manifest.MaxSize)
	if err != nil {
		return err
	}
	doc, err := manifest.Parse(img.Manifest, b)
	if err != nil {
		return err
	}
	e := Entry{Config: blobPath(img.ID), Layers: []string{}}
	for _, l := range doc.Image.Layers {
		e.Layers = append(e.Layers, blobPath(l.Digest))
	}
	target := ocispec.Descriptor{MediaType: img.Target.MediaType, Digest: img.Target.Digest, Size: img.Target.Size}
	if len(img.Tags) == 0 {
		a.index = append(a.index, target)
	}
	for _, t := range img.Tags {
		e.RepoTags = append(e.RepoTags, reference.FamiliarString(t))
		named := target
		named.Annotations = map[string]string{images.AnnotationImageName: t.String()}
		if tagged, ok := t.(reference.Tagged); ok {
			named.Annotations[ocispec.AnnotationRefName] = tagged.Tag()
		}
		a.index = append(a.index, named)
	}
	a.docker = append(a.docker, e)
	return nil
}

// documents writes what describes the blobs, for readers of each format.
func (a *writer) documents(list []*Saved) error {
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: a.index}
	index.SchemaVersion = 2
	repositories := map[string]map[string]string{}
	for _, img := range list {
		for _, t := range img.Tags {
			tagged, ok := t.(reference.Tagged)
			if !ok || img.Chain == "" { // that file names the uppermost layer, and there may be none
				continue
			}
			name := reference.FamiliarName(t)
			if repositories[name] == nil {
				repositories[name] = map[string]string{}
			}
			repositories[name][tagged.Tag()] = img.Chain.Encoded()
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
