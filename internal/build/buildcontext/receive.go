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
	"sync/atomic"
	"time"

	"github.com/moby/buildkit/cache/contenthash"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// stream is the connection to the sender.
type stream interface {
	SendMsg(any) error
	RecvMsg(any) error
}

// receiver brings a directory to what the client has.
type receiver struct {
	hashes   contenthash.CacheContext
	progress func(bytes int, last bool)
	changing func() error // called before the first change
	abort    func(error)  // ends the stream
	every    bool         // all files travel, also those that seem to be what is there
	loans    *loans       // nil if the client lends nothing

	stream  stream
	order   fsutil.Validator
	links   fsutil.Hardlinks
	dirs    []*dir            // that of the last name, and those above it
	top     *dir              // the first of them
	last    []*types.Stat     // hard links, made at the end
	stale   []*types.Stat     // directories whose time is to be set at the end
	wanted  map[uint32]*file  // files on their way
	ready   chan *file        // files to be written
	seen    map[uint64]string // files of several names that stay as they are
	changed bool
	whole   bool // all names were sent

	writers sync.WaitGroup
	room    room         // for what comes
	coming  int64        // bytes of all files that were asked for
	rooms   sync.Pool    // written
	held    atomic.Int64 // bytes of files that are kept in memory

	sending sync.Mutex

	counting sync.Mutex
	size     int // bytes that have come

	mu  sync.Mutex
	ask []uint32 // files to ask for; see requests
	bye bool
	say chan struct{}
}

// file is a file on its way.
type file struct {
	id    uint32
	st    *types.Stat
	data  []byte
	parts chan []byte // of a large one, which is written as it comes
	there bool        // something is, and it seems to be the same
	next  []byte      // the part that may grow
}

// grace is how long a sender has to end after it was told of a failure.
const grace = time.Second

const (
	// small is up to where a file is kept in memory until all of it is there.
	small = 256 << 10
	// most is how much all of them have there; beyond it files are written as they come.
	most = 64 << 20
)

// digested is a file with the digest of its content and header.
type digested struct {
	fsutil.StatInfo
	digest digest.Digest
}

// Digest is what the cache knows the file by.
func (d *digested) Digest() digest.Digest { return d.digest }

// run receives. When it fails the directory is neither what it was nor what it
// should be.
func (r *receiver) run(parent context.Context, s stream, to string) error {
	top, err := openRoot(to)
	if err != nil {
		return err
	}
	r.stream, r.top, r.dirs = s, top, []*dir{top}
	r.wanted, r.ready, r.say = map[uint32]*file{}, make(chan *file, 256), make(chan struct{}, 1)
	r.seen = map[uint64]string{}
	defer func() {
		r.loans.end()
		for _, d := range r.dirs {
			d.close()
		}
		top.close()
	}()
	g, ctx := errgroup.WithContext(parent)
	context.AfterFunc(ctx, func() {
		if cause := context.Cause(ctx); parent.Err() == nil && !errors.Is(cause, context.Canceled) {
			// The sender ends the stream when it hears of it, which wakes the loop.
			time.AfterFunc(grace, func() { r.abort(cause) })
			r.send(&types.Packet{Type: types.PACKET_ERR, Data: []byte(cause.Error())}) //nolint:errcheck // it may be gone
		}
	})
	for range runtime.GOMAXPROCS(0) {
		r.writer(g, func() error { return r.write(ctx) })
	}
	g.Go(func() error { return r.requests(ctx) })
	g.Go(func() error { return r.packets(ctx, g) })
	return g.Wait()
}

// writer starts one that writes files.
func (r *receiver) writer(g *errgroup.Group, f func() error) {
	r.writers.Add(1)
	g.Go(func() error {
		defer r.writers.Done()
		return f()
	})
}

// packets is the loop over what comes.
func (r *receiver) packets(ctx context.Context, g *errgroup.Group) (err error) {
	open := true
	finish := func() {
		if open {
			open = false
			for _, f := range r.wanted {
				if f.parts != nil {
					close(f.parts)
				}
			}
			close(r.ready)
		}
	}
	defer finish()
	var id uint32
	var p types.Packet
	defer r.told()
	for {
		p.ResetVT()
		p.Data = nil // a message has memory of its own
		if r.coming > rest {
			p.Data = r.space()
		}
		if err := r.stream.RecvMsg(&p); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return err
		}
		r.came(p.Size())
		switch p.Type {
		case types.PACKET_ERR:
			return errors.New("error from sender: " + string(p.Data))
		case types.PACKET_STAT:
			switch {
			case r.whole:
				return outOfOrder("a name after the last one")
			case p.Stat != nil:
				err = r.name(ctx, g, id, p.Stat)
				id++
			default:
				r.whole = true
				err = r.leave(0)
			}
		case types.PACKET_DATA:
			err = r.data(ctx, g, &p)
		case types.PACKET_FIN:
			for {
				if err := r.stream.RecvMsg(&p); err != nil {
					if errors.Is(err, io.EOF) {
						return nil
					}
					return err
				}
			}
		}
		if err != nil {
			return err
		}
		if open && r.whole && len(r.wanted) == 0 {
			if refused := r.loans.returned(); len(refused) > 0 && ctx.Err() == nil {
				for _, f := range refused {
					r.want(f)
				}
				continue
			}
			finish()
			r.writers.Wait()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := r.end(); err != nil {
				return err
			}
			r.mu.Lock()
			r.bye = true
			r.mu.Unlock()
			r.wake()
		}
	}
}

