// Package content owns the blobs of the data root and the metadata database
// that says which of them, and which unpacked layers, are needed.
//
//	<root>/content/blobs/sha256/<hex>   blobs, read-only
//	<root>/content/thin/<hex>           blobs that are put together of a layer's files; see thin
//	<root>/content/ingest/<hash>/       blobs that are being written
//	<root>/content/open                 there while an engine runs: found at start, the last one crashed
//	<root>/meta.db                      bbolt, containerd's schema v1, synced
//
// In meta.db everything lies in the one namespace "wherry": image records
// (roots), blobs with gc.ref labels, snapshots by chain id, leases (roots).
// Temporary leases are there only once something is written under them (light).
// Whatever is not reached from a root goes with the next collection. Migration
// is containerd's.
package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/wherry-engine/wherry/internal/content/thin"
	"github.com/wherry-engine/wherry/internal/id"
)

// Namespace is the one that all records lie in.
const Namespace = "wherry"

// labelTemporary marks leases that are worthless once their process is gone.
const labelTemporary = "wherry.temporary"

// Store is safe for use by several goroutines. Contexts need no namespace:
// every method adds it; for the containerd interfaces it hands out, use With.
type Store struct {
	db     *metadata.DB
	bolt   *bolt.DB
	blobs  content.Store
	files  *thin.Store // below the database
	leases *light
	images images.Store
	mark   string
	names  []string // of snapshotters
	stale  []leases.Lease
	crash  bool
	resume resumable
}

// With returns ctx with the store's namespace.
func With(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, Namespace)
}

