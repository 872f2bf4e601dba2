package fileop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/tonistiigi/fsutil/copy"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
)

const (
	// few files of a copy are copied: programs that are particular about files
	// with several links (cron) get theirs as they expect them.
	few = 1000
	// large ones are linked even then.
	large = 1 << 20
)

// particular are directories for which nothing is linked: cron takes no file
// from them that has several links.
var particular = []string{"/etc/", "/var/spool/"}

// copying is one copy.
type copying struct {
	ctx     context.Context
	owner   *fs.User
	from    string
	layers  []string
	top     int  // the directory of the layer
	linking bool // files may be linked

	files  int
	taken  map[uint64]bool   // what may not be linked: the layers have it; nil: not known yet
	marked bool              // this layer
	links  map[uint64]string // where files of several links went that were copied
}

// copyTree copies src below from to dst in the uppermost of the layers; with links
// it may give that the files themselves.
func copyTree(ctx context.Context, from, src string, unpack bool, layers []string, dst string, owner *fs.User, links bool) error {
	base, err := unix.Open(from, pathOnly, 0)
	if err != nil {
		return errOther
	}
	defer unix.Close(base)
	src = path.Clean("/" + src)
	parent, err := mount.OpenStrict(base, "."+path.Dir(src), pathOnly)
	if err != nil {
		return errOther
	}
	defer unix.Close(parent)
	name := path.Base(src)
	if src == "/" {
		name = "."
	}
	var st unix.Stat_t
	if err := unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return errOther
	}
	if unpack && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return errOther // it may be an archive
	}
	into := strings.HasSuffix(dst, "/") || strings.HasSuffix(dst, "/.")
	c := &copying{ctx: ctx, owner: owner, from: from, layers: layers, linking: links, links: map[uint64]string{}}
	top, err := root(layers)
	if err != nil {
		return err
	}
	defer top.close()
	c.top = top.up
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		fd, err := readable(parent, name)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return c.into(top, path.Clean("/"+dst), func(p *place, at string) error {
			if err := c.fits(fd, p); err != nil {
				return err
			}
			if err := c.contents(fd, p, at); err != nil {
				return err
			}
			return times(p.up, "", &st)
		})
	case unix.S_IFREG:
		dst = path.Clean("/" + dst)
		if into {
			dst = path.Join(dst, name)
		}
		if dst == "/" {
			return errOther
		}
		return c.into(top, path.Dir(dst), func(p *place, at string) error {
			file := path.Base(dst)
			w, inside, err := p.look(file)
			if err != nil {
				return err
			}
			switch {
			case w == link && !into:
				return errOther // it leads to where the file goes
			case w != directory:
				return c.put(parent, name, &st, p, file, at, true)
			}
			defer inside.close()
			if into {
				return errOther
			}
			if w, deeper, err := inside.look(name); err != nil || w == directory {
				if err == nil {
					deeper.close()
					err = errOther
				}
				return err
			}
			if err := c.raise(p, inside, file); err != nil {
				return err
			}
			return c.put(parent, name, &st, inside, name, path.Join(at, file), true)
		})
	}
	return errOther
}

// into makes the directory at a path, with those above it, and calls then with it.
func (c *copying) into(p *place, to string, then func(p *place, at string) error) error {
	way := strings.FieldsFunc(to, func(r rune) bool { return r == '/' })
	return c.descend(p, way, "/", then)
}

func (c *copying) descend(p *place, way []string, at string, then func(*place, string) error) error {
	if len(way) == 0 {
		return then(p, at)
	}
	w, next, err := p.look(way[0])
	if err != nil {
		return err
	}
	switch w {
	case another, link:
		return errOther
	case nothing:
		// All that follows is new.
		if next, err = c.fresh(p, way[0], 0o755, c.owner); err != nil {
			return err
		}
	case directory:
		if err := c.raise(p, next, way[0]); err != nil {
			next.close()
			return err
		}
	}
	defer next.close()
	return c.descend(next, way[1:], path.Join(at, way[0]), then)
}

// fresh makes a directory of which no layer knows.
func (c *copying) fresh(p *place, name string, mode uint32, owner *fs.User) (*place, error) {
	if err := unix.Mkdirat(p.up, name, mode); err != nil {
		return nil, pathError("mkdir", name, err)
	}
	fd, err := unix.Openat(p.up, name, pathOnly, 0)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	if owner != nil {
		if err := unix.Fchownat(fd, "", owner.UID, owner.GID, unix.AT_EMPTY_PATH); err != nil {
			unix.Close(fd)
			return nil, pathError("chown", name, err)
		}
	}
	return &place{up: fd}, nil
}

