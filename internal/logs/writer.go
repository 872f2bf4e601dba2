package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// flushAt bounds the memory of one batch: chunks of very short lines grow a
// lot when they are encoded.
const flushAt = 256 << 10

// Scratch is memory that the writers of one goroutine use in turn, so that an
// idle writer holds no buffer.
type Scratch struct {
	buf   []byte
	stamp []byte
	// zips are compressions that outlive their writers, by path of the log.
	zips map[string]*compression
}

// Writer appends the output of one process to its log files. It is not safe
// for use by several goroutines.
//
// After an error the lines of that batch are lost and counted, the file still
// ends in a whole line, and the next call tries again.
type Writer struct {
	target  Target
	attrs   []byte
	file    *os.File
	size    int64 // of file
	scratch *Scratch
	pending [2]pending // by Stream-1
	dropped uint64
	zipped  *compression // under way or ended since the last rotation; nil without
}

// pending is the start of a line whose end was not read yet.
type pending struct {
	text []byte    // nil when there is none; at most MaxLine
	more bool      // pieces of this line were written already
	at   time.Time // when the first piece was read
}

// NewWriter opens the file of t for appending, and cuts off a torn line that a
// crash may have left at its end. A nil scratch makes one.
func NewWriter(t Target, scratch *Scratch) (*Writer, error) {
	if t.Driver == DriverNone {
		return nil, fmt.Errorf("log driver %q writes no file here", t.Driver)
	}
	if scratch == nil {
		scratch = &Scratch{}
	}
	w := &Writer{target: t, attrs: encodeAttrs(t.Attrs), scratch: scratch, zipped: scratch.zips[t.Path]}
	delete(scratch.zips, t.Path)
	if err := w.open(0); err != nil {
		return nil, err
	}
	if err := w.mend(); err != nil {
		w.file.Close()
		return nil, err
	}
	return w, nil
}

// Target is what the writer was made with.
func (w *Writer) Target() Target { return w.target }

// Dropped is the number of lines that could not be written so far.
func (w *Writer) Dropped() uint64 { return w.dropped }

func (w *Writer) open(flags int) error {
	f, err := os.OpenFile(w.target.Path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|flags, 0o640)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("open log: %w", err)
	}
	w.file, w.size = f, st.Size()
	return nil
}

// mend truncates the file to its last whole line.
func (w *Writer) mend() error {
	if w.size == 0 {
		return nil
	}
	f, err := os.Open(w.target.Path)
	if err != nil {
		return fmt.Errorf("check log: %w", err)
	}
	defer f.Close()
	end, err := lastNewline(f, w.size)
	if err != nil {
		return fmt.Errorf("check log: %w", err)
	}
	if end == w.size {
		return nil
	}
	if err := w.file.Truncate(end); err != nil {
		return fmt.Errorf("mend log: %w", err)
	}
	w.size = end
	return nil
}

// lastNewline returns the offset just behind the last newline before end, or 0.
func lastNewline(f io.ReaderAt, end int64) (int64, error) {
	var buf [4096]byte
	for end > 0 {
		n := min(end, int64(len(buf)))
		if _, err := f.ReadAt(buf[:n], end-n); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
	}
	return 0, nil
}

