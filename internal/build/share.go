package build

import (
	"context"
	"slices"
	"strings"

	ctdcontent "github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/snapshot"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/build/digestref"
	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/image"
	enginesnapshot "github.com/wherry-engine/wherry/internal/snapshot"
)

// shared translates BuildKit's name for an image's layer to the engine's, which
// is the chain id: both check a layer's content against its diff id before it
// gets the name, so they may share it.
func shared(key string) string {
	if chain, ok := snapshot.ParseLayerSnapshotID(key); ok {
		return chain.String()
	}
	return key
}

// layers are the engine's layers as BuildKit sees them.
type layers struct {
	snapshots.Snapshotter
	store *enginesnapshot.Store
}

// files names the snapshot that has a layer's files, to build upon.
func (l layers) files(ctx context.Context, key string) (string, error) {
	name := shared(key)
	if name == key {
		return key, nil
	}
	info, err := l.Snapshotter.Stat(ctx, name)
	if err != nil {
		return "", err
	}
	return enginesnapshot.Stands(info), nil
}

func (l layers) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	return l.Snapshotter.Stat(content.With(ctx), shared(key))
}

func (l layers) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	ctx = content.With(ctx)
	name, err := l.files(ctx, key)
	if err != nil {
		return snapshots.Usage{}, err
	}
	return enginesnapshot.Usage(ctx, l.store, l.Snapshotter, name)
}

func (l layers) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	ctx = content.With(ctx)
	parent, err := l.files(ctx, parent)
	if err != nil {
		return nil, err
	}
	return l.Snapshotter.View(ctx, key, parent, opts...)
}

func (l layers) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	ctx = content.With(ctx)
	parent, err := l.files(ctx, parent)
	if err != nil {
		return nil, err
	}
	return l.Snapshotter.Prepare(ctx, key, parent, opts...)
}

// present marks the mounts of a layer that need not be unpacked.
const present = "wherry.present"

// extracting gives the chain that a snapshot is prepared for, if it is one that
// BuildKit unpacks a layer into: "extract-<random> <chain id>".
func extracting(key string) (digest.Digest, bool) {
	head, chain, ok := strings.Cut(key, " ")
	if !ok || !strings.HasPrefix(head, "extract-") {
		return "", false
	}
	d, err := digest.Parse(chain)
	return d, err == nil
}

func (l layers) there(ctx context.Context, key string) bool {
	chain, ok := extracting(key)
	if !ok {
		return false
	}
	_, err := l.Snapshotter.Stat(content.With(ctx), chain.String())
	return err == nil
}

func (l layers) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	if l.there(ctx, key) {
		return []mount.Mount{{Type: present}}, nil
	}
	return l.Snapshotter.Mounts(content.With(ctx), shared(key))
}

func (l layers) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	ctx = content.With(ctx)
	if l.there(ctx, key) {
		return l.Snapshotter.Remove(ctx, key)
	}
	mounts, err := l.Snapshotter.Mounts(ctx, key)
	if err != nil {
		return err
	}
	_, image := extracting(key)
	labels, err := l.store.Describe(mounts, image)
	if err != nil {
		return err
	}
	opts = append(opts, snapshots.WithLabels(labels))
	return l.Snapshotter.Commit(ctx, shared(name), key, opts...)
}

// blobs is the engine's content store, which does not write down what it knows.
type blobs struct{ ctdcontent.Store }

// Update sets labels, if any of them is another than it was.
func (b blobs) Update(ctx context.Context, i ctdcontent.Info, paths ...string) (ctdcontent.Info, error) {
	if was, err := b.Store.Info(ctx, i.Digest); err == nil && len(paths) > 0 && !slices.ContainsFunc(paths, func(p string) bool {
		key, ok := strings.CutPrefix(p, "labels.")
		return !ok || was.Labels[key] != i.Labels[key]
	}) {
		return was, nil
	}
	return b.Store.Update(ctx, i, paths...)
}

// applier unpacks layers that are not there yet.
type applier struct{ diff.Applier }

func (a applier) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	if len(mounts) == 1 && mounts[0].Type == present {
		d, err := digest.Parse(desc.Annotations[labels.LabelUncompressed])
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d}, err
	}
	return a.Applier.Apply(ctx, desc, mounts, opts...)
}

// holds are the leases, with layers under the engine's names.
type holds struct{ leases.Manager }

func (h holds) AddResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	r.ID = shared(r.ID)
	return h.Manager.AddResource(ctx, l, r)
}

func (h holds) DeleteResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	r.ID = shared(r.ID)
	return h.Manager.DeleteResource(ctx, l, r)
}

// names is the table of images for BuildKit to look bases up in. It finds what
// the engine's own look-up finds, ids included, and changes nothing.
type names struct {
	images.Store
	table *image.Store
}

func (n names) Get(ctx context.Context, name string) (images.Image, error) {
	if canonical, d, ok := digestref.Read(name); ok {
		img, err := n.table.Resolve(ctx, canonical)
		if err != nil {
			return images.Image{}, err
		}
		return images.Image{Name: name, Target: found(img, d), CreatedAt: img.Created, UpdatedAt: img.Tagged}, nil
	}
	img, err := n.table.Resolve(ctx, name)
	if errdefs.IsNotFound(err) {
		// The name was made canonical, which ids are not.
		if hex, ok := strings.CutPrefix(name, "docker.io/library/"); ok {
			img, err = n.table.Resolve(ctx, strings.TrimSuffix(hex, ":latest"))
		}
	}
	if err != nil {
		return images.Image{}, err
	}
	return images.Image{Name: name, Target: img.Target, CreatedAt: img.Created, UpdatedAt: img.Tagged}, nil
}

// List is only asked for what of the cache images have, too; see records.
func (n names) List(context.Context, ...string) ([]images.Image, error) { return nil, nil }

func (n names) Create(context.Context, images.Image) (images.Image, error) {
	return images.Image{}, errReadOnly
}

func (n names) Update(context.Context, images.Image, ...string) (images.Image, error) {
	return images.Image{}, errReadOnly
}

func (n names) Delete(context.Context, string, ...images.DeleteOpt) error { return errReadOnly }

var errReadOnly = errdefs.ErrNotImplemented.WithMessage("BuildKit does not change the engine's images")
