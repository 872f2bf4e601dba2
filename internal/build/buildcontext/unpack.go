package buildcontext

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/cache/contenthash"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// unpacker brings a directory to what an archive contains, whose names may come
// in any order. They are made in that order; what small files contain is
// compared and written beside that.
type unpacker struct {
	hashes   contenthash.CacheContext
	changing func() error // called before the first change
	stop     func(error)  // ends the reading

	top   *dir
	in    *dir // that of the last entry, the only one that is open
	named string
	dirs  map[string]*folder // those that the archive told of
	seen  map[uint64]string  // files of several names that stay as they are
	most  int64              // bytes of the file system
	again bool               // names were made twice: hashes cannot follow that

	ready  chan *arrived // small files, to be written
	busy   sync.WaitGroup
	buffer []byte // for large files
	beside []byte

	once sync.Once
	fail error // of changing
}

// folder is a directory of the archive.
type folder struct {
	*dir
	looks   bool     // not those of the archive yet
	implied bool     // the archive has no entry of it
	below   []string // the directories in it that the archive told of
}

// unpack reads a plain tar.
func (u *unpacker) unpack(ctx context.Context, r io.Reader, to string) error {
	top, err := openRoot(to)
	if err != nil {
		return err
	}
	defer top.close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(top.fd, &fs); err != nil {
		return top.wrap("statfs", ".", err)
	}
	u.top, u.in, u.named, u.most = top, top, top.path, int64(fs.Blocks)*fs.Bsize
	u.dirs, u.seen = map[string]*folder{top.path: {dir: top, implied: true}}, map[uint64]string{}
	u.ready = make(chan *arrived, 64)
	defer func() { u.leave() }()
	var g errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		g.Go(u.write)
	}
	g.Go(func() error {
		defer close(u.ready)
		return u.entries(ctx, tar.NewReader(r))
	})
	err = g.Wait()
	if cause := context.Cause(ctx); cause != nil {
		err = cause // the others' errors follow from it
	}
	if err != nil {
		return err
	}
	return u.end()
}

// entries makes the names.
func (u *unpacker) entries(ctx context.Context, t *tar.Reader) error {
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return broken(err)
		}
		if err := u.entry(ctx, h, t); err != nil {
			return err
		}
	}
}

func (u *unpacker) entry(ctx context.Context, h *tar.Header, r io.Reader) error {
	name := inside(h.Name)
	if name == "." || h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	in, err := u.enter(path.Dir(name), 0)
	if err != nil {
		return err
	}
	st, err := describing(path.Join(in.path, path.Base(name)), h)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.directory(in, st, false)
	case tar.TypeReg:
		return u.regular(ctx, in, st, r)
	case tar.TypeLink:
		return u.link(in, st, inside(h.Linkname))
	}
	same, was, err := u.same(in, st)
	if err != nil || same {
		return err
	}
	if err := u.place(in, st, was, func() error { return in.special(st) }); err != nil {
		return err
	}
	return u.note(st, nil)
}

// change is called before something is changed.
func (u *unpacker) change() error {
	u.once.Do(func() { u.fail = u.changing() })
	return u.fail
}

// maxLinks is how many links may be on the way to a name, as in the kernel.
const maxLinks = 40

// enter opens a directory, by way of the archive's own links; the caller does
// not close it. One that the archive did not tell of is root's.
func (u *unpacker) enter(name string, links int) (*dir, error) {
	if u.named == name {
		return u.in, nil
	}
	if f := u.dirs[name]; f != nil {
		if f.fd < 0 {
			fd, err := u.top.below(name)
			if err != nil {
				return nil, err
			}
			u.leave()
			f.fd = fd
		} else if f.dir != u.in {
			u.leave() // for the top
		}
		u.named, u.in = name, f.dir
		return f.dir, nil
	}
	above, err := u.enter(path.Dir(name), links)
	if err != nil {
		return nil, err
	}
	base := path.Base(name)
	if real := path.Join(above.path, base); real != name {
		if links++; links > maxLinks {
			return nil, u.top.wrap("open", name, unix.ELOOP)
		}
		return u.enter(real, links)
	}
	if _, old := above.old[base]; !old {
		to := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(above.fd, base, to)
		switch {
		case err == nil:
			if links++; links > maxLinks {
				return nil, u.top.wrap("open", name, unix.ELOOP)
			}
			next := string(to[:n])
			if !path.IsAbs(next) {
				next = path.Join("/", above.path, next)
			}
			in, err := u.enter(inside(next), links)
			if err == nil {
				u.named = name
			}
			return in, err
		case errors.Is(err, unix.EINVAL):
			return nil, u.top.wrap("open", name, unix.ENOTDIR)
		case !errors.Is(err, unix.ENOENT):
			return nil, above.wrap("open", base, err)
		}
	}
	if err := u.directory(above, &types.Stat{Path: name, Mode: uint32(os.ModeDir | 0o755)}, true); err != nil {
		return nil, err
	}
	return u.enter(name, links)
}

// leave closes the directory that is open.
func (u *unpacker) leave() {
	if u.in != u.top {
		u.in.close()
	}
	u.named, u.in = u.top.path, u.top
}

// same tells whether a name is what the archive has, by its looks. Attributes
// are not among them: who has some is written anew.
func (u *unpacker) same(in *dir, st *types.Stat) (bool, uint32, error) {
	same, was, err := in.same(st, u.seen)
	return same && len(st.Xattrs) == 0, was, err
}

