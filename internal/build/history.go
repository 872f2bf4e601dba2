package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	enginecontent "github.com/wherry-engine/wherry/internal/content"
)

// historyNamespace is where BuildKit keeps what belongs to the history of
// builds: progress, provenance, results.
const historyNamespace = enginecontent.Namespace + "_history"

// history keeps it in a store of its own, which is not synced: no build waits
// for the disk because of it, and what a crash of the machine takes of it is no
// loss.
type history struct {
	db    *bolt.DB
	blobs *journal
	store *metadata.DB
	mgr   leases.Manager
}

func openHistory(ctx context.Context, root string) (*history, error) {
	db, err := unsynced(filepath.Join(root, "history-meta.db"))
	if err != nil {
		return nil, err
	}
	blobs, err := openJournal(filepath.Join(root, "history"))
	if err == nil {
		h := &history{db: db, blobs: blobs, store: metadata.NewDB(db, blobs, nil)}
		h.mgr = metadata.NewLeaseManager(h.store)
		if err = h.store.Init(ctx); err == nil {
			return h, nil
		}
	}
	return nil, errors.Join(err, db.Close())
}

// unsynced opens a database whose loss in a crash of the machine does not matter.
func unsynced(file string) (*bolt.DB, error) {
	return bolt.Open(file, 0o600, &bolt.Options{NoSync: true, NoGrowSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
}

func (h *history) collect(ctx context.Context) error {
	_, err := h.store.GarbageCollect(namespaces.WithNamespace(ctx, historyNamespace))
	return err
}

func (h *history) close() error { return h.store.Close() }

// isHistory tells whose a call is.
func isHistory(ctx context.Context) bool {
	ns, _ := namespaces.Namespace(ctx)
	return ns == historyNamespace
}

// blobsOf is the engine's content store, and the history's for what is its.
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

// leasesOf is the same for leases.
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

// mark is there while the builder is open; it holds the id of the boot.
func mark(root string) string { return filepath.Join(root, "open") }

func bootID() []byte {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return []byte("unknown\n")
	}
	return id
}

// databases are written without a sync while the builder is open.
var databases = []string{"metadata_v2.db", "cache.db", "history.db", "history-meta.db"}

// end takes the mark away when everything is on the disk.
func end(root string) error {
	for _, name := range databases {
		f, err := os.Open(filepath.Join(root, name))
		if err != nil {
			return err
		}
		err = f.Sync()
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	return os.Remove(mark(root))
}

// begin marks the builder as open. After a crash of the machine, in which the
// databases may have been torn, it begins with an empty cache: they go, and the
// leases by which their records held layers.
func begin(ctx context.Context, root string, store *enginecontent.Store) error {
	was, err := os.ReadFile(mark(root))
	if err == nil && string(was) == string(bootID()) {
		return nil // a killed engine's: the kernel has all that it wrote
	}
	if err == nil {
		for _, name := range append([]string{"history"}, databases...) {
			if err := os.RemoveAll(filepath.Join(root, name)); err != nil {
				return err
			}
		}
		ctx = enginecontent.With(ctx)
		list, err := store.Leases().List(ctx, `labels."containerd.io/gc.flat"`)
		if err != nil {
			return err
		}
		for _, l := range list {
			if err := store.Leases().Delete(ctx, l); err != nil {
				return err
			}
		}
	}
	// Before anything is written that may be torn.
	return atomicfile.Write(mark(root), bootID(), 0o600, atomicfile.Synced)
}

// historyID is what lists of the cache call the history of builds.
const historyID = "history"

// usage is the history as a line of the account of the cache, nil when there
// is none. It goes with `wherry history rm` and by its age, not with a prune.
func (h *history) usage(ctx context.Context) (*client.UsageInfo, error) {
	u := &client.UsageInfo{ID: historyID, RecordType: client.UsageRecordTypeInternal, Description: "logs and provenance of finished builds", InUse: true}
	err := h.blobs.Walk(ctx, func(i content.Info) error {
		u.Size += i.Size
		if u.CreatedAt.IsZero() || i.CreatedAt.Before(u.CreatedAt) {
			u.CreatedAt = i.CreatedAt
		}
		return nil
	})
	if err != nil || u.Size == 0 {
		return nil, err
	}
	return u, nil
}

// DiskUsage is the account that BuildKit's clients see.
func (w *ownWorker) DiskUsage(ctx context.Context, o client.DiskUsageInfo) ([]*client.UsageInfo, error) {
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
	u, err := w.engine.history.usage(ctx)
	if err == nil && u != nil {
		list = append(list, u)
	}
	return list, err
}