// raise brings a directory that is below into the layer, as an overlay does
// before something in it changes.
func (c *copying) raise(p, dir *place, name string) error {
	if dir.up >= 0 {
		return nil
	}
	var above, st unix.Stat_t
	if err := unix.Fstat(p.up, &above); err != nil {
		return pathError("stat", name, err)
	}
	from := dir.below[0]
	if err := unix.Fstat(from, &st); err != nil {
		return pathError("stat", name, err)
	}
	made, err := c.fresh(p, name, st.Mode&0o7777, nil)
	if err != nil {
		return err
	}
	dir.up = made.up
	if err := c.meta(from, dir.up, &st, nil); err != nil {
		return err
	}
	return times(p.up, "", &above)
}

// fits tells before anything is written whether the files of src can go where
// they shall: a directory over a directory, a file over what is none.
func (c *copying) fits(src int, p *place) error {
	if p.empty() {
		return nil
	}
	if _, err := unix.Seek(src, 0, io.SeekStart); err != nil {
		return err
	}
	entries, err := list(src)
	if err != nil {
		return err
	}
	for _, e := range entries {
		w, inside, err := p.look(e.name)
		if err != nil {
			return err
		}
		switch {
		case w == nothing:
		case w != directory && e.kind == unix.DT_DIR:
			return errOther
		case w == directory:
			err := errOther
			if e.kind == unix.DT_DIR {
				var fd int
				if fd, err = readable(src, e.name); err == nil {
					err = c.fits(fd, inside)
					unix.Close(fd)
				}
			}
			inside.close()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// empty tells whether no layer below has such a directory, and this one nothing in it.
func (p *place) empty() bool {
	if len(p.below) > 0 {
		return false
	}
	fd, err := readable(p.up, ".")
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	n, err := unix.Getdents(fd, make([]byte, 512))
	return err == nil && n <= 48 // . and ..
}

// contents copies what is in src.
func (c *copying) contents(src int, p *place, at string) error {
	if err := c.ctx.Err(); err != nil {
		return context.Cause(c.ctx)
	}
	known := !p.empty()
	if _, err := unix.Seek(src, 0, io.SeekStart); err != nil {
		return err
	}
	entries, err := list(src)
	if err != nil {
		return err
	}
	for n, e := range entries {
		if n%256 == 255 && c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		var st unix.Stat_t
		if err := unix.Fstatat(src, e.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return pathError("stat", path.Join(at, e.name), err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = c.directory(src, e.name, &st, p, path.Join(at, e.name), known)
		} else {
			err = c.put(src, e.name, &st, p, e.name, at, known)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *copying) directory(src int, name string, st *unix.Stat_t, p *place, at string, known bool) error {
	fd, err := readable(src, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var next *place
	w := nothing
	if known {
		if w, next, err = p.look(name); err != nil {
			return err
		}
	}
	switch w {
	case another, link:
		return errOther
	case nothing:
		next, err = c.fresh(p, name, st.Mode&0o7777, nil)
	case directory:
		err = c.raise(p, next, name)
	}
	if next != nil {
		defer next.close()
	}
	if err != nil {
		return err
	}
	if err := c.contents(fd, next, at); err != nil {
		return err
	}
	return c.meta(fd, next.up, st, c.owner)
}

// put copies what is no directory to a name in p. Where something may be there
// already it goes first.
func (c *copying) put(src int, name string, st *unix.Stat_t, p *place, to, at string, known bool) error {
	if known {
		if err := unix.Unlinkat(p.up, to, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return pathError("remove", path.Join(at, to), err)
		}
	}
	c.files++
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if linked, err := c.share(src, name, st, p, to, at); linked || err != nil {
			return err
		}
		err = c.file(src, name, st, p, to, at)
	case unix.S_IFLNK:
		err = c.symlink(src, name, st, p, to)
	default:
		return errOther
	}
	if err != nil && !errors.Is(err, errOther) {
		return pathError("copy", path.Join(at, to), err)
	}
	return err
}

// share gives the layer the file itself, if it may.
func (c *copying) share(src int, name string, st *unix.Stat_t, p *place, to, at string) (bool, error) {
	if old, ok := c.links[st.Ino]; ok { // the second link of a file that was copied
		err := unix.Linkat(c.top, old, p.up, to, 0)
		return err == nil, nil
	}
	if !c.linking || c.files <= few && st.Size < large || c.owner != nil && (uint32(c.owner.UID) != st.Uid || uint32(c.owner.GID) != st.Gid) {
		return false, nil
	}
	for _, dir := range particular {
		if strings.HasPrefix(at+"/", dir) {
			return false, nil
		}
	}
	if err := c.learn(); err != nil {
		return false, err
	}
	if c.taken[st.Ino] {
		return false, nil
	}
	if !c.marked {
		if err := setMark(c.layers[0], c.from); err != nil {
			return false, err
		}
		c.marked = true
	}
	// Another file system, too many links: it is copied.
	return unix.Linkat(src, name, p.up, to, 0) == nil, nil
}

// learn finds the files that layers have by links.
func (c *copying) learn() error {
	if c.taken != nil {
		return nil
	}
	c.taken = map[uint64]bool{}
	for _, layer := range c.layers {
		if _, err := os.Lstat(mark(layer)); err != nil {
			continue
		}
		if err := inodes(unix.AT_FDCWD, layer, c.taken); err != nil {
			return err
		}
	}
	return nil
}

func (c *copying) file(src int, name string, st *unix.Stat_t, p *place, to, at string) error {
	in, err := unix.Openat(src, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	from := os.NewFile(uintptr(in), name)
	defer from.Close()
	out, err := unix.Openat(p.up, to, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(out), to)
	defer file.Close()
	if st.Size > 0 {
		// The kernel copies, without the bytes being seen here.
		for done := int64(0); done < st.Size; {
			if err := c.ctx.Err(); err != nil {
				return context.Cause(c.ctx)
			}
			n, err := unix.CopyFileRange(in, nil, out, nil, int(min(st.Size-done, 1<<30)), 0)
			if err != nil || n == 0 {
				if done > 0 || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
					return err
				}
				if _, err := io.Copy(struct{ io.Writer }{file}, struct{ io.Reader }{from}); err != nil {
					return err
				}
				break
			}
			done += int64(n)
		}
	}
	if err := c.meta(in, out, st, c.owner); err != nil {
		return err
	}
	if st.Nlink > 1 {
		c.links[st.Ino] = "." + path.Join(at, to)
	}
	return file.Close()
}

func (c *copying) symlink(src int, name string, st *unix.Stat_t, p *place, to string) error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(src, name, buf)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(string(buf[:n]), p.up, to); err != nil {
		return err
	}
	uid, gid := int(st.Uid), int(st.Gid)
	if c.owner != nil {
		uid, gid = c.owner.UID, c.owner.GID
	}
	if err := unix.Fchownat(p.up, to, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return times(p.up, to, st)
}

// meta gives a file owner, mode, attributes and times of another.
func (c *copying) meta(from, to int, st *unix.Stat_t, owner *fs.User) error {
	uid, gid := int(st.Uid), int(st.Gid)
	if owner != nil {
		uid, gid = owner.UID, owner.GID
	}
	if uid != 0 || gid != 0 || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := unix.Fchownat(to, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return os.NewSyscallError("chown", err)
		}
	}
	if err := attributes(from, to); err != nil {
		return err
	}
	if err := unix.Chmod(self(to), st.Mode&0o7777); err != nil {
		return os.NewSyscallError("chmod", err)
	}
	return times(to, "", st)
}

// attributes copies extended attributes. One that the file system does not take
// is left out, as BuildKit does.
func attributes(from, to int) error {
	source := self(from)
	n, err := unix.Listxattr(source, nil)
	if n <= 0 || err != nil {
		return nil //nolint:nilerr // a file system that has none
	}
	names := make([]byte, n+1024)
	if n, err = unix.Listxattr(source, names); err != nil {
		return os.NewSyscallError("listxattr", err)
	}
	for name := range bytes.SplitSeq(names[:n], []byte{0}) {
		key := string(name)
		if key == "" || strings.HasPrefix(key, "trusted.overlay.") || strings.HasPrefix(key, "user.overlay.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Getxattr(source, key, value)
		if err != nil {
			continue
		}
		unix.Setxattr(self(to), key, value[:n], 0) //nolint:errcheck // see above
	}
	return nil
}

func times(at int, name string, st *unix.Stat_t) error {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		at, name, flags = unix.AT_FDCWD, self(at), 0
	}
	if err := unix.UtimesNanoAt(at, name, []unix.Timespec{st.Atim, st.Mtim}, flags); err != nil {
		return os.NewSyscallError("utimensat", err)
	}
	return nil
}

// self is a path to an open file, for calls that take no descriptor of a file
// that was opened as a path alone.
func self(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func pathError(op, name string, err error) error {
	if p := (*os.PathError)(nil); errors.As(err, &p) || errors.Is(err, errOther) || errors.Is(err, context.Canceled) {
		return err
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}