// Open opens the store below root; the snapshotters, by name, are collected
// together with the blobs. It removes nothing: see Recover.
func Open(ctx context.Context, root string, sn map[string]snapshots.Snapshotter) (_ *Store, err error) {
	dir := filepath.Join(root, "content")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file := filepath.Join(root, "meta.db")
	db, err := bolt.Open(file, 0o600, &bolt.Options{Timeout: 2 * time.Second, FreelistType: bolt.FreelistMapType, NoFreelistSync: true})
	if err != nil {
		if errors.Is(err, bolterrors.ErrTimeout) {
			return nil, errdefs.ErrFailedPrecondition.WithMessage(file + " is in use by another process")
		}
		return nil, fmt.Errorf("open %s: %w", file, err)
	}
	defer func() {
		if err != nil {
			db.Close()
		}
	}()
	whole, err := openBlobs(dir)
	if err != nil {
		return nil, err
	}
	blobs, err := thin.Open(whole, filepath.Join(dir, "thin"), root)
	if err != nil {
		return nil, err
	}
	s := &Store{db: metadata.NewDB(db, blobs, sn), bolt: db, files: blobs, mark: filepath.Join(dir, "open")}
	if err := s.db.Init(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for name := range sn {
		s.names = append(s.names, name)
	}
	s.leases = &light{Manager: metadata.NewLeaseManager(s.db)}
	s.db.RegisterCollectibleResource(nodeLight, s.leases)
	s.blobs, s.images = leasedBlobs{s.db.ContentStore(), s.leases}, metadata.NewImageStore(s.db)
	if s.stale, err = s.leases.List(With(ctx), fmt.Sprintf("labels.%q", labelTemporary)); err != nil {
		return nil, err
	}
	if _, err := os.Stat(s.mark); err == nil {
		s.crash = true
		if err := dropTorn(filepath.Join(dir, "ingest")); err != nil {
			return nil, err
		}
	}
	return s, os.WriteFile(s.mark, nil, 0o600)
}

// openBlobs opens the blob directory without the warning that its file system
// has no fs-verity: few have, and nothing here needs it.
func openBlobs(dir string) (content.Store, error) {
	was := log.GetLevel()                         //nolint:forbidigo // the library logs here
	if err := log.SetLevel("error"); err != nil { //nolint:forbidigo // the library logs here
		return nil, err
	}
	defer log.SetLevel(was.String()) //nolint:errcheck,forbidigo // it was a level before
	return local.NewStore(dir)
}

// dropTorn deletes ingests that were killed before their name was written or
// after it was deleted, for the collector goes by the name.
func dropTorn(dir string) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range list {
		ref, rerr := os.ReadFile(filepath.Join(dir, e.Name(), "ref"))
		if rerr == nil && digest.FromBytes(ref).Encoded() == e.Name() {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return err
}

// Close waits for a running collection and closes the database. What is still
// held then, by a lease that ends by time, is for the next process to collect.
func (s *Store) Close() error {
	err := s.db.Close()
	if err == nil && !s.leases.any() {
		err = os.Remove(s.mark)
	}
	return err
}

// Blobs is the content store; call it with a context made by With.
func (s *Store) Blobs() content.Store { return s.blobs }

// Images is the table of image records, the roots of collection.
func (s *Store) Images() images.Store { return s.images }

// Leases is the lease manager.
func (s *Store) Leases() leases.Manager { return s.leases }

// Snapshotter returns the named snapshotter as the database sees it.
func (s *Store) Snapshotter(name string) snapshots.Snapshotter {
	return leasedLayers{s.db.Snapshotter(name), s.leases}
}

// Recover drops what an earlier process left half-made; collect is Collect, or
// does more. It may run beside everything else.
func (s *Store) Recover(ctx context.Context, collect func(context.Context) error) error {
	ctx = With(ctx)
	for _, l := range s.stale {
		if err := s.leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	if err := s.Forget(ctx, time.Now().Add(-ResumeFor)); err != nil {
		return err
	}
	if !s.crash && len(s.stale) == 0 {
		return nil
	}
	if err := s.reclaim(ctx); err != nil {
		return err
	}
	// A collection looks for files that no record names only where something
	// was collected, so give it something in each store.
	leased, done, err := s.Lease(ctx)
	if err != nil {
		return err
	}
	_, err = s.WriteBytes(leased, "", []byte("recover"))
	done()
	if err != nil {
		return err
	}
	const ref = "recover"
	for _, name := range s.names {
		sn := s.db.Snapshotter(name)
		if _, err := sn.Prepare(ctx, ref, ""); err != nil && !errdefs.IsAlreadyExists(err) {
			return err
		}
		if err := sn.Remove(ctx, ref); err != nil {
			return err
		}
	}
	return collect(ctx)
}

// Collect removes every blob, ingest and snapshot that no root reaches.
func (s *Store) Collect(ctx context.Context) error {
	_, err := s.db.GarbageCollect(With(ctx))
	return err
}

// Lease returns a context under which everything that is written stays, until
// done is called or the process ends.
func (s *Store) Lease(ctx context.Context) (_ context.Context, done func(), err error) {
	ctx = With(ctx)
	l, err := s.leases.Create(ctx, leases.WithID("tmp-"+id.New()[:24]), leases.WithLabel(labelTemporary, "1"))
	if err != nil {
		return nil, nil, err
	}
	return leases.WithLease(ctx, l.ID), func() {
		// An error leaves the lease to Recover; there is nothing else to do about it.
		s.leases.Delete(context.WithoutCancel(ctx), l) //nolint:errcheck // see above
	}, nil
}

// Hold adds a blob or snapshot that may exist already to the lease in ctx.
func (s *Store) Hold(ctx context.Context, resource leases.Resource) error {
	name, ok := leases.FromContext(ctx)
	if !ok {
		return nil
	}
	return s.leases.AddResource(ctx, leases.Lease{ID: name}, resource)
}

// Write stores what r yields and returns its descriptor. With want.Digest set
// the content must match it; a blob that is there already is not read again,
// and fresh tells. An error leaves nothing behind.
func (s *Store) Write(ctx context.Context, r io.Reader, want ocispec.Descriptor, opts ...content.Opt) (_ ocispec.Descriptor, fresh bool, err error) {
	ctx = With(ctx)
	ref := "write-" + id.New()
	w, err := s.blobs.Writer(ctx, content.WithRef(ref), content.WithDescriptor(want))
	if errdefs.IsAlreadyExists(err) {
		info, err := s.blobs.Info(ctx, want.Digest)
		want.Size = info.Size
		return want, false, err
	}
	if err != nil {
		return want, false, err
	}
	defer w.Close()
	clean := context.WithoutCancel(ctx)
	// A crash can leave a file that has no record. The writer begins with what
	// is in it, and to that r would be appended.
	var n int64
	if err = w.Truncate(0); err == nil {
		n, err = copyContext(ctx, w, r)
	}
	if err == nil {
		if got := w.Digest(); want.Digest != "" && got != want.Digest {
			err = errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("content does not match its digest: expected %s, got %s", want.Digest, got))
		} else if want.Size > 0 && n != want.Size {
			err = errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("content %s has %d bytes, expected %d", got, n, want.Size))
		}
	}
	if err != nil {
		w.Close()
		s.blobs.Abort(clean, ref) //nolint:errcheck // the commit's error is the one to tell // collected otherwise
		return want, false, err
	}
	want.Digest, want.Size = w.Digest(), n
	if err := w.Commit(ctx, n, want.Digest, opts...); err != nil && !errdefs.IsAlreadyExists(err) {
		s.blobs.Abort(clean, ref) //nolint:errcheck // the commit's error is the one to tell
		return want, false, fmt.Errorf("store %s: %w", want.Digest, err)
	}
	return want, true, nil
}

// WriteBytes is Write for a small document.
func (s *Store) WriteBytes(ctx context.Context, mediaType string, b []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	_, _, err := s.Write(ctx, bytes.NewReader(b), d)
	return d, err
}

func copyContext(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	var total int64
	buf := make([]byte, 512<<10)
	for {
		if err := context.Cause(ctx); err != nil {
			return total, err
		}
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return total, werr
			}
			total += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// Read returns a whole blob, refusing one of more than limit bytes.
func (s *Store) Read(ctx context.Context, d digest.Digest, limit int64) ([]byte, error) {
	ra, err := s.blobs.ReaderAt(With(ctx), ocispec.Descriptor{Digest: d})
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	if ra.Size() > limit {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s has %d bytes, more than the %d that are read at a time", d, ra.Size(), limit))
	}
	b := make([]byte, ra.Size())
	if _, err := ra.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

// Reader streams a blob.
func (s *Store) Reader(ctx context.Context, d digest.Digest) (io.ReadCloser, int64, error) {
	ra, err := s.blobs.ReaderAt(With(ctx), ocispec.Descriptor{Digest: d})
	if err != nil {
		return nil, 0, err
	}
	return struct {
		io.Reader
		io.Closer
	}{content.NewReader(ra), ra}, ra.Size(), nil
}

// Open opens a blob for reading at any place.
func (s *Store) Open(ctx context.Context, d digest.Digest) (content.ReaderAt, error) {
	return s.blobs.ReaderAt(With(ctx), ocispec.Descriptor{Digest: d})
}

// Size returns what a blob takes on the disk, in bytes, or errdefs.ErrNotFound.
func (s *Store) Size(ctx context.Context, d digest.Digest) (int64, error) {
	info, err := s.blobs.Info(With(ctx), d)
	return onDisk(info), err
}

// Label sets labels on a blob; others stay.
func (s *Store) Label(ctx context.Context, d digest.Digest, labels map[string]string) error {
	if len(labels) == 0 {
		return nil
	}
	ctx = With(ctx)
	info, err := s.blobs.Info(ctx, d)
	if err != nil {
		return err
	}
	var paths []string
	for k, v := range labels {
		if was, ok := info.Labels[k]; !ok || was != v {
			paths = append(paths, "labels."+k)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	_, err = s.blobs.Update(ctx, content.Info{Digest: d, Labels: labels}, paths...)
	return err
}

// Update runs fn in one transaction of the database. The context that fn gets
// must be used for the calls that are to be part of it; it holds no lock of
// blobs or snapshots, so fn may touch image records and leases only.
func (s *Store) Update(ctx context.Context, fn func(context.Context) error) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		return fn(boltutil.WithTransaction(With(ctx), tx))
	})
}

// Labels returns a blob's labels.
func (s *Store) Labels(ctx context.Context, d digest.Digest) (map[string]string, error) {
	info, err := s.blobs.Info(With(ctx), d)
	return info.Labels, err
}

// Total returns what all blobs take on the disk, with what there is of unfinished ones.
func (s *Store) Total(ctx context.Context) (n int64, err error) {
	ctx = With(ctx)
	if err := s.blobs.Walk(ctx, func(info content.Info) error {
		n += onDisk(info)
		return nil
	}); err != nil {
		return 0, err
	}
	unfinished, err := s.blobs.ListStatuses(ctx)
	for _, st := range unfinished {
		n += st.Offset
	}
	return n, err
}
