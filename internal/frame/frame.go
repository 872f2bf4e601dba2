// Package frame writes docker's multiplexed stream: each piece of output goes
// behind a header of eight bytes, the stream's number, three zeros and the
// length of the piece as a big-endian number, so that stdout and stderr can
// share one connection. Clients read it with moby's stdcopy.
package frame

import (
	"encoding/binary"
	"io"
	"sync"
)

// The streams.
const (
	Stdout byte = 1
	Stderr byte = 2
)

// Writers returns a writer for each stream that share w; their writes do not mix.
func Writers(w io.Writer) (stdout, stderr io.Writer) {
	mu := new(sync.Mutex)
	return &writer{mu: mu, w: w, stream: Stdout}, &writer{mu: mu, w: w, stream: Stderr}
}

type writer struct {
	mu     *sync.Mutex
	w      io.Writer
	stream byte
	buf    []byte
}

func (f *writer) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf = append(f.buf[:0], f.stream, 0, 0, 0)
	f.buf = binary.BigEndian.AppendUint32(f.buf, uint32(len(p)))
	f.buf = append(f.buf, p...)
	if _, err := f.w.Write(f.buf); err != nil {
		return 0, err
	}
	return len(p), nil
}
