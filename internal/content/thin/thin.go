// Package thin owns blobs whose bytes are for the most part on the disk
// already: archives of unpacked layers. Of such a blob it keeps what the archive
// has besides the contents of files, and which files these are. Reading it puts
// both together again; no byte is written twice.
//
//	<dir>/<hex of the sha256>   a blob, read-only
//	<dir>/new-<id>              one that is being made; what an earlier process left goes at Open
//
// A file is a header (magic, size of the blob, directory of the layer relative
// to the data root, as data roots move) and, compressed by zstd with a checksum,
// any number of pieces: bytes of the archive, each followed by the name of a file
// of the layer whose content comes next. Format 1.
//
// The layer's files must not change and must stay as long as the blob: whoever
// adds one gives it a reference to the snapshot.
package thin

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/atomicfile"
)

const (
	magic      = "wherry thin blob 1\n"
	unfinished = "new-"
	// pieceSize is how many bytes a piece has at most.
	pieceSize = 1 << 20
	// nameSize is how long the name of a file may be.
	nameSize = 4096
)

// below is a store of whole blobs. The collector asks the second method for
// unfinished ones, some of which a crash may have torn.
type below interface {
	content.Store
	WalkStatusRefs(ctx context.Context, fn func(ref string) error) error
}

// Store is a content store below the database that also has thin blobs. Blobs
// that are whole come first, and Info is of these alone: the database asks before
// it takes a blob that no record names for the one that is to be written, and the
// layer of a thin one may be on its way out.
type Store struct {
	below
	dir  string // of the thin blobs
	root string // what layers are relative to
}

// Open adds the thin blobs of a directory to a store; layers are below root.
func Open(whole content.Store, dir, root string) (*Store, error) {
	files, ok := whole.(below)
	if !ok {
		return nil, fmt.Errorf("a content store of type %T cannot be added to", whole)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), unfinished) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return &Store{below: files, dir: dir, root: root}, nil
}

func (s *Store) path(d digest.Digest) string { return filepath.Join(s.dir, d.Encoded()) }

// ReaderAt opens a blob. A thin one is best read from its start to its end.
func (s *Store) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	ra, err := s.below.ReaderAt(ctx, desc)
	if !errdefs.IsNotFound(err) || desc.Digest.Validate() != nil || desc.Digest.Algorithm() != digest.SHA256 {
		return ra, err
	}
	r, rerr := open(s.path(desc.Digest), s.root)
	if errors.Is(rerr, fs.ErrNotExist) {
		return nil, err
	}
	if rerr != nil {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, rerr)
	}
	return r, nil
}

// Walk goes through all blobs, for the collector.
func (s *Store) Walk(ctx context.Context, fn content.WalkFunc, filters ...string) error {
	if err := s.below.Walk(ctx, fn, filters...); err != nil {
		return err
	}
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		d := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
		if d.Validate() != nil {
			continue
		}
		if err := fn(content.Info{Digest: d}); err != nil {
			return err
		}
	}
	return nil
}

// Delete removes a blob, whole and thin.
func (s *Store) Delete(ctx context.Context, d digest.Digest) error {
	err := s.below.Delete(ctx, d)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	rerr := os.Remove(s.path(d))
	if errors.Is(rerr, fs.ErrNotExist) {
		return err
	}
	return rerr
}

// Blob is a finished one that is not in the store yet.
type Blob struct {
	Digest digest.Digest
	Size   int64 // of the archive, in bytes
	Disk   int64 // what it takes on the disk
	name   string
}

// Discard removes what is left of a blob, if it was not added.
func (b *Blob) Discard() {
	os.Remove(b.name) //nolint:errcheck // it was added, or the next start removes it
}

type adding struct{}

// Adding gives a context in which the store's Writer commits the blob, and
// takes no bytes. That is the way to it through the metadata database.
func Adding(ctx context.Context, b *Blob) context.Context {
	return context.WithValue(ctx, adding{}, b)
}

// Writer opens a blob for writing; see Adding.
func (s *Store) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	b, ok := ctx.Value(adding{}).(*Blob)
	if !ok {
		return s.below.Writer(ctx, opts...)
	}
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	return &commit{store: s, blob: b, ref: o.Ref, began: time.Now()}, nil
}

// Abort forgets an ingest; one of Adding has none.
func (s *Store) Abort(ctx context.Context, ref string) error {
	err := s.below.Abort(ctx, ref)
	if _, ok := ctx.Value(adding{}).(*Blob); ok && errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// commit is the writer of a blob that is there already.
type commit struct {
	store *Store
	blob  *Blob
	ref   string
	began time.Time
}

func (c *commit) Write([]byte) (int, error) {
	return 0, errdefs.ErrFailedPrecondition.WithMessage("the blob is finished")
}

func (c *commit) Close() error { return nil }

func (c *commit) Digest() digest.Digest { return c.blob.Digest }

func (c *commit) Truncate(int64) error { return nil }

func (c *commit) Status() (content.Status, error) {
	return content.Status{Ref: c.ref, Offset: c.blob.Size, Total: c.blob.Size, StartedAt: c.began, UpdatedAt: c.began}, nil
}

// Commit gives the blob its name, durably.
func (c *commit) Commit(_ context.Context, size int64, expected digest.Digest, _ ...content.Opt) error {
	if size != 0 && size != c.blob.Size || expected != "" && expected != c.blob.Digest {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("blob %s of %d bytes, expected %s of %d", c.blob.Digest, c.blob.Size, expected, size))
	}
	if err := os.Rename(c.blob.name, c.store.path(c.blob.Digest)); err != nil {
		return err
	}
	return atomicfile.SyncDir(c.store.dir)
}

// header is what a file begins with.
func header(size int64, layer string) []byte {
	b := []byte(magic)
	b = binary.BigEndian.AppendUint64(b, uint64(size))
	b = binary.BigEndian.AppendUint16(b, uint16(len(layer)))
	return append(b, layer...)
}

// readHeader is its reverse.
func readHeader(r io.Reader) (size int64, layer string, err error) {
	b := make([]byte, len(magic)+8+2)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, "", fmt.Errorf("its file is damaged: %w", err)
	}
	if string(b[:len(magic)]) != magic {
		return 0, "", errors.New("its file has an unknown format")
	}
	b = b[len(magic):]
	size = int64(binary.BigEndian.Uint64(b))
	name := make([]byte, binary.BigEndian.Uint16(b[8:]))
	if _, err := io.ReadFull(r, name); err != nil {
		return 0, "", fmt.Errorf("its file is damaged: %w", err)
	}
	if size < 0 || !filepath.IsLocal(string(name)) {
		return 0, "", errors.New("its file is damaged")
	}
	return size, string(name), nil
}
