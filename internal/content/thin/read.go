package thin

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// reader puts a blob together. It goes on where the last read ended; to go back
// it begins anew.
type reader struct {
	file  *os.File
	layer *os.File // its directory
	size  int64
	begin int64 // of the pieces

	mu    sync.Mutex
	from  *zstd.Decoder
	in    *bufio.Reader
	at    int64 // of the next byte
	piece int64 // bytes left of the piece
	left  int64 // bytes of the file that come after it
	name  string
	open  *os.File
	where int64 // in the open file
}

func open(name, root string) (_ *reader, err error) {
	r := &reader{}
	if r.file, err = os.Open(name); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	size, layer, err := readHeader(r.file)
	if err != nil {
		return nil, err
	}
	r.size, r.begin = size, int64(len(header(size, layer)))
	// No link on the way: a layer's directory is the engine's.
	if r.layer, err = os.OpenFile(filepath.Join(root, layer), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
		return nil, fmt.Errorf("the layer that has its files: %w", err) // not ErrNotExist: the blob is there
	}
	if r.from, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1)); err != nil {
		return nil, err
	}
	return r, r.restart()
}

// Size is the blob's.
func (r *reader) Size() int64 { return r.size }

// Close lets go of everything.
func (r *reader) Close() error {
	if r.from != nil {
		r.from.Close()
	}
	for _, f := range []*os.File{r.file, r.layer, r.open} {
		if f != nil {
			f.Close()
		}
	}
	r.open = nil
	return nil
}

// restart goes to the blob's start.
func (r *reader) restart() error {
	r.at, r.piece, r.left, r.name = 0, 0, 0, ""
	r.leave()
	if err := r.from.Reset(io.NewSectionReader(r.file, r.begin, 1<<62)); err != nil {
		return err
	}
	r.in = bufio.NewReaderSize(r.from, 64<<10)
	if err := r.next(); err != nil {
		return err
	}
	return r.turn()
}

func (r *reader) leave() {
	if r.open != nil {
		r.open.Close()
		r.open = nil
	}
}

// next begins the next piece.
func (r *reader) next() error {
	n, err := binary.ReadUvarint(r.in)
	if errors.Is(err, io.EOF) && r.at == r.size {
		return nil
	}
	if err != nil || n > pieceSize {
		return r.damaged(err)
	}
	r.piece = int64(n)
	return nil
}

// after reads which file comes after the piece.
func (r *reader) after() error {
	n, err := binary.ReadUvarint(r.in)
	if err != nil || n > nameSize {
		return r.damaged(err)
	}
	name := make([]byte, n)
	if _, err := io.ReadFull(r.in, name); err != nil {
		return r.damaged(err)
	}
	size, err := binary.ReadUvarint(r.in)
	if err != nil || size > uint64(r.size-r.at) {
		return r.damaged(err)
	}
	r.name, r.left, r.where = string(name), int64(size), 0
	return nil
}

func (r *reader) damaged(err error) error {
	switch {
	case err == nil:
		err = errors.New("a length that cannot be")
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF // no reader may take it for the end
	}
	return fmt.Errorf("blob %s is damaged: %w", filepath.Base(r.file.Name()), err)
}

// enter opens the file that comes next.
func (r *reader) enter() error {
	fd, err := unix.Openat2(int(r.layer.Fd()), r.name, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return r.damaged(&os.PathError{Op: "open", Path: r.name, Err: err})
	}
	f := os.NewFile(uintptr(fd), r.name)
	st, err := f.Stat()
	if err == nil && (!st.Mode().IsRegular() || st.Size() != r.left+r.where) {
		err = fmt.Errorf("%s of the layer has changed", r.name)
	}
	if err != nil {
		f.Close()
		return r.damaged(err)
	}
	r.open = f
	return nil
}

// ReadAt reads; see io.ReaderAt.
func (r *reader) ReadAt(p []byte, off int64) (n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if off < 0 {
		return 0, errors.New("a negative offset")
	}
	if off < r.at {
		if err := r.restart(); err != nil {
			return 0, err
		}
	}
	for {
		if n == len(p) {
			return n, nil
		}
		if r.at == r.size {
			return n, io.EOF
		}
		var part int64
		switch skip := off - r.at; {
		case skip > 0:
			part, err = r.skip(skip)
		default:
			var m int
			m, err = r.some(p[n:])
			part, n = int64(m), n+m
			off += part
		}
		if err != nil {
			return n, err
		}
		r.at += part
		if err := r.turn(); err != nil {
			return n, err
		}
	}
}

// Check looks for everything that the blob is put together of: what its file has,
// whole, and the layer's files by their names and sizes. What is in these it does
// not read.
func (r *reader) Check(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.restart(); err != nil {
		return err
	}
	for r.at < r.size {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if r.piece == 0 {
			if err := r.enter(); err != nil {
				return err
			}
		}
		n, err := r.skip(r.size - r.at)
		if err != nil {
			return err
		}
		r.at += n
		if err := r.turn(); err != nil {
			return err
		}
	}
	return nil
}

// turn goes from a piece that is over to its file, and from there to the next.
func (r *reader) turn() error {
	for r.piece == 0 && r.left == 0 && r.at < r.size {
		if r.open != nil || r.name != "" {
			r.leave()
			r.name = ""
			if err := r.next(); err != nil {
				return err
			}
			continue
		}
		if err := r.after(); err != nil {
			return err
		}
		if r.name == "" {
			if err := r.next(); err != nil {
				return err
			}
		}
	}
	if r.at < r.size {
		return nil
	}
	// Behind the last piece comes its end, and with that the checksum of all.
	if n, err := io.Copy(io.Discard, io.LimitReader(r.in, endSize+1)); err != nil || n > endSize {
		return r.damaged(err)
	}
	return nil
}

// endSize is how much there can be behind the blob's last byte: the end of a
// piece, and one that is empty.
const endSize = 2 + 1 + 2

func (r *reader) skip(n int64) (int64, error) {
	if r.piece > 0 {
		n = min(n, r.piece)
		m, err := r.in.Discard(int(n))
		r.piece -= int64(m)
		if err != nil {
			err = r.damaged(err)
		}
		return int64(m), err
	}
	n = min(n, r.left)
	r.left, r.where = r.left-n, r.where+n
	return n, nil
}

func (r *reader) some(p []byte) (n int, err error) {
	if r.piece > 0 {
		n, err = r.in.Read(p[:min(int64(len(p)), r.piece)])
		r.piece -= int64(n)
	} else {
		if r.open == nil {
			if err := r.enter(); err != nil {
				return 0, err
			}
		}
		n, err = r.open.ReadAt(p[:min(int64(len(p)), r.left)], r.where)
		r.left, r.where = r.left-int64(n), r.where+int64(n)
		if n > 0 && errors.Is(err, io.EOF) {
			err = nil // the rest is asked for, if there should be one
		}
	}
	if err != nil {
		err = r.damaged(err)
	}
	return n, err
}
