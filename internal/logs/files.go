package logs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
)

// source is one open file of a log.
type source struct {
	file *os.File
	info fs.FileInfo // of the name it was opened by; tells files apart
	off  int64       // of the next line
	gz   bool
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
	s := &source{file: f, info: info, gz: gz}
	if !gz {
		return s, nil
	}
	defer f.Close()
	if s.file, err = inflate(f); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return s, nil
}

// inflate makes a file without a name, in which one can go backwards.
func inflate(f *os.File) (*os.File, error) {
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	tmp, err := os.CreateTemp("", "wherry-log-")
	if err != nil {
		return nil, err
	}
	err = os.Remove(tmp.Name())
	if err == nil {
		_, err = io.Copy(tmp, z)
	}
	if err != nil {
		tmp.Close()
		return nil, err
	}
	return tmp, nil
}

func closeAll(list []*source) {
	for _, s := range list {
		s.file.Close()
	}
}

// seekTail sets the offsets so that only the last n lines are left.
func seekTail(list []*source, n int) error {
	for i := len(list) - 1; i >= 0; i-- {
		st, err := list[i].file.Stat()
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		if n > 0 {
			list[i].off, n, err = lineStart(list[i].file, st.Size(), n)
		} else {
			list[i].off, err = lastNewline(list[i].file, st.Size())
		}
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
	}
	return nil
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
