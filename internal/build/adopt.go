package build

import (
	"context"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/cache"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// keySnapshot is where BuildKit notes the snapshot of a record, if its name is
// not the record's.
const keySnapshot = "cache.snapshot"

// snapshotName names the snapshot of a record of the cache.
func (e *engine) snapshotName(record string) string {
	item, ok := e.worker.MetadataStore.Get(record)
	if !ok {
		return record
	}
	v := item.Get(keySnapshot)
	name := ""
	if v == nil || v.Unmarshal(&name) != nil || name == "" {
		return record
	}
	return name
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
		if err := layer.Finalize(ctx); err != nil {
			return err
		}
		name := shared(e.snapshotName(layer.ID()))
		info, err := sn.Stat(ctx, name)
		if err != nil || info.Kind != snapshots.KindCommitted || info.Parent != below {
			return nil //nolint:nilerr // made another way (merged layers, none unpacked yet)
		}
		if err := store.Alias(ctx, chain, parent, info); err != nil {
			return err
		}
		below, parent = name, chain
	}
	return nil
}
