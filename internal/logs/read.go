package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
)

// maxEncoded is longer than any line of a log file.
const maxEncoded = 1 << 20

// errUntil ends a reader behind ReadOptions.Until.
var errUntil = errors.New("until")

// Read gives the entries of the target's files to fn, oldest first. With
// Follow it goes on until ctx ends, or Done is closed and all was delivered.
// It ends with the first error of fn. A line that cannot be parsed is skipped.
func Read(ctx context.Context, t Target, o ReadOptions, fn func(Entry) error) error {
	if t.Driver == DriverNone {
		return errdefs.ErrNotImplemented.WithMessage("configured logging driver does not support reading")
	}
	r := &reader{target: t, o: o, fn: fn, buf: make([]byte, 0, 64<<10)}
	var w *watch
	if o.Follow {
		// Before the first look, so that no change is missed.
		w = newWatch(t.Path)
		defer w.close()
	}
	list, err := openAll(t)
	if err != nil {
		return err
	}
	defer func() { closeAll(r.list) }()
	r.list = list
	if o.Positions {
		r.seek()
	} else if o.Tail >= 0 {
		if r.list, err = seekTail(r.list, o.Tail); err != nil {
			return err
		}
	}
	r.skipOld()
	if o.Follow {
		err = r.follow(ctx, w)
	} else {
		err = r.drain(ctx)
	}
	if errors.Is(err, errUntil) {
		return nil
	}
	return err
}

// reader is one call of Read. The first of list is being read.
type reader struct {
	target Target
	o      ReadOptions
	fn     func(Entry) error
	list   []*source
	buf    []byte
	parser lineParser
	last   time.Time // of the last entry seen
}

// seek goes to where an earlier reading ended.
func (r *reader) seek() {
	from := r.o.From
	if from == (Position{}) {
		return
	}
	for i, s := range r.list {
		if s.identity() == from.File {
			closeAll(r.list[:i])
			r.list = r.list[i:]
			s.off = from.Off
			return
		}
	}
	if r.o.Lost != nil {
		r.o.Lost()
	}
}

// skipOld leaves out the files that were written before Since.
func (r *reader) skipOld() {
	for len(r.list) > 1 && !r.o.Since.IsZero() && r.list[0].info.ModTime().Before(r.o.Since) {
		r.list[0].file.Close()
		r.list = r.list[1:]
	}
}

// drain reads all of list to its end, and keeps the last of it open.
func (r *reader) drain(ctx context.Context) error {
	for len(r.list) > 0 {
		if err := r.lines(ctx, r.list[0]); err != nil {
			return err
		}
		if len(r.list) == 1 {
			return nil
		}
		r.list[0].file.Close()
		r.list = r.list[1:]
	}
	return nil
}

// lines delivers the whole lines from s.off on.
func (r *reader) lines(ctx context.Context, s *source) error {
	buf := r.buf[:0]
	pos := s.off // in the file, of the end of buf
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(buf) == cap(buf) {
			if cap(buf) >= maxEncoded { // no line of ours
				s.off, buf = pos, buf[:0]
				continue
			}
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
			r.buf = buf[:0]
		}
		n, err := s.readAt(buf[len(buf):cap(buf)], pos)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read log: %w", err)
		}
		if n == 0 {
			return nil
		}
		pos += int64(n)
		buf = buf[:len(buf)+n]
		start := 0
		for {
			i := bytes.IndexByte(buf[start:], '\n')
			if i < 0 {
				break
			}
			line := buf[start : start+i]
			start += i + 1
			s.off += int64(i) + 1
			if err := r.line(s, line); err != nil {
				return err
			}
		}
		buf = buf[:copy(buf, buf[start:])]
	}
}

func (r *reader) line(s *source, line []byte) error {
	e, err := r.parser.parse(line)
	if err != nil {
		return nil //nolint:nilerror // what a crash left is skipped
	}
	r.last = e.Time
	if !r.o.Since.IsZero() && e.Time.Before(r.o.Since) {
		return nil
	}
	if !r.o.Until.IsZero() && e.Time.After(r.o.Until) {
		return errUntil
	}
	if r.o.Positions {
		e.Next = Position{s.identity(), s.off}
	}
	return r.fn(e)
}

// follow delivers what is there and what comes.
func (r *reader) follow(ctx context.Context, w *watch) error {
	var until <-chan time.Time
	if !r.o.Until.IsZero() {
		timer := time.NewTimer(time.Until(r.o.Until))
		defer timer.Stop()
		until = timer.C
	}
	done, ending := r.o.Done, false
	for {
		if err := r.catchUp(ctx); err != nil {
			return err
		}
		if ending {
			return nil
		}
		if r.o.Idle != nil {
			if err := r.o.Idle(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-done:
			// What was written before it was closed may not be delivered yet.
			ending = true
		case <-until:
			ending = true
		case <-w.changed:
		}
	}
}

// catchUp delivers all that is there, across rotations.
func (r *reader) catchUp(ctx context.Context) error {
	for {
		if len(r.list) == 0 {
			list, err := openAll(r.target)
			if err != nil || len(list) == 0 {
				return err
			}
			r.list = list
		}
		if err := r.drain(ctx); err != nil {
			return err
		}
		cur := r.list[0]
		st, err := cur.file.Stat()
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		if st.Size() < cur.off { // emptied in place
			cur.off, cur.id = 0, 0
			continue
		}
		info, err := os.Stat(r.target.Path)
		if errors.Is(err, os.ErrNotExist) || err == nil && os.SameFile(info, cur.info) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		// The writer has left this file for good before it made another one,
		// so this is the rest of it.
		if err := r.lines(ctx, cur); err != nil {
			return err
		}
		list, err := openAll(r.target)
		if err != nil {
			return err
		}
		newer := r.newer(list, cur)
		closeAll(list[:len(list)-newer])
		cur.file.Close()
		r.list = list[len(list)-newer:]
	}
}

// newer says how many of list are behind cur.
func (r *reader) newer(list []*source, cur *source) int {
	for i, s := range list {
		if os.SameFile(s.info, cur.info) {
			return len(list) - 1 - i
		}
	}
	// It was compressed or deleted. The newest file is certainly behind it, and
	// so is every one that begins later than what was seen last.
	n := min(1, len(list))
	for n < len(list) {
		first, ok := firstTime(list[len(list)-1-n])
		if !ok || !first.After(r.last) {
			break
		}
		n++
	}
	return n
}

func firstTime(s *source) (time.Time, bool) {
	buf := make([]byte, 128<<10)
	n, err := s.readAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return time.Time{}, false
	}
	line, _, ok := bytes.Cut(buf[:n], []byte{'\n'})
	if !ok {
		return time.Time{}, false
	}
	var p lineParser
	e, err := p.parse(line)
	return e.Time, err == nil
}
