package diff

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

var (
	// errDeep is a tree that has too many directories in each other.
	errDeep = errors.New("a directory of the layer is too deep")
	// errMoved is a directory that has another name in the layer below.
	errMoved = errors.New("a directory of the layer below is moved")
)

const (
	batch = 32       // entries that are looked at together
	queue = 32       // of such batches that are looked at ahead
	small = 16 << 10 // up to this size a file is read ahead
	depth = 500      // of directories; each has two descriptors open
)

// kind is what became of a name.
type kind int

const (
	written   kind = iota // new, or another than below
	removed               // what is below it
	unchanged             // or nothing at all
)

// entry is a name in the layer.
type entry struct {
	name, path string
	kind       kind
	st         unix.Stat_t
	target     string // of a symbolic link
	capability []byte
	data       []byte // of a small file
	written    bool   // a directory whose header is written
	linked     bool   // to a name before it
}

// links tells whether the entry is one of several names of a file.
func (e *entry) links() bool { return e.st.Nlink > 1 && e.st.Mode&unix.S_IFMT != unix.S_IFDIR }

func (e *entry) regular() bool { return e.st.Mode&unix.S_IFMT == unix.S_IFREG }

// dir is an open directory of the layer, and the one below it, nil for none.
type dir struct {
	path  string
	upper *os.File
	base  *os.File
	// whole says that nothing of base shows through: it was removed and made anew,
	// or one that it is in. What is not in upper is removed.
	whole bool
	users atomic.Int32
}

func (d *dir) release() {
	if d.users.Add(-1) == 0 {
		d.upper.Close()
		if d.base != nil {
			d.base.Close()
		}
	}
}

func (d *dir) open(e *entry) (*os.File, error) { return openAt(d.upper, e.name, unix.O_NONBLOCK) }

func openAt(in *os.File, name string, flags int) (*os.File, error) {
	p := filepath.Join(in.Name(), name)
	fd, err := unix.Openat(int(in.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: p, Err: err}
	}
	return os.NewFile(uintptr(fd), p), nil
}

// job is some entries of one directory, in their order.
type job struct {
	in      *dir
	entries []entry
	enter   bool // the only entry is a directory, and what is in it follows
	leave   bool // the directory that was entered last is over
	err     error
	done    chan struct{} // closed when the entries are known
}

// walker goes through a layer, ahead of who writes it.
type walker struct {
	ctx  context.Context
	jobs chan *job // in their order
	work chan *job
}

// walk gives the entries of a layer in the order of their names, each directory
// before what is in it. They must be read until the channel is closed, or the
// context ended; each directory of a job is released by the reader.
func walk(ctx context.Context, top, base string) <-chan *job {
	w := &walker{ctx: ctx, jobs: make(chan *job, queue), work: make(chan *job, queue)}
	for range runtime.GOMAXPROCS(0) {
		go func() {
			for j := range w.work {
				for i := range j.entries {
					if j.err = j.in.look(&j.entries[i]); j.err != nil {
						break
					}
				}
				close(j.done)
			}
		}()
	}
	go func() {
		defer close(w.jobs)
		defer close(w.work)
		d, err := openTop(top, base)
		if err == nil {
			err = w.dir(d, 0)
		}
		if err != nil && ctx.Err() == nil {
			failed := &job{err: err, in: &dir{}, done: make(chan struct{})}
			failed.in.users.Add(2) // it has no files
			close(failed.done)
			select {
			case w.jobs <- failed:
			case <-ctx.Done():
			}
		}
	}()
	return w.jobs
}

func openTop(top, base string) (_ *dir, err error) {
	d := &dir{}
	d.users.Add(1)
	if d.upper, err = os.OpenFile(top, os.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return nil, err
	}
	if base != "" {
		if d.base, err = os.OpenFile(base, os.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
			d.upper.Close()
			return nil, err
		}
	}
	return d, nil
}