// place makes a name in the place of what was there, and of what an earlier
// entry made there.
func (u *unpacker) place(in *dir, st *types.Stat, was uint32, do func() error) error {
	if err := u.change(); err != nil {
		return err
	}
	name := path.Base(st.Path)
	if err := in.clear(name, was); err != nil {
		return err
	}
	err := do()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	u.busy.Wait()
	u.again = true
	if err = unix.Unlinkat(in.fd, name, 0); errors.Is(err, unix.EISDIR) {
		err = u.forget(in, st.Path)
	}
	if err != nil {
		return in.wrap("remove", name, err)
	}
	return do()
}

// forget removes a directory that an earlier entry made, with what is in it: a
// later one of its name is none. Nothing below it is open.
func (u *unpacker) forget(in *dir, name string) error {
	u.busy.Wait()
	u.again = true
	if err := removeAll(in.fd, path.Base(name)); err != nil {
		return err
	}
	for list := []string{name}; len(list) > 0; {
		last := list[len(list)-1]
		list = list[:len(list)-1]
		if f := u.dirs[last]; f != nil {
			list = append(list, f.below...)
			delete(u.dirs, last)
		}
	}
	clear(u.seen) // of these some may be gone; one that is not is then kept for two names
	return nil
}

// directory makes a directory, or keeps the one that is there.
func (u *unpacker) directory(in *dir, st *types.Stat, implied bool) error {
	if f := u.dirs[st.Path]; f != nil {
		f.st, f.looks, f.implied = st, true, false
		return u.note(st, nil)
	}
	same, was, err := u.same(in, st)
	if err != nil {
		return err
	}
	f := &folder{dir: &dir{path: st.Path, st: st, fd: -1}, looks: !same, implied: implied}
	name := path.Base(st.Path)
	if was != unix.S_IFDIR {
		err = u.place(in, st, was, func() error { return in.wrap("mkdir", name, unix.Mkdirat(in.fd, name, 0o700)) })
	} else if f.fd, err = unix.Openat(in.fd, name, openDir, 0); err == nil {
		err = f.read()
		f.close()
	}
	if err != nil {
		return err
	}
	u.dirs[st.Path] = f
	above := u.dirs[in.path]
	above.below = append(above.below, st.Path)
	if same {
		return nil
	}
	return u.note(st, nil)
}

// link makes a further name of a file of the archive.
func (u *unpacker) link(in *dir, st *types.Stat, to string) error {
	u.busy.Wait() // what the name means may be about to be replaced
	at, err := u.enter(path.Dir(to), 0)
	if err != nil {
		return err
	}
	if _, old := at.old[path.Base(to)]; old || to == "." {
		return at.wrap("link", path.Base(to), unix.ENOENT)
	}
	st.Linkname = path.Join(at.path, path.Base(to))
	if u.dirs[st.Linkname] != nil || st.Linkname == st.Path || strings.HasPrefix(st.Linkname, st.Path+"/") {
		return broken(fmt.Errorf("%q cannot be a link to %q", st.Path, to))
	}
	if in, err = u.enter(path.Dir(st.Path), 0); err != nil {
		return err
	}
	if u.dirs[st.Path] != nil {
		if err := errors.Join(u.change(), in.wrap("remove", path.Base(st.Path), u.forget(in, st.Path))); err != nil {
			return err
		}
	}
	if was, old := in.old[path.Base(st.Path)]; old {
		in.keep(st)
		if was != unix.S_IFDIR {
			if same, err := u.top.linked(st); err != nil || same {
				return err
			}
		}
	} else if unix.Faccessat(in.fd, path.Base(st.Path), unix.F_OK, unix.AT_SYMLINK_NOFOLLOW) == nil {
		u.again = true
	}
	if err := u.change(); err != nil {
		return err
	}
	if err := u.top.link(st); err != nil {
		return err
	}
	return u.note(st, nil)
}

// end removes what the archive does not have, and gives directories their looks.
func (u *unpacker) end() error {
	u.leave()
	names := make([]string, 0, len(u.dirs))
	for name := range u.dirs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f := u.dirs[name]
		if f.dir != u.top {
			fd, err := u.top.below(name)
			if err != nil {
				return err
			}
			f.fd = -1
			again, err := unix.Openat(fd, ".", openDir, 0)
			unix.Close(fd)
			if err != nil {
				return u.top.wrap("open", name, err)
			}
			f.fd = again
		}
		err := u.tidy(f)
		if f.dir != u.top {
			f.close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) tidy(f *folder) error {
	for name, kind := range f.old {
		if err := u.change(); err != nil {
			return err
		}
		if err := f.clear(name, kind); err != nil {
			return err
		}
		if err := u.hashes.HandleChange(fsutil.ChangeKindDelete, path.Join(f.path, name), nil, nil); err != nil {
			return err
		}
	}
	if f.looks && f.st != nil {
		if err := u.change(); err != nil {
			return err
		}
		if err := describe(f.fd, f.st); err != nil {
			return f.wrap("change", ".", err)
		}
	}
	if f.implied || f.timely() {
		return nil
	}
	return f.wrap("change", ".", settle(f.fd, f.st))
}

// note tells the cache what a name now is; h has seen the content.
func (u *unpacker) note(st *types.Stat, h hash.Hash) error { return note(u.hashes, st, h) }
