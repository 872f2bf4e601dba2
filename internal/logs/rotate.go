package logs

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// rotate starts a new file. With one file only, it is emptied in place.
func (w *Writer) rotate() error {
	// The names below are in use by the compression. It is not waited for: a
	// process that writes faster than gzip must not be slowed down to it.
	if err := w.endCompression(); err != nil {
		return err
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
		ctx, cancel := context.WithCancelCause(context.Background())
		z := &compression{cancel: func() { cancel(errRotated) }, done: make(chan error, 1)}
		w.zipped = z
		names := make([]string, 0, w.target.MaxFile-1)
		for n := 1; n < w.target.MaxFile; n++ {
			names = append(names, w.generation(n))
		}
		go func() { z.done <- compressAll(ctx, names) }()
	}
	return w.open(0)
}

// errRotated ends a compression: the next generation wants its files, or the log is closed.
var errRotated = errors.New("the log goes on")

// compression is at work on the rotated files of a writer.
type compression struct {
	cancel context.CancelFunc
	done   chan error
}

func (z *compression) ended() bool { return len(z.done) > 0 }

// endCompression gives a compression under way up and waits for its end.
func (w *Writer) endCompression() error {
	z := w.zipped
	if z == nil {
		return nil
	}
	w.zipped = nil
	z.cancel()
	if err := <-z.done; err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// compressAll compresses what is not yet, the newest first: that one will be
// kept the longest.
func compressAll(ctx context.Context, names []string) error {
	for _, name := range names {
		if err := compress(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// compress replaces a file by its gzip form.
func compress(ctx context.Context, path string) (err error) {
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
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err == nil {
		_, err = io.Copy(z, cancelled{ctx, in})
		err = errors.Join(err, z.Close())
	}
	err = errors.Join(err, out.Close())
	if err == nil {
		err = os.Rename(tmp, path+".gz")
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("compress log: %w", err)
	}
	return os.Remove(path)
}

// cancelled is a reader that ends with its context.
type cancelled struct {
	ctx context.Context
	r   io.Reader
}

func (c cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