// put hands a job to its reader and to who fills it.
func (w *walker) put(j *job) error {
	j.done = make(chan struct{})
	j.in.users.Add(1)
	select {
	case w.jobs <- j:
		w.work <- j
		return nil
	case <-w.ctx.Done():
		j.in.release()
		return context.Cause(w.ctx)
	}
}

// dir goes through a directory, which it releases.
func (w *walker) dir(d *dir, deep int) error {
	defer d.release()
	if deep > depth {
		return errDeep
	}
	list, err := d.list()
	if err != nil {
		return err
	}
	var some []entry
	flush := func() error {
		if len(some) == 0 {
			return nil
		}
		j := &job{in: d, entries: some}
		some = nil
		return w.put(j)
	}
	for _, l := range list {
		e := entry{name: l.name, path: path.Join(d.path, l.name), kind: l.kind}
		if !l.dir {
			if some == nil {
				some = make([]entry, 0, min(batch, len(list)))
			}
			if some = append(some, e); len(some) == batch {
				if err := flush(); err != nil {
					return err
				}
			}
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		sub, err := d.enter(&e)
		if err != nil {
			return err
		}
		if err := w.put(&job{in: d, entries: []entry{e}, enter: true}); err != nil {
			sub.release()
			return err
		}
		if err := w.dir(sub, deep+1); err != nil {
			return err
		}
		if err := w.put(&job{in: d, leave: true}); err != nil {
			return err
		}
	}
	return flush()
}

// listed is a name of a directory; the kind is known of removed ones.
type listed struct {
	name string
	dir  bool
	kind kind
}

// list gives the names in a directory in their order, with those that are below
// it alone if it stands for the one there.
func (d *dir) list() ([]listed, error) {
	here, err := d.upper.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	out := make([]listed, 0, len(here))
	for _, l := range here {
		out = append(out, listed{name: l.Name(), dir: l.IsDir()})
	}
	if d.whole && d.base != nil {
		names := make(map[string]bool, len(here))
		for _, l := range here {
			names[l.Name()] = true
		}
		below, err := d.base.Readdirnames(-1)
		if err != nil {
			return nil, err
		}
		for _, name := range below {
			if !names[name] {
				out = append(out, listed{name: name, kind: removed})
			}
		}
	}
	slices.SortFunc(out, func(a, b listed) int { return cmp.Compare(a.name, b.name) })
	return out, nil
}

// enter opens a directory in this one.
func (d *dir) enter(e *entry) (_ *dir, err error) {
	sub := &dir{path: e.path, whole: d.whole}
	sub.users.Add(1)
	if sub.upper, err = openAt(d.upper, e.name, unix.O_DIRECTORY); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			sub.release()
		}
	}()
	if d.base == nil {
		return sub, nil
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(d.base.Fd()), e.name, &st, unix.AT_SYMLINK_NOFOLLOW); errors.Is(err, unix.ENOENT) {
		return sub, nil
	} else if err != nil {
		return nil, err
	}
	mark := make([]byte, 2)
	n, err := unix.Fgetxattr(int(sub.upper.Fd()), "trusted.overlay.opaque", mark)
	switch {
	case err == nil && n == 1 && mark[0] == 'y':
		sub.whole = true
	case err != nil && !absent(err) && !errors.Is(err, unix.ERANGE):
		return nil, fmt.Errorf("%s: %w", e.path, err)
	}
	if n, err := unix.Fgetxattr(int(sub.upper.Fd()), "trusted.overlay.redirect", nil); err == nil && n > 0 {
		return nil, errMoved
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return sub, nil
	}
	sub.base, err = openAt(d.base, e.name, unix.O_DIRECTORY)
	return sub, err
}

func absent(err error) bool { return errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) }

