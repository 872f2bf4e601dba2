package pack

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Stream is a layer that is being compressed, while what came before is sent.
// It is used by one goroutine, and must be closed.
type Stream struct {
	full  chan chunk // closed when the compressor has ended; err is set then
	free  chan []byte
	stop  chan struct{}
	taken []byte

	err error
	out ocispec.Descriptor // before the last chunk is sent
}

type chunk struct {
	bytes []byte
	last  bool
}

// Start begins to compress a plain blob into chunks of size bytes. want is the
// blob's digest: what is on the disk is checked on the way.
func (f Form) Start(plain io.Reader, want digest.Digest, size int) *Stream {
	s := &Stream{full: make(chan chunk), free: make(chan []byte, 2), stop: make(chan struct{})}
	for range cap(s.free) {
		s.free <- make([]byte, 0, size)
	}
	go func() {
		defer close(s.full)
		s.err = s.run(f, plain, want)
	}()
	return s
}

func (s *Stream) run(f Form, plain io.Reader, want digest.Digest) error {
	cut := &cutter{s: s, sum: sha256.New()}
	z, err := f.writer(cut)
	if err != nil {
		return err
	}
	check := want.Algorithm().Hash()
	_, err = io.CopyBuffer(io.MultiWriter(z, check), &stoppable{plain, s.stop}, make([]byte, 256<<10))
	if got := digest.NewDigest(want.Algorithm(), check); err == nil && got != want {
		err = fmt.Errorf("layer %s on the disk does not have this digest any more", want)
	}
	if err != nil {
		cut.over.Store(true) // the rest is of no use, but the compressor must end
	}
	if cerr := z.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	s.out = ocispec.Descriptor{Digest: digest.NewDigest(digest.SHA256, cut.sum), Size: cut.n}
	cut.send(true)
	return nil
}

// Next returns the next chunk, which is the caller's until the call after, and
// whether it is the last. It must not be called again after that or an error.
func (s *Stream) Next() (b []byte, last bool, err error) {
	if s.taken != nil {
		s.free <- s.taken[:0]
		s.taken = nil
	}
	c, ok := <-s.full
	if !ok {
		return nil, false, s.err
	}
	s.taken = c.bytes
	return c.bytes, c.last, nil
}

// Descriptor is the compressed blob's digest and size, once its last chunk is out.
func (s *Stream) Descriptor() ocispec.Descriptor { return s.out }

// Close returns when the compressor has ended.
func (s *Stream) Close() {
	close(s.stop)
	for range s.full {
		continue
	}
}

var errStopped = errors.New("the compressor was stopped")

// stoppable ends when nobody wants the stream any more.
type stoppable struct {
	r    io.Reader
	stop chan struct{}
}

func (s *stoppable) Read(b []byte) (int, error) {
	select {
	case <-s.stop:
		return 0, errStopped
	default:
		return s.r.Read(b)
	}
}

// cutter takes what a compressor writes. It never fails: a compressor that
// works with several goroutines ends them only when it is closed in order.
type cutter struct {
	s    *Stream
	b    []byte
	n    int64
	sum  hash.Hash
	over atomic.Bool // what comes is thrown away
}

func (c *cutter) Write(p []byte) (int, error) {
	n := len(p)
	if c.over.Load() {
		return n, nil
	}
	c.sum.Write(p)
	c.n += int64(n)
	for len(p) > 0 {
		// A full chunk waits for more, for the last one must be known as such.
		if c.b != nil && len(c.b) == cap(c.b) {
			c.send(false)
		}
		if c.b == nil && !c.fresh() {
			return n, nil
		}
		k := min(len(p), cap(c.b)-len(c.b))
		c.b = append(c.b, p[:k]...)
		p = p[k:]
	}
	return n, nil
}

// fresh takes an empty chunk.
func (c *cutter) fresh() bool {
	select {
	case c.b = <-c.s.free:
		return true
	case <-c.s.stop:
		c.over.Store(true)
		return false
	}
}

func (c *cutter) send(last bool) {
	select {
	case c.s.full <- chunk{c.b, last}:
	case <-c.s.stop:
		c.over.Store(true)
	}
	c.b = nil
}
