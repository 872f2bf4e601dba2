// Package history owns where the history of builds is kept: progress, provenance
// and results of builds that are over, in a store of their own, which is not
// synced: no build waits for the disk because of it, and what a crash of the
// machine takes of it is no loss.
//
// Below the root that it is given lie history-meta.db (bbolt, containerd's
// format) and the blobs, in history/.
package history

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	engine "github.com/wherry-engine/wherry/internal/content"
)

// namespace is where BuildKit keeps what belongs to the history of
// builds: progress, provenance, results.
const namespace = engine.Namespace + "_history"

// Store keeps it apart from what the engine cannot lose.
type Store struct {
	db    *bolt.DB
	blobs *journal
	store *metadata.DB
	mgr   leases.Manager
}

// Open opens the store below root.
func Open(ctx context.Context, root string) (*Store, error) {
	db, err := Unsynced(filepath.Join(root, "history-meta.db"))
	if err != nil {
		return nil, err
	}
	blobs, err := openJournal(filepath.Join(root, "history"))
	if err == nil {
		h := &Store{db: db, blobs: blobs, store: metadata.NewDB(db, blobs, nil)}
		h.mgr = metadata.NewLeaseManager(h.store)
		if err = h.store.Init(ctx); err == nil {
			return h, nil
		}
	}
	return nil, errors.Join(err, db.Close())
}

// Unsynced opens a database whose loss in a crash of the machine does not matter.
func Unsynced(file string) (*bolt.DB, error) {
	return bolt.Open(file, 0o600, &bolt.Options{NoSync: true, NoGrowSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
}

// Collect removes what no record needs.
func (h *Store) Collect(ctx context.Context) error {
	_, err := h.store.GarbageCollect(namespaces.WithNamespace(ctx, namespace))
	return err
}

// Close closes the store.
func (h *Store) Close() error { return h.store.Close() }

// isHistory tells whose a call is.
func isHistory(ctx context.Context) bool {
	ns, _ := namespaces.Namespace(ctx)
	return ns == namespace
}

// Blobs is the engine's content store, and the history's for what is its.
func (h *Store) Blobs(main content.Store) content.Store {
	return blobsOf{main, h.store.ContentStore()}
}

type blobsOf struct{ main, history content.Store }

func (b blobsOf) of(ctx context.Context) content.Store {
	if isHistory(ctx) {
		return b.history
	}
	return b.main
}

func (b blobsOf) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	return b.of(ctx).Info(ctx, d)
}

func (b blobsOf) Update(ctx context.Context, i content.Info, paths ...string) (content.Info, error) {
	return b.of(ctx).Update(ctx, i, paths...)
}

func (b blobsOf) Walk(ctx context.Context, fn content.WalkFunc, filters ...string) error {
	return b.of(ctx).Walk(ctx, fn, filters...)
}

func (b blobsOf) Delete(ctx context.Context, d digest.Digest) error { return b.of(ctx).Delete(ctx, d) }

func (b blobsOf) Status(ctx context.Context, ref string) (content.Status, error) {
	return b.of(ctx).Status(ctx, ref)
}

func (b blobsOf) ListStatuses(ctx context.Context, filters ...string) ([]content.Status, error) {
	return b.of(ctx).ListStatuses(ctx, filters...)
}

func (b blobsOf) Abort(ctx context.Context, ref string) error { return b.of(ctx).Abort(ctx, ref) }

func (b blobsOf) ReaderAt(ctx context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	return b.of(ctx).ReaderAt(ctx, d)
}

func (b blobsOf) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	return b.of(ctx).Writer(ctx, opts...)
}

// Leases is the same for leases.
func (h *Store) Leases(main leases.Manager) leases.Manager { return leasesOf{main, h.mgr} }

type leasesOf struct{ main, history leases.Manager }

func (l leasesOf) of(ctx context.Context) leases.Manager {
	if isHistory(ctx) {
		return l.history
	}
	return l.main
}

func (l leasesOf) Create(ctx context.Context, opts ...leases.Opt) (leases.Lease, error) {
	return l.of(ctx).Create(ctx, opts...)
}

func (l leasesOf) Delete(ctx context.Context, one leases.Lease, opts ...leases.DeleteOpt) error {
	return l.of(ctx).Delete(ctx, one, opts...)
}

func (l leasesOf) List(ctx context.Context, filters ...string) ([]leases.Lease, error) {
	return l.of(ctx).List(ctx, filters...)
}

func (l leasesOf) AddResource(ctx context.Context, one leases.Lease, r leases.Resource) error {
	return l.of(ctx).AddResource(ctx, one, r)
}

func (l leasesOf) DeleteResource(ctx context.Context, one leases.Lease, r leases.Resource) error {
	return l.of(ctx).DeleteResource(ctx, one, r)
}

func (l leasesOf) ListResources(ctx context.Context, one leases.Lease) ([]leases.Resource, error) {
	return l.of(ctx).ListResources(ctx, one)
}

// ID is what lists of the cache call the history of builds.
const ID = "history"

// Usage is the history as a line of the account of the cache, nil when there
// is none. It goes with `wherry history rm` and by its age, not with a prune.
func (h *Store) Usage(ctx context.Context) (*client.UsageInfo, error) {
	u := &client.UsageInfo{ID: ID, RecordType: client.UsageRecordTypeInternal, Description: "logs and provenance of finished builds", InUse: true}
	size, first, err := h.blobs.held(ctx)
	u.Size, u.CreatedAt = size, first
	if err != nil || u.Size == 0 {
		return nil, err
	}
	return u, nil
}
