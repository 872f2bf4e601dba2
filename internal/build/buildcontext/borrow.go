package buildcontext

import (
	"context"
	"errors"
	"hash"
	"io"
	"os"
	"path"
	"runtime"
	"sync"

	"github.com/moby/buildkit/cache/contenthash"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/build/lending"
)

// loans are the large files of a transfer that the client, which is on this
// machine, hands over open (see lending): they are read here, and do not come as
// messages. What it does not hand over is asked for as the others are.
type loans struct {
	dir  string // the client's name for the directory
	open func(context.Context) (*lending.Borrower, error)

	mu      sync.Mutex
	list    []*file // to be borrowed
	lenders int     // that work on it
	refused []*file
	at      sync.WaitGroup // them

	asking sync.Mutex // for one file after the other
	from   *lending.Borrower
	gone   bool // nothing is lent, or nothing more
}

// worth is the size from which on a file is borrowed: where it would be more than
// one message. Of files of 8 KB it makes no difference.
const worth = 32 << 10

// lent tells whether a file is to be borrowed, and has it come.
func (r *receiver) lent(ctx context.Context, g *errgroup.Group, f *file) bool {
	l := r.loans
	if l == nil || f.there || f.st.Size < worth {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, f)
	if l.lenders < runtime.GOMAXPROCS(0) {
		l.lenders++
		l.at.Add(1)
		r.writer(g, func() error {
			defer l.at.Done()
			return r.borrow(ctx)
		})
	}
	return true
}

// borrow borrows files as long as there are any.
func (r *receiver) borrow(ctx context.Context) error {
	l := r.loans
	var at opened
	defer at.close()
	for {
		l.mu.Lock()
		if len(l.list) == 0 || ctx.Err() != nil {
			l.lenders--
			l.mu.Unlock()
			return context.Cause(ctx)
		}
		f := l.list[0]
		l.list = l.list[1:]
		l.mu.Unlock()
		from := l.take(ctx, f)
		if from == nil {
			l.mu.Lock()
			l.refused = append(l.refused, f)
			l.mu.Unlock()
			continue
		}
		err := r.copied(ctx, f, from, &at)
		from.Close()
		if err != nil {
			return err
		}
	}
}

// take gives a file of the client's; nil if it is not lent.
func (l *loans) take(ctx context.Context, f *file) *os.File {
	l.asking.Lock()
	defer l.asking.Unlock()
	if l.gone {
		return nil
	}
	var err error
	if l.from == nil {
		if l.from, err = l.open(ctx); err != nil {
			l.gone = true
			return nil
		}
	}
	from, err := l.from.Open(l.dir, f.st.Path)
	if err != nil {
		l.gone = !errors.Is(err, lending.ErrRefused)
		return nil
	}
	return from
}

// returned waits for what is borrowed, and gives what was refused.
func (l *loans) returned() (refused []*file) {
	if l == nil {
		return nil
	}
	l.at.Wait()
	refused, l.refused = l.refused, nil
	return refused
}

// end ends the connection.
func (l *loans) end() {
	if l != nil && l.from != nil {
		l.from.Close()
	}
}

// copied writes a file that is borrowed.
func (r *receiver) copied(ctx context.Context, f *file, from *os.File, at *opened) error {
	dir, err := at.dir(r.top, path.Dir(f.st.Path))
	if err != nil {
		return err
	}
	h, err := contenthash.NewFromStat(f.st)
	if err != nil {
		return err
	}
	to, err := begin(dir, f.st)
	if err != nil {
		return err
	}
	// Where the file system can, the two share their bytes until one is written to.
	shared := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil
	err = finish(to, f.st, func(w io.Writer) error {
		if !shared {
			return r.flow(ctx, f, from, h, w)
		}
		// The client's may be written to by now; the digest is that of ours.
		again, err := open(dir, f.st)
		if err != nil {
			return err
		}
		defer again.Close()
		return r.flow(ctx, f, again, h, nil)
	})
	if err != nil {
		return err
	}
	return r.note(f.st, h)
}

// held is how many parts of a large file are in memory.
const held = 3

// flow reads a file to its end and writes it to w, if that is not nil. The digest
// of a large one is made at the same time.
func (r *receiver) flow(ctx context.Context, f *file, from *os.File, h hash.Hash, w io.Writer) error {
	if f.st.Size <= small {
		b := r.empty()
		defer func() { r.rooms.Put(&b) }()
		for {
			n, err := from.Read(b)
			h.Write(b[:n]) //nolint:errcheck // it never fails
			if last, err := r.put(ctx, w, b[:n], err); last {
				return err
			}
		}
	}
	free, full := make(chan []byte, held), make(chan []byte, held)
	for range held {
		free <- r.empty()
	}
	hashed := make(chan struct{})
	go func() {
		defer close(hashed)
		for b := range full {
			h.Write(b) //nolint:errcheck // it never fails
			free <- b[:cap(b)]
		}
	}()
	defer func() {
		close(full)
		<-hashed
		for range held {
			b := <-free
			r.rooms.Put(&b)
		}
	}()
	for {
		// A part is free when its digest is made; that it is written is known here.
		b := <-free
		n, err := from.Read(b)
		full <- b[:n]
		if last, err := r.put(ctx, w, b[:n], err); last {
			return err
		}
	}
}

// put writes what a read has given, and tells whether it was the last.
func (r *receiver) put(ctx context.Context, w io.Writer, b []byte, err error) (last bool, _ error) {
	if len(b) > 0 && w != nil {
		if _, err := w.Write(b); err != nil {
			return true, err
		}
	}
	r.came(len(b))
	switch {
	case errors.Is(err, io.EOF):
		return true, nil
	case err != nil:
		return true, err
	}
	return ctx.Err() != nil, context.Cause(ctx)
}
