package logs

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// rotate starts a new file. With one file only, it is emptied in place.
func (w *Writer) rotate() error {
	if w.zipped != nil {
		// The names below are in use until the compression before has ended.
		err := <-w.zipped
		w.zipped = nil
		if err != nil {
			return err
		}
	}
	if w.file != nil {
		w.file.Close()
		w.file = nil
	}
	if w.target.MaxFile < 2 {
		return w.open(os.O_TRUNC)
	}
	for n := w.target.MaxFile - 2; n >= 1; n-- {
		for _, ext := range [...]string{"", ".gz"} {
			old, next := w.generation(n)+ext, w.generation(n+1)
			if err := os.Rename(old, next+ext); errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return fmt.Errorf("rotate log: %w", err)
			}
			// The other form of the name would be a line delivered twice.
			other := ".gz"
			if ext != "" {
				other = ""
			}
			if err := os.Remove(next + other); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("rotate log: %w", err)
			}
		}
	}
	first := w.generation(1)
	if err := os.Rename(w.target.Path, first); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("rotate log: %w", err)
	}
	if w.target.Compress {
		w.zipped = make(chan error, 1)
		go func(done chan<- error) { done <- compress(first) }(w.zipped)
	}
	return w.open(0)
}

// compress replaces a file by its gzip form.
func compress(path string) (err error) {
	in, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	defer in.Close()
	tmp := path + ".gz.tmp"
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	err = errors.Join(err, z.Close(), out.Close())
	if err == nil {
		err = os.Rename(tmp, path+".gz")
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("compress log: %w", err)
	}
	return os.Remove(path)
}
