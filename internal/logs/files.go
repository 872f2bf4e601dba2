package logs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"math"
	"os"
	"strconv"
)

// source is one open file of a log.
type source struct {
	file *os.File
	info fs.FileInfo  // of the name it was opened by; tells files apart
	off  int64        // of the next line, in the text
	id   uint64       // see Position; 0 until it is asked for
	z    *gzip.Reader // of a compressed file; nil for others
	zpos int64        // how much of the text z has given
}

// readAt reads text at a place, as io.ReaderAt. Going back in a compressed
// file starts it over.
func (s *source) readAt(b []byte, at int64) (int, error) {
	if s.z == nil {
		return s.file.ReadAt(b, at)
	}
	if at < s.zpos {
		if _, err := s.file.Seek(0, io.SeekStart); err != nil {
			return 0, err
		}
		if err := s.z.Reset(s.file); err != nil {
			return 0, err
		}
		s.zpos = 0
	}
	if at > s.zpos {
		n, err := io.CopyN(io.Discard, s.z, at-s.zpos)
		s.zpos += n
		if err != nil {
			return 0, err
		}
	}
	n, err := io.ReadFull(s.z, b)
	s.zpos += int64(n)
	if errors.Is(err, io.ErrUnexpectedEOF) && n > 0 {
		err = io.EOF
	}
	return n, err
}

// identity gives the File of positions in this file, or 0 while it has no
// whole line.
func (s *source) identity() uint64 {
	if s.id == 0 {
		buf := make([]byte, 4096)
		n, err := s.readAt(buf, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0
		}
		line, _, whole := bytes.Cut(buf[:n], []byte{'\n'})
		if !whole && n < len(buf) {
			return 0
		}
		h := fnv.New64a()
		h.Write(line)
		s.id = max(h.Sum64(), 1)
	}
	return s.id
}

// openAll opens the files of a log, oldest first; there may be none. It starts
// over when the writer renames them meanwhile.
func openAll(t Target) ([]*source, error) {
	for try := 0; ; try++ {
		list, err := openOnce(t)
		if err != nil {
			return nil, err
		}
		if try == 10 || unchanged(t, list) {
			return list, nil
		}
		closeAll(list)
	}
}

// openOnce opens the newest first: a rename meanwhile makes a file appear
// twice, never be missing.
func openOnce(t Target) (list []*source, err error) {
	for n := 0; n < max(1, t.MaxFile); n++ {
		name := t.Path
		if n > 0 {
			name += "." + strconv.Itoa(n)
		}
		s, err := open(name, false)
		if n > 0 && errors.Is(err, fs.ErrNotExist) {
			s, err = open(name+".gz", true)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			closeAll(list)
			return nil, err
		}
		list = append([]*source{s}, list...)
	}
	return list, nil
}

func unchanged(t Target, list []*source) bool {
	info, err := os.Stat(t.Path)
	if err != nil || len(list) == 0 {
		return errors.Is(err, fs.ErrNotExist) && len(list) == 0
	}
	return os.SameFile(info, list[len(list)-1].info)
}

func open(name string, gz bool) (*source, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open log: %w", err)
	}
	s := &source{file: f, info: info}
	if gz {
		if s.z, err = gzip.NewReader(f); err != nil {
			f.Close()
			return nil, fmt.Errorf("open log: %w", err)
		}
	}
	return s, nil
}

func closeAll(list []*source) {
	for _, s := range list {
		s.file.Close()
	}
}

// seekTail drops the files and sets the offsets so that only the last n lines
// are left. Files that hold none of them are not looked into.
func seekTail(list []*source, n int) ([]*source, error) {
	for i := len(list) - 1; i >= 0; i-- {
		if n == 0 && i < len(list)-1 {
			closeAll(list[:i+1])
			return list[i+1:], nil
		}
		var err error
		if n, err = list[i].seekTail(n); err != nil {
			return list, fmt.Errorf("read log: %w", err)
		}
	}
	return list, nil
}

// seekTail sets the offset of one file and returns how many lines are to be
// found in older ones.
func (s *source) seekTail(n int) (int, error) {
	if s.z == nil {
		st, err := s.file.Stat()
		if err != nil {
			return n, err
		}
		if n == 0 {
			s.off, err = lastNewline(s.file, st.Size())
		} else {
			s.off, n, err = lineStart(s.file, st.Size(), n)
		}
		return n, err
	}
	// There is no way to go backwards: count, then go as far as is needed.
	total, _, err := s.skipLines(math.MaxInt)
	if err != nil || total <= n {
		return n - total, err
	}
	_, s.off, err = s.skipLines(total - n)
	return 0, err
}

// skipLines goes over lines from the beginning. It returns how many there
// were, n at most, and where they ended.
func (s *source) skipLines(n int) (lines int, end int64, err error) {
	buf := make([]byte, 64<<10)
	for pos := int64(0); lines < n; {
		k, err := s.readAt(buf, pos)
		for b := 0; lines < n; lines++ {
			i := bytes.IndexByte(buf[b:k], '\n')
			if i < 0 {
				break
			}
			b += i + 1
			end = pos + int64(b)
		}
		pos += int64(k)
		if errors.Is(err, io.EOF) {
			return lines, end, nil
		}
		if err != nil {
			return lines, end, err
		}
	}
	return lines, end, nil
}

// lineStart goes back n whole lines from end. It returns where the first of
// them starts, and how many are to be found in older files.
func lineStart(f io.ReaderAt, end int64, n int) (int64, int, error) {
	end, err := lastNewline(f, end)
	if err != nil || end == 0 {
		return 0, n, err
	}
	buf := make([]byte, 64<<10)
	for pos := end - 1; pos > 0; { // the newline before end ends the last line
		b := buf[:min(pos, int64(len(buf)))]
		pos -= int64(len(b))
		if _, err := f.ReadAt(b, pos); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		for i := bytes.LastIndexByte(b, '\n'); i >= 0; i = bytes.LastIndexByte(b[:i], '\n') {
			if n--; n == 0 {
				return pos + int64(i) + 1, 0, nil
			}
		}
	}
	return 0, n - 1, nil
}
