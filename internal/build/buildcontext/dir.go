package buildcontext

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
)

// dir is a directory of the tree as it was, which becomes what the client has.
type dir struct {
	path    string
	st      *types.Stat // nil for the top
	fd      int
	old     map[string]uint32 // names that the client has not sent (yet), and what they are
	changed bool              // a name in it
}

const openDir = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

func openRoot(name string) (*dir, error) {
	fd, err := unix.Open(name, openDir, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	d := &dir{path: ".", fd: fd}
	if err := d.read(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *dir) close() {
	if d.fd >= 0 {
		unix.Close(d.fd)
	}
	d.fd = -1
}

// read notes what is in the directory.
func (d *dir) read() error {
	again, err := unix.Openat(d.fd, ".", openDir, 0)
	if err != nil {
		return d.wrap("open", ".", err)
	}
	f := os.NewFile(uintptr(again), d.path)
	defer f.Close()
	list, err := f.ReadDir(-1)
	if err != nil {
		return err
	}
	d.old = make(map[string]uint32, len(list))
	for _, e := range list {
		d.old[e.Name()] = kind(e.Type())
	}
	return nil
}

func (d *dir) wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path.Join(d.path, name), Err: err}
}

// kind gives a type of file in the kernel's words.
func kind(m os.FileMode) uint32 {
	switch {
	case m.IsDir():
		return unix.S_IFDIR
	case m&os.ModeSymlink != 0:
		return unix.S_IFLNK
	case m&os.ModeNamedPipe != 0:
		return unix.S_IFIFO
	case m&os.ModeCharDevice != 0:
		return unix.S_IFCHR
	case m&os.ModeDevice != 0:
		return unix.S_IFBLK
	case m&os.ModeSocket != 0:
		return unix.S_IFSOCK
	}
	return unix.S_IFREG
}

// bits gives a mode without the type in the kernel's words.
func bits(m os.FileMode) uint32 {
	out := uint32(m.Perm())
	if m&os.ModeSetuid != 0 {
		out |= unix.S_ISUID
	}
	if m&os.ModeSetgid != 0 {
		out |= unix.S_ISGID
	}
	if m&os.ModeSticky != 0 {
		out |= unix.S_ISVTX
	}
	return out
}

func device(st *types.Stat) uint64 { return unix.Mkdev(uint32(st.Devmajor), uint32(st.Devminor)) }

// same tells whether a name is what the client has, by what is known of it
// without reading it, and what is there (0 for nothing). Of several names of
// one file only the first is.
func (d *dir) same(st *types.Stat, seen map[uint64]string) (bool, uint32, error) {
	name, mode := path.Base(st.Path), os.FileMode(st.Mode)
	was, ok := d.old[name]
	if !ok {
		return false, 0, nil
	}
	delete(d.old, name)
	var have unix.Stat_t
	if err := unix.Fstatat(d.fd, name, &have, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, 0, d.wrap("stat", name, err)
	}
	if was != kind(mode) || have.Uid != st.Uid || have.Gid != st.Gid {
		return false, was, nil
	}
	if was != unix.S_IFLNK && have.Mode&0o7777 != bits(mode) {
		return false, was, nil
	}
	if was == unix.S_IFDIR {
		return true, was, nil
	}
	if have.Mtim.Nano() != st.ModTime {
		return false, was, nil
	}
	switch was {
	case unix.S_IFREG:
		if have.Size != st.Size || seen[have.Ino] != "" {
			return false, was, nil
		}
		if have.Nlink > 1 {
			seen[have.Ino] = st.Path
		}
		return true, was, nil
	case unix.S_IFLNK:
		to := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(d.fd, name, to)
		return err == nil && string(to[:n]) == st.Linkname, was, nil
	}
	return have.Rdev == device(st), was, nil
}

// keep has a name stay until the end.
func (d *dir) keep(st *types.Stat) { delete(d.old, path.Base(st.Path)) }

// clear removes what is at a name.
func (d *dir) clear(name string, was uint32) error {
	switch was {
	case 0:
		return nil
	case unix.S_IFDIR:
		return d.wrap("remove", name, removeAll(d.fd, name))
	}
	return d.wrap("remove", name, unix.Unlinkat(d.fd, name, 0))
}

func removeAll(at int, name string) error {
	fd, err := unix.Openat(at, name, openDir, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	list, err := f.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.IsDir() {
			err = removeAll(fd, e.Name())
		} else {
			err = unix.Unlinkat(fd, e.Name(), 0)
		}
		if err != nil {
			return err
		}
	}
	return unix.Unlinkat(at, name, unix.AT_REMOVEDIR)
}

// enter opens a directory, with the client's owner and mode.
func (d *dir) enter(st *types.Stat, was uint32, same bool) (*dir, error) {
	name := path.Base(st.Path)
	if was != unix.S_IFDIR {
		if err := d.clear(name, was); err != nil {
			return nil, err
		}
		d.changed = true
		if err := unix.Mkdirat(d.fd, name, 0o700); err != nil {
			return nil, d.wrap("mkdir", name, err)
		}
	}
	fd, err := unix.Openat(d.fd, name, openDir, 0)
	if err != nil {
		return nil, d.wrap("open", name, err)
	}
	next := &dir{path: st.Path, st: st, fd: fd}
	if was == unix.S_IFDIR {
		err = next.read()
	}
	if err == nil && !same {
		err = d.wrap("change", name, describe(fd, st))
	}
	if err != nil {
		next.close()
		return nil, err
	}
	return next, nil
}

