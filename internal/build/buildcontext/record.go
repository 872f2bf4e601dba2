package buildcontext

import (
	"context"
	"errors"
	"log/slog"

	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/contenthash"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/snapshot"
)

// Where BuildKit's own source notes which directory a record is of; both find
// what the other one made.
const (
	keyShared   = "local.sharedKey"
	indexShared = keyShared + ":"
)

// free gives the record of a directory, a new one if none is free.
func (d *Directories) free(ctx context.Context, key, name string) (ref cache.MutableRef, known bool, err error) {
	list, err := d.cache.Search(ctx, indexShared+key, false)
	if err != nil {
		return nil, false, err
	}
	for _, md := range list {
		ref, err := d.cache.GetMutable(ctx, md.ID())
		if errors.Is(err, cache.ErrLocked) {
			if err := d.settle(ctx); err != nil {
				return nil, false, err
			}
			ref, err = d.cache.GetMutable(ctx, md.ID())
		}
		if err == nil {
			return ref, true, nil
		}
	}
	ref, err = d.cache.New(ctx, nil, nil, cache.WithRecordType(client.UsageRecordTypeLocalSource),
		cache.WithDescription("local source for "+name))
	return ref, false, err
}

// renew has a directory's record be brought up to date. What do changes in it,
// it tells hashes, and calls changing before; not told, what is there is read
// for its digests, and is not brought up to date once more.
func (d *Directories) renew(ctx context.Context, key, name string, do func(dir string, hashes contenthash.CacheContext, changing func() error) (told bool, err error)) (_ cache.ImmutableRef, err error) {
	ref, named, err := d.free(ctx, key, name)
	if err != nil {
		return nil, err
	}
	defer func() {
		switch {
		case err == nil:
			return
		case named: // nothing was changed
			err = errors.Join(err, ref.Release(context.WithoutCancel(ctx)))
			return
		}
		// What is there is neither the old nor the new tree.
		if perr := ref.SetCachePolicyDefault(); perr != nil {
			slog.Warn("a build context that failed stays in the cache", "error", perr)
		}
		contenthash.ClearCacheContext(ref)
		go func() {
			if err := ref.Release(context.WithoutCancel(ctx)); err != nil {
				slog.Warn("a build context that failed stays in the cache", "error", err)
			}
			d.collect()
		}()
	}()
	hashes, err := contenthash.GetCacheContext(ctx, ref)
	if err != nil {
		return nil, err
	}
	changing := func() error {
		if !named {
			return nil
		}
		named = false
		// From now on a killed engine's next start removes it.
		return errors.Join(ref.ClearValueAndIndex(keyShared, indexShared), ref.SetCachePolicyDefault())
	}
	told := false
	err = within(ctx, ref, func(dir string) (err error) {
		told, err = do(dir, hashes, changing)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case !told:
		contenthash.ClearCacheContext(ref)
	case !named:
		// They are a megabyte for each ten thousand files.
		if err := contenthash.SetCacheContext(ctx, ref, hashes); err != nil {
			return nil, err
		}
		if err := errors.Join(ref.SetString(keyShared, key, indexShared+key), ref.SetCachePolicyRetain()); err != nil {
			return nil, err
		}
	}
	return ref.Commit(ctx)
}

// within calls do with the directory of a record.
func within(ctx context.Context, ref cache.MutableRef, do func(dir string) error) (err error) {
	mounts, err := ref.Mount(ctx, false, nil)
	if err != nil {
		return err
	}
	if mounts.IdentityMapping() != nil {
		return errors.New("a build context cannot have mapped owners")
	}
	place := snapshot.LocalMounter(mounts)
	dir, err := place.Mount()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, place.Unmount()) }()
	return do(dir)
}
