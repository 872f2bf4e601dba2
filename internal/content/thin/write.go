package thin

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/wherry-engine/wherry/internal/id"
)

// Writer makes a blob of an archive that passes through it. It is not safe for
// use by several goroutines.
type Writer struct {
	f      *os.File
	layer  string
	out    *zstd.Encoder
	digest hash.Hash
	piece  []byte
	size   int64
	inside int64 // bytes of the file's content that are still to come
	err    error
}

// Create begins a blob of the archive of a layer, which is a directory below
// the data root.
func (s *Store) Create(layer string) (*Writer, error) {
	rel, err := filepath.Rel(s.root, layer)
	if err != nil || !filepath.IsLocal(rel) || len(rel) > nameSize {
		return nil, fmt.Errorf("layer %s is not below %s", layer, s.root)
	}
	f, err := os.OpenFile(filepath.Join(s.dir, unfinished+id.New()[:24]), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return nil, err
	}
	w := &Writer{f: f, layer: rel, digest: digest.SHA256.Hash()}
	if _, err = f.Write(header(0, rel)); err == nil {
		w.out, err = zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	}
	if err != nil {
		w.Abort()
		return nil, err
	}
	return w, nil
}

// Write takes the next bytes of the archive: of the file that was announced,
// as far as it has any left, else of what is kept.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.digest.Write(p) //nolint:errcheck // it never fails
	w.size += int64(len(p))
	all := len(p)
	n := min(int64(len(p)), w.inside)
	w.inside -= n
	for p = p[n:]; len(p) > 0; {
		n := min(len(p), pieceSize-len(w.piece))
		w.piece = append(w.piece, p[:n]...)
		if p = p[n:]; len(w.piece) == pieceSize {
			w.flush("", 0)
		}
	}
	return all, w.err
}

// File announces that the next size bytes are the content of a file of the
// layer, by its path from the layer's directory.
func (w *Writer) File(name string, size int64) error {
	if w.inside > 0 {
		return errors.New("a file within a file")
	}
	if !filepath.IsLocal(name) || len(name) > nameSize || strings.ContainsRune(name, 0) {
		return fmt.Errorf("file %q cannot be referred to", name)
	}
	if w.flush(name, size); w.err == nil {
		w.inside = size
	}
	return w.err
}

// flush writes a piece and the file after it, if there is one.
func (w *Writer) flush(name string, size int64) {
	b := binary.AppendUvarint(nil, uint64(len(w.piece)))
	b = append(b, w.piece...)
	b = binary.AppendUvarint(b, uint64(len(name)))
	b = append(b, name...)
	b = binary.AppendUvarint(b, uint64(size))
	_, err := w.out.Write(b)
	w.err = errors.Join(w.err, err)
	w.piece = w.piece[:0]
}

// Finish makes what was written durable. The layer's files are somebody else's.
func (w *Writer) Finish() (_ *Blob, err error) {
	defer func() {
		if err != nil {
			w.Abort()
		}
	}()
	if w.inside > 0 {
		return nil, errors.New("the archive ends within a file")
	}
	if w.flush("", 0); w.err != nil {
		return nil, w.err
	}
	if err := w.out.Close(); err != nil {
		return nil, err
	}
	if _, err := w.f.WriteAt(header(w.size, w.layer), 0); err != nil {
		return nil, err
	}
	if err := w.f.Sync(); err != nil {
		return nil, err
	}
	st, err := w.f.Stat()
	if err != nil {
		return nil, err
	}
	b := &Blob{Digest: digest.NewDigest(digest.SHA256, w.digest), Size: w.size, Disk: st.Size(), name: w.f.Name()}
	return b, w.f.Close()
}

// Abort drops what was written.
func (w *Writer) Abort() {
	w.f.Close()
	os.Remove(w.f.Name()) //nolint:errcheck // the next start removes it
}
