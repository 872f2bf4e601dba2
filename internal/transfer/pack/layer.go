package pack

import (
	"bytes"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// chunkSize is how much of a compressed layer is sent at a time; two of them
	// are in memory.
	chunkSize = 4 << 20
	// maxChunk is the most that a registry may want at a time.
	maxChunk = 128 << 20
)

// Layer is the compressed form of a plain layer as it comes into being. What a
// registry has lost of it is made again. It is used by one goroutine.
type Layer struct {
	Form   Form
	Digest digest.Digest // of the plain blob
	Open   func() (io.ReadCloser, error)

	in     io.Closer
	stream *Stream
	from   int64 // where the chunk lies
	chunk  []byte
	last   bool
}

// Descriptor is the compressed blob's digest and size, once Next has said last.
func (l *Layer) Descriptor() ocispec.Descriptor { return l.stream.Descriptor() }

// Close ends the compressor.
func (l *Layer) Close() {
	if l.stream != nil {
		l.stream.Close()
		l.in.Close()
		l.stream, l.chunk, l.last, l.from = nil, nil, false, 0
	}
}

// Next returns what follows the first at bytes, n of them and least or more
// unless the end comes before, and whether nothing follows these. The body is
// good until the call after.
func (l *Layer) Next(at, least int64) (body func() io.Reader, n int64, last bool, err error) {
	if least > maxChunk {
		return nil, 0, false, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the registry wants chunks of at least %d bytes, more than %d", least, maxChunk))
	}
	if at < l.from {
		l.Close()
	}
	if l.stream == nil {
		in, err := l.Open()
		if err != nil {
			return nil, 0, false, err
		}
		l.in, l.stream = in, l.Form.Start(in, l.Digest, chunkSize)
	}
	for !l.last {
		end := l.from + int64(len(l.chunk))
		if end > at && end-at >= least {
			break
		}
		from, kept := end, []byte(nil)
		if at < end {
			from, kept = at, slices.Clone(l.chunk[at-l.from:])
		}
		b, last, err := l.stream.Next()
		if err != nil {
			return nil, 0, false, err
		}
		if kept != nil {
			b = append(kept, b...)
		}
		l.from, l.chunk, l.last = from, b, last
	}
	b := l.chunk[at-l.from:]
	return func() io.Reader { return bytes.NewReader(b) }, int64(len(b)), l.last, nil
}