// overlays tells whether an attribute has a meaning to an overlay that the file
// is a part of, which is none of the client's business.
func overlays(attribute string) bool {
	return strings.HasPrefix(attribute, "trusted.overlay.") || strings.HasPrefix(attribute, "user.overlay.")
}

// describe gives an open file attributes, owner and mode. Attributes that the
// file system does not take are left out, as BuildKit does.
func describe(fd int, st *types.Stat) error {
	for key, value := range st.Xattrs {
		if overlays(key) {
			continue
		}
		unix.Fsetxattr(fd, key, value, 0) //nolint:errcheck // see above
	}
	if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Fchmod(fd, bits(os.FileMode(st.Mode)))
}

func times(st *types.Stat) []unix.Timespec {
	t := unix.NsecToTimespec(st.ModTime)
	return []unix.Timespec{t, t}
}

// special makes what is neither a directory nor a regular file.
func (d *dir) special(st *types.Stat) error {
	name, mode := path.Base(st.Path), os.FileMode(st.Mode)
	var err error
	if mode&os.ModeSymlink != 0 {
		err = unix.Symlinkat(st.Linkname, d.fd, name)
	} else {
		err = unix.Mknodat(d.fd, name, kind(mode)|0o600, int(device(st)))
	}
	if err == nil {
		err = unix.Fchownat(d.fd, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
	}
	if err == nil && mode&os.ModeSymlink == 0 {
		err = unix.Fchmodat(d.fd, name, bits(mode), 0) // it was just made: no link
	}
	if err == nil {
		err = unix.UtimesNanoAt(d.fd, name, times(st), unix.AT_SYMLINK_NOFOLLOW)
	}
	return d.wrap("create", name, err)
}

// create makes a regular file.
func create(at int, st *types.Stat, content func(io.Writer) error) error {
	f, err := begin(at, st)
	if err != nil {
		return err
	}
	return finish(f, st, content)
}

// begin makes a regular file with nothing in it.
func begin(at int, st *types.Stat) (*os.File, error) {
	fd, err := unix.Openat(at, path.Base(st.Path), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: st.Path, Err: err}
	}
	return os.NewFile(uintptr(fd), st.Path), nil
}

// finish writes and closes a file. Its time comes last: a file that was not
// finished is another one to the next transfer.
func finish(f *os.File, st *types.Stat, content func(io.Writer) error) error {
	defer f.Close()
	if err := content(&early{file: f}); err != nil {
		return err
	}
	fd := int(f.Fd())
	err := describe(fd, st)
	if err == nil {
		err = settle(fd, st)
	}
	if err != nil {
		return &os.PathError{Op: "change", Path: st.Path, Err: err}
	}
	return f.Close()
}

// inode identifies the file of a name below the top.
func (d *dir) inode(name string) (uint64, error) {
	at, err := d.below(path.Dir(name))
	if err != nil {
		return 0, err
	}
	defer unix.Close(at)
	var st unix.Stat_t
	err = unix.Fstatat(at, path.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW)
	return st.Ino, d.wrap("stat", name, err)
}

// below opens a directory by its path, which no link is part of.
func (d *dir) below(name string) (int, error) {
	fd, err := mount.OpenBelow(d.fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	return fd, d.wrap("open", name, err)
}

// holds tells whether a regular file has just that content.
func holds(at int, name string, data []byte) (bool, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	have := make([]byte, len(data)+1)
	n, err := io.ReadFull(f, have)
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return false, err // it is longer, if there is none
	}
	return bytes.Equal(have[:n], data), nil
}

// linked tells whether a further name of a file is one already.
func (d *dir) linked(st *types.Stat) (bool, error) {
	first, err := d.inode(st.Linkname)
	if err != nil {
		return false, err
	}
	second, err := d.inode(st.Path)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return first == second, err
}

// link makes a further name of a file.
func (d *dir) link(st *types.Stat) error {
	from, err := d.below(path.Dir(st.Linkname))
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, err := d.below(path.Dir(st.Path))
	if err != nil {
		return err
	}
	defer unix.Close(to)
	name := path.Base(st.Path)
	if err := unix.Unlinkat(to, name, 0); errors.Is(err, unix.EISDIR) {
		err = removeAll(to, name)
		if err != nil {
			return d.wrap("remove", st.Path, err)
		}
	} else if err != nil && !errors.Is(err, unix.ENOENT) {
		return d.wrap("remove", st.Path, err)
	}
	return d.wrap("link", st.Path, unix.Linkat(from, path.Base(st.Linkname), to, name, 0))
}

// timely tells whether a directory has the client's time.
func (d *dir) timely() bool {
	var st unix.Stat_t
	return unix.Fstat(d.fd, &st) == nil && st.Mtim.Nano() == d.st.ModTime
}

// settle gives a directory the client's time.
func (d *dir) settle(st *types.Stat) error {
	fd, err := d.below(st.Path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return d.wrap("change", st.Path, settle(fd, st))
}

// settle gives an open file the client's time.
func settle(fd int, st *types.Stat) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), times(st), 0)
}

// opened is the directory that a writer used last; files come by directories.
type opened struct {
	path string
	fd   int
}

func (o *opened) dir(top *dir, name string) (int, error) {
	if o.path == name {
		return o.fd, nil
	}
	o.close()
	fd, err := top.below(name)
	if err != nil {
		return -1, err
	}
	o.path, o.fd = name, fd
	return fd, nil
}

func (o *opened) close() {
	if o.path != "" {
		unix.Close(o.fd)
	}
	o.path = ""
}
