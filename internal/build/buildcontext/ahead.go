package buildcontext

import (
	"context"
	"io"
)

// ahead reads a stream while what came before is being worked on, and ends
// with its context. Its goroutine ends with the stream, or with the first part
// that comes after that.
type ahead struct {
	ctx   context.Context
	parts chan []byte // read
	free  chan []byte // to be read into
	err   error       // the stream's end, once parts is closed
	part  []byte      // the one that is being consumed
	rest  []byte      // what of it was not yet
}

const (
	// partSize is how much is read at once.
	partSize = 128 << 10
	// parts is how many are read ahead.
	parts = 8
)

func newAhead(ctx context.Context, r io.Reader) *ahead {
	a := &ahead{ctx: ctx, parts: make(chan []byte, parts), free: make(chan []byte, parts)}
	for range parts {
		a.free <- nil
	}
	go a.fill(r)
	return a
}

func (a *ahead) fill(r io.Reader) {
	defer close(a.parts)
	for a.err == nil {
		var part []byte
		select {
		case part = <-a.free:
		case <-a.ctx.Done():
			a.err = context.Cause(a.ctx)
			return
		}
		if part == nil {
			part = make([]byte, partSize)
		}
		n, err := r.Read(part[:partSize])
		a.err = err
		if n > 0 {
			a.parts <- part[:n] // there is room for all that there are
		} else {
			a.free <- part
		}
	}
}

// Read gives what was read.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.part != nil {
			a.free <- a.part
			a.part = nil
		}
		select {
		case part, ok := <-a.parts:
			if !ok {
				return 0, a.err
			}
			a.part, a.rest = part, part
		case <-a.ctx.Done():
			return 0, context.Cause(a.ctx)
		}
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}
