package logs

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"time"
)

var errFull = errors.New("the buffer of a non-blocking log is full")

// Buffered is a Writer whose caller never waits for the disk: what the disk is
// behind with is kept in memory, Target.Buffer bytes at most, and whole lines
// that do not fit are dropped and counted. Its methods are called by one
// goroutine; it holds another one only while it is behind.
type Buffered struct {
	w *Writer

	mu      sync.Mutex
	idle    sync.Cond // queue is empty and nothing is being written
	queue   []chunk
	size    int64
	writing bool
	torn    [2]bool // by Stream-1: a line was dropped in part
	dropped uint64
	err     error // of the last write, until it is told
}

// chunk is output as it was read.
type chunk struct {
	stream Stream
	data   []byte // nil: the stream's end
	at     time.Time
}

// NewBuffered opens the log as NewWriter does.
func NewBuffered(t Target) (*Buffered, error) {
	w, err := NewWriter(t, nil)
	if err != nil {
		return nil, err
	}
	b := &Buffered{w: w}
	b.idle.L = &b.mu
	return b, nil
}

// Copy takes over output. The error is that of an earlier write, or says that
// lines were dropped.
func (b *Buffered) Copy(s Stream, data []byte, at time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.size+int64(len(data)) > b.w.target.Buffer && len(b.queue) > 0 {
		b.dropped += uint64(bytes.Count(data, []byte{'\n'}))
		b.torn[s-1] = true
		return errors.Join(errFull, b.told())
	}
	if b.torn[s-1] {
		// It goes on with the end of a line whose beginning was dropped.
		_, rest, ok := bytes.Cut(data, []byte{'\n'})
		if !ok {
			return b.told()
		}
		b.torn[s-1] = false
		b.dropped++
		b.add(chunk{stream: s, at: at})
		data = rest
	}
	if len(data) > 0 {
		b.add(chunk{s, slices.Clone(data), at})
	}
	return b.told()
}

// End writes what is pending of the stream, which has come to its end.
func (b *Buffered) End(s Stream, at time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.add(chunk{stream: s, at: at})
	return b.told()
}

func (b *Buffered) told() error {
	err := b.err
	b.err = nil
	return err
}

func (b *Buffered) add(c chunk) {
	b.queue = append(b.queue, c)
	b.size += int64(len(c.data))
	if !b.writing {
		b.writing = true
		go b.write()
	}
}

// write empties the queue.
func (b *Buffered) write() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.queue) > 0 {
		c := b.queue[0]
		b.queue = b.queue[1:]
		b.mu.Unlock()
		var err error
		if c.data == nil {
			err = b.w.End(c.stream, c.at)
		} else {
			err = b.w.Copy(c.stream, c.data, c.at)
		}
		b.mu.Lock()
		b.size -= int64(len(c.data))
		if err != nil {
			b.err = err
		}
	}
	b.queue, b.writing = nil, false
	b.idle.Broadcast()
}

// flush waits until all is written.
func (b *Buffered) flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.writing {
		b.idle.Wait()
	}
}

// Dropped is the number of lines that could not be kept so far.
func (b *Buffered) Dropped() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.dropped
	if !b.writing {
		n += b.w.Dropped()
	}
	return n
}

// Pending is Writer.Pending, once all that was taken over is written.
func (b *Buffered) Pending(s Stream) (text []byte, more bool, at time.Time) {
	b.flush()
	return b.w.Pending(s)
}

// Resume is Writer.Resume; it is called before the first Copy.
func (b *Buffered) Resume(s Stream, text []byte, more bool, at time.Time) {
	b.w.Resume(s, text, more, at)
}

// Close waits until all is written and closes the file.
func (b *Buffered) Close() error {
	b.flush()
	if err := b.w.Close(); err != nil {
		return err
	}
	return b.told()
}