// Copy writes the whole lines of data, which was read at the given time, with
// what was pending before them, and keeps the rest for the next call.
func (w *Writer) Copy(s Stream, data []byte, at time.Time) error {
	p := &w.pending[s-1]
	w.scratch.stamp = appendStamp(w.scratch.stamp[:0], at)
	now := w.scratch.stamp
	buf := w.scratch.buf[:0]
	var errs error
	for len(data) > 0 {
		room := MaxLine - len(p.text)
		cut := bytes.IndexByte(data[:min(len(data), room)], '\n')
		if cut < 0 && len(data) < room {
			if p.text == nil {
				p.text = make([]byte, 0, max(256, len(data)))
			}
			p.text = append(p.text, data...)
			break
		}
		newline, take := cut >= 0, cut+1
		piece := data[:max(cut, 0)]
		if !newline {
			piece, take = data[:room], room
		}
		if len(p.text) > 0 {
			piece = append(p.text, piece...)
		}
		stamp := now
		if !newline && !p.more {
			p.at = at
		} else if p.more {
			var tmp [40]byte
			stamp = appendStamp(tmp[:0], p.at)
		}
		buf = appendEntry(buf, s, piece, newline, w.attrs, stamp)
		p.text, p.more = nil, !newline
		data = data[take:]
		if len(buf) >= flushAt || w.full(len(buf)) {
			errs = errors.Join(errs, w.flush(buf))
			buf = buf[:0]
		}
	}
	errs = errors.Join(errs, w.flush(buf))
	if cap(buf) <= 2*flushAt {
		w.scratch.buf = buf[:0]
	}
	return errs
}

// End writes what is pending of the stream, which has come to its end.
func (w *Writer) End(s Stream, at time.Time) error {
	p := &w.pending[s-1]
	if len(p.text) == 0 {
		*p = pending{}
		return nil
	}
	if p.more {
		at = p.at
	}
	buf := appendEntry(w.scratch.buf[:0], s, p.text, false, w.attrs, appendStamp(nil, at))
	*p = pending{}
	return w.flush(buf)
}

// Write appends one line, given without its newline; partial means that it
// had none.
func (w *Writer) Write(s Stream, line []byte, at time.Time, partial bool) error {
	return w.flush(appendEntry(w.scratch.buf[:0], s, line, !partial, w.attrs, appendStamp(nil, at)))
}

// Pending is what a successor has to be given with Resume, so that a line
// that was read in part stays one line.
func (w *Writer) Pending(s Stream) (text []byte, more bool, at time.Time) {
	p := w.pending[s-1]
	return p.text, p.more, p.at
}

// Resume sets what Pending returned.
func (w *Writer) Resume(s Stream, text []byte, more bool, at time.Time) {
	w.pending[s-1] = pending{text: text, more: more, at: at}
}

// Close closes the file; it writes nothing. A compression under way goes on; a
// later writer of the same log and with the same Scratch knows of it.
func (w *Writer) Close() error {
	if z := w.zipped; z != nil {
		w.zipped = nil
		for path, old := range w.scratch.zips {
			if old.ended() {
				delete(w.scratch.zips, path)
			}
		}
		if !z.ended() {
			if w.scratch.zips == nil {
				w.scratch.zips = map[string]*compression{}
			}
			w.scratch.zips[w.target.Path] = z
		}
	}
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}

// full reports whether the file is full once batch bytes more are in it.
func (w *Writer) full(batch int) bool {
	return w.target.MaxSize > 0 && w.size+int64(batch) >= w.target.MaxSize
}

// flush appends whole lines with one write, after rotating a full file.
func (w *Writer) flush(buf []byte) error {
	if len(buf) == 0 {
		return nil
	}
	if err := w.ready(); err != nil {
		w.dropped += uint64(bytes.Count(buf, []byte{'\n'}))
		return err
	}
	n, err := w.file.Write(buf)
	if err == nil {
		w.size += int64(n)
		return nil
	}
	// Keep the whole lines that arrived, take back the torn one.
	kept := bytes.LastIndexByte(buf[:n], '\n') + 1
	w.dropped += uint64(bytes.Count(buf[kept:], []byte{'\n'}))
	w.size += int64(kept)
	if kept != n {
		if cut := w.file.Truncate(w.size); cut != nil {
			w.size += int64(n - kept)
			err = errors.Join(err, cut)
		}
	}
	return fmt.Errorf("write log: %w", err)
}

// ready makes sure that there is an open file that is not full.
func (w *Writer) ready() error {
	if w.file == nil { // a rotation failed half way
		if err := w.open(0); err != nil {
			return err
		}
	}
	if w.full(0) {
		return w.rotate()
	}
	return nil
}

func (w *Writer) generation(n int) string {
	return w.target.Path + "." + strconv.Itoa(n)
}