// name deals with one name of the client's tree; they come in order.
func (r *receiver) name(ctx context.Context, g *errgroup.Group, id uint32, st *types.Stat) error {
	if err := errors.Join(
		r.order.HandleChange(fsutil.ChangeKindAdd, st.Path, &fsutil.StatInfo{Stat: st}, nil),
		r.links.HandleChange(fsutil.ChangeKindAdd, st.Path, &fsutil.StatInfo{Stat: st}, nil)); err != nil {
		return err
	}
	above := path.Dir(st.Path)
	n := len(r.dirs)
	for n > 1 && r.dirs[n-1].path != above {
		n--
	}
	if err := r.leave(n); err != nil {
		return err
	}
	in := r.dirs[n-1]
	if in.path != above {
		return outOfOrder("%q is in no directory", st.Path)
	}
	mode := os.FileMode(st.Mode)
	if mode.IsRegular() && st.Linkname != "" {
		in.keep(st)
		r.last = append(r.last, st)
		return nil
	}
	same, was, err := in.same(st, r.seen)
	if err != nil {
		return err
	}
	if same && r.every && mode.IsRegular() && st.Size > 0 {
		in.changed = true // or will be
		r.want(&file{id: id, st: st, there: true})
		return nil
	}
	if same && !mode.IsDir() {
		return nil
	}
	if !same {
		if err := r.change(); err != nil {
			return err
		}
	}
	if mode.IsDir() {
		d, err := in.enter(st, was, same)
		if err != nil {
			return err
		}
		r.dirs = append(r.dirs, d)
		if same {
			return nil
		}
		return r.note(st, nil)
	}
	if err := in.clear(path.Base(st.Path), was); err != nil {
		return err
	}
	in.changed = true
	if mode.IsRegular() && st.Size == 0 {
		return r.hand(ctx, &file{st: st})
	}
	if mode.IsRegular() {
		if f := (&file{id: id, st: st}); !r.lent(ctx, g, f) {
			r.want(f)
		}
		return nil
	}
	if err := in.special(st); err != nil {
		return err
	}
	return r.note(st, nil)
}

// want asks for a file.
func (r *receiver) want(f *file) {
	r.wanted[f.id] = f
	r.coming += f.st.Size
	r.mu.Lock()
	r.ask = append(r.ask, f.id)
	r.mu.Unlock()
	r.wake()
}

// came counts bytes that have come.
func (r *receiver) came(n int) {
	r.counting.Lock()
	defer r.counting.Unlock()
	r.size += n
	r.progress(r.size, false)
}

// told tells of all of them.
func (r *receiver) told() {
	r.counting.Lock()
	defer r.counting.Unlock()
	r.progress(r.size, true)
}

// change is called before something is changed.
func (r *receiver) change() error {
	if r.changed {
		return nil
	}
	r.changed = true
	return r.changing()
}

// leave closes the directories from the n-th on, after which nothing comes for
// them any more: what was not named goes.
func (r *receiver) leave(n int) error {
	for len(r.dirs) > n {
		d := r.dirs[len(r.dirs)-1]
		r.dirs = r.dirs[:len(r.dirs)-1]
		for name, kind := range d.old {
			if err := r.change(); err != nil {
				return err
			}
			d.changed = true
			if err := d.clear(name, kind); err != nil {
				return err
			}
			if err := r.hashes.HandleChange(fsutil.ChangeKindDelete, path.Join(d.path, name), nil, nil); err != nil {
				return err
			}
		}
		if d.st != nil && (d.changed || !d.timely()) {
			r.stale = append(r.stale, d.st)
		}
		if d != r.top {
			d.close()
		}
	}
	return nil
}

// data takes a part of a file; an empty one is its end.
func (r *receiver) data(ctx context.Context, g *errgroup.Group, p *types.Packet) error {
	f := r.wanted[p.ID]
	switch {
	case f == nil:
		return outOfOrder("data of file %d", p.ID)
	case len(p.Data) == 0:
		delete(r.wanted, p.ID)
		if f.parts != nil {
			err := r.part(ctx, f, nil)
			close(f.parts)
			return err
		}
		if same, err := r.replaces(f); err != nil || same {
			return err
		}
		return r.hand(ctx, f)
	}
	b := r.took(p.Data)
	if f.parts == nil && len(f.data)+len(b) <= small && r.held.Load() < most {
		r.held.Add(int64(len(b)))
		if f.data == nil {
			f.data = b
		} else {
			f.data = append(f.data, b...)
		}
		return nil
	}
	if f.parts == nil {
		f.parts = make(chan []byte, 2)
		if _, err := r.replaces(f); err != nil {
			return err
		}
		r.writer(g, func() error {
			var at opened
			defer at.close()
			return r.one(ctx, f, &at)
		})
	}
	if joined, ok := r.room.join(f.next, b); ok {
		f.next = joined
		return nil
	}
	return r.part(ctx, f, b)
}

