package history

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// journal is a store of blobs that are written without waiting for the disk,
// for the history of builds.
type journal struct {
	content.Store
	root string
}

func openJournal(root string) (*journal, error) {
	s, err := local.NewStore(root)
	if err != nil {
		return nil, err
	}
	j := &journal{s, root}
	// What a killed engine was writing.
	if err := os.RemoveAll(j.unfinished()); err != nil {
		return nil, err
	}
	return j, errors.Join(os.MkdirAll(j.unfinished(), 0o700), os.MkdirAll(j.blobs(), 0o700))
}

// blobs is where finished ones are; the library lists it and expects it to be there.
func (j *journal) blobs() string { return filepath.Join(j.root, "blobs", digest.Canonical.String()) }

// held is how many bytes the finished ones have, and when the first was written.
// They may go meanwhile, which the library's Walk takes for an error.
func (j *journal) held(ctx context.Context) (n int64, first time.Time, err error) {
	list, err := os.ReadDir(j.blobs())
	if err != nil {
		return 0, first, err
	}
	for _, e := range list {
		if err := ctx.Err(); err != nil {
			return 0, first, err
		}
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, first, err
		}
		n += info.Size()
		if at := info.ModTime(); first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return n, first, nil
}

func (j *journal) unfinished() string { return filepath.Join(j.root, "unfinished") }

// Writer begins a blob. It cannot be taken up again: nothing tries to.
func (j *journal) Writer(_ context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	f, err := os.CreateTemp(j.unfinished(), "blob")
	if err != nil {
		return nil, err
	}
	return &journalWriter{j: j, f: f, hash: digest.Canonical.Hash(), st: content.Status{Ref: o.Ref, Total: o.Desc.Size, StartedAt: time.Now()}}, nil
}

// journalWriter writes one blob.
type journalWriter struct {
	j      *journal
	f      *os.File
	hash   hash.Hash
	st     content.Status
	closed bool
}

func (w *journalWriter) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	w.hash.Write(p[:n])
	w.st.Offset += int64(n)
	w.st.UpdatedAt = time.Now()
	return n, err
}

// Digest is that of what was written so far.
func (w *journalWriter) Digest() digest.Digest { return digest.NewDigest(digest.Canonical, w.hash) }

// Status tells how much was written.
func (w *journalWriter) Status() (content.Status, error) { return w.st, nil }

// Truncate begins anew.
func (w *journalWriter) Truncate(size int64) error {
	if size != 0 {
		return errdefs.ErrInvalidArgument.WithMessage("a blob of the history can only be cut to nothing")
	}
	w.hash.Reset()
	w.st.Offset = 0
	if _, err := w.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return w.f.Truncate(0)
}

// Close gives the blob up unless it was committed.
func (w *journalWriter) Close() error {
	if w.closed {
		return nil
	}
	w.closed = true
	return errors.Join(w.f.Close(), os.Remove(w.f.Name()))
}

// Commit gives the blob its name.
func (w *journalWriter) Commit(_ context.Context, size int64, expected digest.Digest, _ ...content.Opt) error {
	if w.closed {
		return errdefs.ErrFailedPrecondition.WithMessage("cannot commit on closed writer")
	}
	got := w.Digest()
	target := filepath.Join(w.j.blobs(), got.Encoded())
	_, err := os.Stat(target)
	switch {
	case size > 0 && size != w.st.Offset, expected != "" && expected != got:
		err = errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("unexpected blob %s of %d bytes, expected %s of %d", got, w.st.Offset, expected, size))
	case err == nil:
		err = errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("content %s: already exists", got))
	case errors.Is(err, os.ErrNotExist):
		w.closed = true
		return errors.Join(w.f.Close(), os.Rename(w.f.Name(), target))
	}
	return errors.Join(err, w.Close())
}
