package build

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/moby/buildkit/client"
	apibuild "github.com/moby/moby/api/types/build"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/wherry-engine/wherry/internal/build/linked"
	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// records lists the cache, and which of it are files that an image has, too:
// they do not go with the record. BuildKit's own idea of that takes every step
// that has not been exported for its base.
func (e *engine) records(ctx context.Context) ([]*client.UsageInfo, error) {
	list, err := e.worker.DiskUsage(ctx, client.DiskUsageInfo{})
	if err != nil {
		return nil, err
	}
	held, err := e.inImages(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range list {
		r.Shared = held[shared(e.snapshotName(r.ID))]
	}
	return list, nil
}

// common takes the account of files that several records, or images, have by
// links, and of archives that BuildKit counts beside the files that they are made of.
func (e *engine) common(ctx context.Context, list []*client.UsageInfo) (*linked.Account, error) {
	ctx = content.With(ctx)
	layers := e.b.cfg.Images.Snapshots()
	images, err := e.inImages(ctx)
	if err != nil {
		return nil, err
	}
	var all []linked.Holder
	for _, r := range list {
		name := filesOf(e, r.ID)
		delete(images, name)
		dir, still, err := snapshot.Files(ctx, layers, name)
		if err == nil { // else removed meanwhile, or not unpacked
			all = append(all, linked.Holder{ID: r.ID, Dir: dir, Still: still, Image: r.Shared, Extra: e.extra(ctx, r)})
		}
	}
	for name := range images {
		if dir, still, err := snapshot.Files(ctx, layers, name); err == nil {
			all = append(all, linked.Holder{ID: "image " + name, Dir: dir, Still: still, Image: true})
		}
	}
	return e.links.Read(all)
}

// extra is how much BuildKit's size of a record is above what it takes, because
// of an archive that has its bytes from the record's files. BuildKit may have
// measured the record before there was one.
func (e *engine) extra(ctx context.Context, r *client.UsageInfo) int64 {
	images := e.b.cfg.Images
	info, err := images.Content().Blobs().Info(ctx, digest.Digest(e.note(r.ID, keyBlob)))
	if err != nil {
		return 0
	}
	others, thin := content.Thin(info)
	if !thin {
		return 0
	}
	files, err := images.Content().Snapshotter(images.Snapshots().Driver()).Usage(ctx, shared(e.snapshotName(r.ID)))
	if err != nil {
		return 0 // removed meanwhile
	}
	return max(0, r.Size-files.Size-(info.Size-others))
}

// inUse is settled, and nil for a builder that was never used: nobody opens that
// one to see what it has.
func (b *Builder) inUse(ctx context.Context) (*engine, error) {
	if b.opened() == nil && !b.used() {
		return nil, nil
	}
	e, err := b.settled(ctx)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Twice gives, of snapshots that have the files of images, the bytes of those
// that one before it in the list has by links, too.
func (b *Builder) Twice(ctx context.Context, names []string) (map[string]int64, error) {
	e, err := b.inUse(ctx)
	if e == nil {
		return nil, err
	}
	var all []linked.Holder
	for i, name := range names {
		dir, _, err := snapshot.Files(content.With(ctx), b.cfg.Images.Snapshots(), name)
		if err == nil { // else removed meanwhile
			all = append(all, linked.Holder{ID: fmt.Sprintf("%08d", i), Dir: dir, Still: true, Image: true})
		}
	}
	a, err := e.layers.Read(all)
	if err != nil {
		return nil, err
	}
	out, twice := map[string]int64{}, a.Lengths()
	for i, name := range names {
		out[name] = twice[fmt.Sprintf("%08d", i)]
	}
	return out, nil
}

// Linked tells of layers that go, by the names of the snapshots that have their
// files, how many of their bytes others have by links, and do not go, or were
// counted with several of them. To be called before they go.
func (b *Builder) Linked(ctx context.Context) (over func(gone map[string]bool) int64, err error) {
	e, err := b.inUse(ctx)
	if e == nil {
		return func(map[string]bool) int64 { return 0 }, err
	}
	list, err := e.records(ctx)
	if err != nil {
		return nil, err
	}
	names, err := e.inImages(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range list {
		names[filesOf(e, r.ID)] = true
	}
	var all []linked.Holder
	for name := range names {
		dir, still, err := snapshot.Files(content.With(ctx), b.cfg.Images.Snapshots(), name)
		if err == nil { // else removed meanwhile, or not unpacked
			all = append(all, linked.Holder{ID: name, Dir: dir, Still: still})
		}
	}
	a, err := e.links.Read(all)
	if err != nil {
		return nil, err
	}
	return a.OverLengths, nil
}

// filesOf names the snapshot that has the files of a record.
func filesOf(e *engine, record string) string {
	return shared(e.snapshotName(cmp.Or(e.note(record, keyEqual), record)))
}

// inImages names the snapshots that have the files of images.
func (e *engine) inImages(ctx context.Context) (map[string]bool, error) {
	ctx = content.With(ctx)
	images := e.b.cfg.Images
	sn := images.Content().Snapshotter(images.Snapshots().Driver())
	list, err := images.List(ctx, image.ListOptions{All: true})
	if err != nil {
		return nil, err
	}
	out, seen := map[string]bool{}, map[string]bool{}
	for _, sum := range list {
		img, err := images.Resolve(ctx, sum.ID)
		if err != nil {
			continue // removed meanwhile
		}
		diffs := img.Config.RootFS.DiffIDs
		for n := len(diffs); n > 0; n-- {
			chain := identity.ChainID(diffs[:n]).String()
			if seen[chain] {
				break // and those below
			}
			seen[chain] = true
			if info, err := sn.Stat(ctx, chain); err == nil {
				out[snapshot.Stands(info)] = true
			}
		}
	}
	return out, nil
}

// DiskUsage lists the cache. A builder that was never used is not opened for it.
func (b *Builder) DiskUsage(ctx context.Context) (*apibuild.DiskUsage, error) {
	u := &apibuild.DiskUsage{}
	e, err := b.inUse(ctx)
	if e == nil {
		return u, err
	}
	released(ctx, e)
	list, err := e.records(ctx)
	if err != nil {
		return nil, err
	}
	common, err := e.common(ctx, list)
	if err != nil {
		return nil, err
	}
	twice := common.Twice()
	past, err := e.history.Usage(ctx)
	if err != nil {
		return nil, err
	}
	if past != nil {
		list = append(list, past)
	}
	for _, r := range list {
		if !r.Shared {
			// BuildKit measured a base before it was unpacked.
			r.Size = max(0, max(r.Size, e.bytesOf(ctx, r.ID))-twice[r.ID])
		}
		u.Items = append(u.Items, apibuild.CacheRecord{
			ID: r.ID, Parents: r.Parents, Type: string(r.RecordType), Description: r.Description, InUse: r.InUse, Shared: r.Shared,
			Size: r.Size, CreatedAt: r.CreatedAt, LastUsedAt: r.LastUsedAt, UsageCount: r.UsageCount,
		})
		u.TotalCount++
		if r.InUse {
			u.ActiveCount++
		}
		if r.Shared {
			continue // the image's
		}
		u.TotalSize += r.Size
		if !r.InUse {
			u.Reclaimable += r.Size
		}
	}
	return u, nil
}

// Own lists the blobs and snapshots of the cache that no image needs.
func (b *Builder) Own(ctx context.Context) ([]leases.Resource, error) {
	e, err := b.inUse(ctx)
	if e == nil {
		return nil, err
	}
	list, err := e.records(ctx)
	if err != nil {
		return nil, err
	}
	var own []leases.Resource
	for _, r := range list {
		if !r.Shared {
			own = append(own, e.held(ctx, r.ID)...)
		}
	}
	return own, nil
}

// held lists the blobs and snapshots that a record of the cache keeps; none if
// it was removed meanwhile.
func (e *engine) held(ctx context.Context, record string) []leases.Resource {
	list, err := e.b.cfg.Images.Content().Leases().ListResources(content.With(ctx), leases.Lease{ID: record})
	if err != nil {
		return nil
	}
	return list
}

// bytesOf sums those whose size is known without a look at each file.
func (e *engine) bytesOf(ctx context.Context, record string) (n int64) {
	ctx = content.With(ctx)
	images := e.b.cfg.Images
	for _, r := range e.held(ctx, record) {
		var size int64
		if r.Type == "content" {
			size, _ = images.Content().Size(ctx, digest.Digest(r.ID)) // gone meanwhile
		} else {
			_, size, _ = images.Snapshots().Layer(ctx, r.ID) // likewise
		}
		n += size
	}
	return n
}

// used reports whether a builder was ever opened on this data root.
func (b *Builder) used() bool {
	_, err := os.Stat(filepath.Join(b.cfg.Root, "build", "workerid"))
	return err == nil
}

// DiskUsage is the account that BuildKit's clients see.
func (w *ownWorker) DiskUsage(ctx context.Context, o client.DiskUsageInfo) ([]*client.UsageInfo, error) {
	released(ctx, w.engine)
	list, err := w.Worker.DiskUsage(ctx, o)
	if err != nil {
		return nil, err
	}
	all, err := w.engine.records(ctx)
	if err != nil {
		return nil, err
	}
	common, err := w.engine.common(ctx, all)
	if err != nil {
		return nil, err
	}
	twice := common.Twice()
	for _, u := range list {
		u.Size = max(0, u.Size-twice[u.ID])
	}
	if strings.Join(o.Filter, "") != "" || o.AgeLimit > 0 {
		return list, nil // the history is none of the records that are asked for
	}
	u, err := w.engine.history.Usage(ctx)
	if err == nil && u != nil {
		list = append(list, u)
	}
	return list, err
}