// part hands a part of a large file to who writes it; next is what comes after
// it.
func (r *receiver) part(ctx context.Context, f *file, next []byte) error {
	b := f.next
	f.next = next
	if len(b) == 0 {
		return nil
	}
	select {
	case f.parts <- b:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// replaces makes way for a file that has come, unless what is there is the same
// by its content as well. A large one is not compared.
func (r *receiver) replaces(f *file) (same bool, err error) {
	if !f.there {
		return false, nil
	}
	at, err := r.top.below(path.Dir(f.st.Path))
	if err != nil {
		return false, err
	}
	defer unix.Close(at)
	name := path.Base(f.st.Path)
	if f.parts == nil {
		if same, err = holds(at, name, f.data); err != nil || same {
			r.held.Add(-int64(len(f.data)))
			return same, err
		}
	}
	if err := r.change(); err != nil {
		return false, err
	}
	return false, r.top.wrap("remove", f.st.Path, unix.Unlinkat(at, name, 0))
}

// hand gives a file to the writers.
func (r *receiver) hand(ctx context.Context, f *file) error {
	select {
	case r.ready <- f:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// write writes files until there are no more.
func (r *receiver) write(ctx context.Context) error {
	var at opened
	defer at.close()
	for f := range r.ready {
		if err := r.one(ctx, f, &at); err != nil {
			return err
		}
	}
	return nil
}

func (r *receiver) one(ctx context.Context, f *file, at *opened) error {
	h, err := contenthash.NewFromStat(f.st)
	if err != nil {
		return err
	}
	dir, err := at.dir(r.top, path.Dir(f.st.Path))
	if err != nil {
		return err
	}
	err = create(dir, f.st, func(w io.Writer) error {
		h.Write(f.data) //nolint:errcheck // it never fails
		_, err := w.Write(f.data)
		r.held.Add(-int64(len(f.data)))
		f.data = nil
		if err != nil || f.parts == nil {
			return err
		}
		// The digest is made while the same bytes are written.
		hash, hashed := make(chan []byte), make(chan struct{})
		defer close(hash)
		go func() {
			for b := range hash {
				h.Write(b) //nolint:errcheck // it never fails
				hashed <- struct{}{}
			}
		}()
		for b := range f.parts {
			hash <- b
			_, err := w.Write(b)
			<-hashed
			if err != nil {
				return err
			}
			if cap(b) == roomSize && len(b) > roomSize-rest { // nobody else has any of it
				r.rooms.Put(&b)
			}
		}
		return context.Cause(ctx) // it may not have been the end
	})
	if err != nil {
		return err
	}
	return r.note(f.st, h)
}

// note tells the cache what a name now is; h has seen the content.
func (r *receiver) note(st *types.Stat, h hash.Hash) error { return note(r.hashes, st, h) }

func note(hashes contenthash.CacheContext, st *types.Stat, h hash.Hash) (err error) {
	if h == nil {
		if h, err = contenthash.NewFromStat(st); err != nil {
			return err
		}
	}
	return hashes.HandleChange(fsutil.ChangeKindAdd, st.Path, &digested{fsutil.StatInfo{Stat: st}, digest.NewDigest(digest.SHA256, h)}, nil)
}

// requests asks for files. It is beside the loop over what comes: the client
// may be waiting for that to go on before it reads.
func (r *receiver) requests(ctx context.Context) error {
	for {
		select {
		case <-r.say:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		r.mu.Lock()
		list, bye := r.ask, r.bye
		r.ask = nil
		r.mu.Unlock()
		for _, id := range list {
			if err := r.send(&types.Packet{Type: types.PACKET_REQ, ID: id}); err != nil {
				return err
			}
		}
		if bye {
			return r.send(&types.Packet{Type: types.PACKET_FIN})
		}
	}
}

func (r *receiver) send(p *types.Packet) error {
	r.sending.Lock()
	defer r.sending.Unlock()
	return r.stream.SendMsg(p)
}

func (r *receiver) wake() {
	select {
	case r.say <- struct{}{}:
	default:
	}
}

// end does what needs all files to be there.
func (r *receiver) end() error {
	for _, st := range r.last {
		same, err := r.top.linked(st)
		if err != nil {
			return err
		}
		if same {
			continue
		}
		if err := r.change(); err != nil {
			return err
		}
		if err := r.top.link(st); err != nil {
			return err
		}
		if err := r.note(st, nil); err != nil {
			return err
		}
	}
	for _, st := range r.stale {
		if err := r.top.settle(st); err != nil {
			return err
		}
	}
	return nil
}
