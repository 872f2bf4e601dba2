package build

import (
	"cmp"
	"context"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/cache"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// Where BuildKit notes the snapshot of a record, if its name is not the
// record's, the digests of its layer, plain and as it is kept, and the record
// that still has its files.
const (
	keyBlob     = "cache.blob"
	keySnapshot = "cache.snapshot"
	keyDiffID   = "cache.diffID"
	keyEqual    = "cache.equalMutable"
)

// note reads what BuildKit noted of a record, "" for nothing.
func (e *engine) note(record, key string) (text string) {
	item, ok := e.worker.MetadataStore.Get(record)
	if !ok {
		return ""
	}
	if v := item.Get(key); v == nil || v.Unmarshal(&text) != nil {
		return ""
	}
	return text
}

// snapshotName names the snapshot of a record of the cache.
func (e *engine) snapshotName(record string) string {
	return cmp.Or(e.note(record, keySnapshot), record)
}

// committed finds for the differ where the files of records are.
type committed struct{ e *engine }

// Committed gives the files that a record of the cache has, when they do not
// change any more.
func (c committed) Committed(ctx context.Context, record string) (dir, name string, ok bool) {
	store := c.e.b.cfg.Images.Snapshots()
	if store.Driver() == snapshot.VFS {
		return "", "", false // a layer's files are among all the others
	}
	name = shared(c.e.snapshotName(record))
	dir, still, err := snapshot.Files(content.With(ctx), store, name)
	return dir, name, err == nil && still
}

// adopt makes an image's layers of those that the build has, without a copy:
// the chain's name leads to the snapshot of the cache, which stays as long as
// the name. Where that is not possible the image store unpacks the layers.
func (e *engine) adopt(ctx context.Context, ref cache.ImmutableRef, diffs []digest.Digest) error {
	store := e.b.cfg.Images.Snapshots()
	if ref == nil || store.Driver() == snapshot.VFS {
		return nil // with vfs even a name costs a copy
	}
	ctx = content.With(ctx)
	sn := e.b.cfg.Images.Content().Snapshotter(store.Driver())
	list := ref.LayerChain()
	defer list.Release(context.WithoutCancel(ctx)) //nolint:errcheck // a reference in memory
	below, parent := "", ""                        // the snapshot and the chain below
	for i, layer := range list {
		if i >= len(diffs) {
			return nil
		}
		chain := identity.ChainID(diffs[:i+1]).String()
		if info, err := sn.Stat(ctx, chain); err == nil {
			below, parent = snapshot.Stands(info), chain
			continue
		} else if !errdefs.IsNotFound(err) {
			return err
		}
		if e.note(layer.ID(), keyDiffID) != diffs[i].String() {
			return nil // the image's layer was made of it, but is another
		}
		if err := layer.Finalize(ctx); err != nil {
			return err
		}
		name := shared(e.snapshotName(layer.ID()))
		info, err := sn.Stat(ctx, name)
		if err != nil || info.Kind != snapshots.KindCommitted || info.Parent != below {
			return nil //nolint:nilerr // made another way (merged layers, none unpacked yet)
		}
		if err := store.Alias(ctx, chain, parent, info, e.differ.Size); err != nil {
			return err
		}
		below, parent = name, chain
	}
	return nil
}