// look finds out what an entry is.
func (d *dir) look(e *entry) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", e.path, err)
		}
	}()
	if e.kind == removed {
		return nil // there is nothing to look at
	}
	if err := unix.Fstatat(int(d.upper.Fd()), e.name, &e.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	var below *unix.Stat_t
	if d.base != nil {
		var st unix.Stat_t
		err := unix.Fstatat(int(d.base.Fd()), e.name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil {
			below = &st
		} else if !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	if e.st.Mode&unix.S_IFMT == unix.S_IFCHR && e.st.Rdev == 0 {
		if e.kind = removed; below == nil {
			e.kind = unchanged // it was never there
		}
		return nil
	}
	if e.capability, err = capabilityOf(d.upper, e.name); err != nil {
		return err
	}
	if below != nil {
		same, err := d.same(e, below)
		if err != nil {
			return err
		}
		if same {
			// The header of a directory is written if something in it is, the name of
			// a file that stands for one of before if another name of the file is.
			e.kind = unchanged
			if e.st.Mode&unix.S_IFMT != unix.S_IFDIR && !(d.whole && e.links()) {
				return nil
			}
		}
	}
	switch {
	case e.st.Mode&unix.S_IFMT == unix.S_IFLNK:
		e.target, err = readlink(d.upper, e.name)
	case e.regular() && e.st.Size > 0 && e.st.Size <= small:
		e.data, err = d.read(e)
	}
	return err
}

func (d *dir) read(e *entry) ([]byte, error) {
	f, err := d.open(e)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, e.st.Size)
	_, err = io.ReadFull(f, data)
	return data, err
}

func readlink(in *os.File, name string) (string, error) {
	b := make([]byte, 4097)
	n, err := unix.Readlinkat(int(in.Fd()), name, b)
	return string(b[:max(n, 0)]), err
}

// capabilityOf reads what a program may do, "" for nothing.
func capabilityOf(in *os.File, name string) ([]byte, error) {
	var buf [64]byte
	n, err := unix.Lgetxattr("/proc/self/fd/"+strconv.Itoa(int(in.Fd()))+"/"+name, capability, buf[:])
	if err != nil {
		if absent(err) {
			err = nil
		}
		return nil, err
	}
	return bytes.Clone(buf[:n]), nil
}

// same tells whether an entry is what it was: by its looks and, where times were
// cut to seconds by an archive, by its content.
func (d *dir) same(e *entry, was *unix.Stat_t) (bool, error) {
	now := &e.st
	if now.Dev == was.Dev && now.Ino == was.Ino {
		return true, nil
	}
	if now.Mode != was.Mode || now.Uid != was.Uid || now.Gid != was.Gid || now.Rdev != was.Rdev {
		return false, nil
	}
	had, err := capabilityOf(d.base, e.name)
	if err != nil || !bytes.Equal(had, e.capability) {
		return false, err
	}
	if now.Mode&unix.S_IFMT == unix.S_IFDIR {
		return true, nil
	}
	if now.Size != was.Size || now.Mtim != was.Mtim {
		return false, nil
	}
	if now.Mtim.Nsec != 0 {
		return true, nil
	}
	if now.Mode&unix.S_IFMT == unix.S_IFLNK {
		new, err := readlink(d.upper, e.name)
		if err != nil {
			return false, err
		}
		old, err := readlink(d.base, e.name)
		return new == old, err
	}
	if now.Size == 0 || !e.regular() {
		return true, nil
	}
	return d.equal(e)
}

// equal compares contents of files of one size.
func (d *dir) equal(e *entry) (bool, error) {
	a, err := d.open(e)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := openAt(d.base, e.name, unix.O_NONBLOCK)
	if err != nil {
		return false, err
	}
	defer b.Close()
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for left := e.st.Size; left > 0; {
		n := min(left, int64(len(x)))
		if _, err := io.ReadFull(a, x[:n]); err != nil {
			return false, err
		}
		if _, err := io.ReadFull(b, y[:n]); err != nil {
			return false, err
		}
		if !bytes.Equal(x[:n], y[:n]) {
			return false, nil
		}
		left -= n
	}
	return true, nil
}
