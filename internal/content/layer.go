package content

import (
	"context"
	"fmt"
	"strconv"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content/thin"
	"github.com/wherry-engine/wherry/internal/id"
)

// labelThin on a blob says what a thin one takes on the disk, in bytes.
const labelThin = "wherry.thin"

// onDisk is what a blob takes on the disk.
func onDisk(info content.Info) int64 {
	if n, err := strconv.ParseInt(info.Labels[labelThin], 10, 64); err == nil {
		return n
	}
	return info.Size
}

// Thin reports whether the blob has its bytes from a layer's files, and how many
// of its bytes are not its own then.
func Thin(info content.Info) (others int64, yes bool) {
	_, yes = info.Labels[labelThin]
	return info.Size - onDisk(info), yes
}

// Check tells whether a blob is damaged, as far as a look shows it: whether it is
// on the disk, as long as it was, and what a thin one needs as well. A blob that
// the store does not know of is errdefs.ErrNotFound, a damaged one is not.
func (s *Store) Check(ctx context.Context, d digest.Digest) error {
	info, err := s.blobs.Info(With(ctx), d)
	if err != nil {
		return err
	}
	ra, err := s.Open(ctx, d)
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("blob %s is not on the disk any more", d)
	}
	if err != nil {
		return err
	}
	defer ra.Close()
	if ra.Size() != info.Size {
		return fmt.Errorf("blob %s has %d bytes on the disk, and not %d", d, ra.Size(), info.Size)
	}
	if c, ok := ra.(interface{ Check(context.Context) error }); ok {
		err = c.Check(ctx)
	}
	return err
}

// Archive begins the archive of a layer, without the contents of its files: they
// are in the directory.
func (s *Store) Archive(dir string) (*thin.Writer, error) { return s.files.Create(dir) }

// AddArchive adds a finished one, durably, for as long as the lease in ctx or
// others want it. The snapshot that has the files stays with it; to make them
// durable is up to the caller.
func (s *Store) AddArchive(ctx context.Context, b *thin.Blob, snapshotter, snapshot string) (ocispec.Descriptor, error) {
	defer b.Discard()
	ctx = thin.Adding(With(ctx), b)
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: b.Digest, Size: b.Size}
	ref := "thin-" + id.New()
	w, err := s.blobs.Writer(ctx, content.WithRef(ref), content.WithDescriptor(d))
	if errdefs.IsAlreadyExists(err) {
		return d, nil
	}
	if err != nil {
		return d, err
	}
	defer w.Close()
	err = w.Commit(ctx, b.Size, b.Digest, content.WithLabels(map[string]string{
		labels.LabelUncompressed: b.Digest.String(), labelThin: strconv.FormatInt(b.Disk, 10),
		"containerd.io/gc.ref.snapshot." + snapshotter: snapshot,
	}))
	if err == nil || errdefs.IsAlreadyExists(err) {
		return d, nil
	}
	s.blobs.Abort(context.WithoutCancel(ctx), ref) //nolint:errcheck // the commit's error is the one to tell
	return d, err
}
