// Package archive reads the compressed forms that image archives come in. It
// owns the detection by content: names and media types are claims, not facts.
package archive

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Compression is a form of compression, named as people name it.
type Compression string

// What Detect knows.
const (
	None  Compression = ""
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
	XZ    Compression = "xz"
	Bzip2 Compression = "bzip2"
)

// magics are the first bytes of each form.
var magics = []struct {
	c     Compression
	bytes []byte
}{
	{Gzip, []byte{0x1f, 0x8b, 0x08}},
	{Zstd, []byte{0x28, 0xb5, 0x2f, 0xfd}},
	{XZ, []byte{0xfd, '7', 'z', 'X', 'Z', 0}},
	{Bzip2, []byte("BZh")},
}

// HeadLen is how many bytes Detect wants to see.
const HeadLen = 10

// maxWindow bounds the memory that a zstd stream may ask for.
const maxWindow = 256 << 20

// Detect tells the compression from a stream's first bytes. A zstd skippable
// frame, as parallel compressors put in front, counts as zstd.
func Detect(head []byte) Compression {
	for _, m := range magics {
		if bytes.HasPrefix(head, m.bytes) {
			return m.c
		}
	}
	if len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}) {
		return Zstd
	}
	return None
}

// Decompress returns the plain content of r, whatever r's compression is. The
// reader must be closed; closing does not close r. Memory stays flat.
func Decompress(r io.Reader) (io.ReadCloser, Compression, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(HeadLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, None, err
	}
	c := Detect(head)
	rc, err := open(c, b)
	if err != nil {
		return nil, c, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s stream: %v", c, err))
	}
	return rc, c, nil
}

func open(c Compression, r io.Reader) (io.ReadCloser, error) {
	switch c {
	case Gzip:
		return gzip.NewReader(r)
	case Zstd:
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case XZ:
		d, err := xz.NewReader(r)
		return io.NopCloser(d), err
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(r)), nil
	}
	return io.NopCloser(r), nil
}
