package cp

import (
	"context"
	"errors"
	"io"
	"path"
	"time"

	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/archive"
	"github.com/wherry-engine/wherry/internal/container"
)

// Stat describes the file at p; a link at its end is not followed.
func (f *Files) Stat(ctx context.Context, ref, p string) (*apicontainer.PathStat, error) {
	v, fd, err := f.find(ctx, ref, p)
	if err != nil {
		return nil, err
	}
	defer v.close()
	defer unix.Close(fd)
	st, err := v.stat(fd, absolute(p))
	return st, clearer(err, ref, p)
}

// find opens a view and what p names in it.
func (f *Files) find(ctx context.Context, ref, p string) (*view, int, error) {
	c, err := f.store.Get(ref)
	if err != nil {
		return nil, -1, err
	}
	v, err := f.open(ctx, c, look)
	if err != nil {
		return nil, -1, err
	}
	fd, err := v.locate(absolute(p))
	if err != nil {
		v.close()
		return nil, -1, clearer(err, ref, p)
	}
	return v, fd, nil
}

func (v *view) stat(fd int, abs string) (*apicontainer.PathStat, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	s := &apicontainer.PathStat{Name: path.Base(abs), Size: st.Size, Mode: fileMode(st.Mode), Mtime: time.Unix(st.Mtim.Unix())}
	if last := path.Base(abs); abs[len(abs)-1] == '.' && last != "." {
		s.Name = last
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		s.LinkTarget = v.target(abs)
	}
	return s, nil
}

// Get sends the file or directory at p as a tar stream. open is called once,
// when all checks have passed, with what Stat would say.
func (f *Files) Get(ctx context.Context, ref, p string, open func(*apicontainer.PathStat) io.Writer) error {
	v, fd, err := f.find(ctx, ref, p)
	if err != nil {
		return err
	}
	defer v.close()
	defer unix.Close(fd)
	abs := absolute(p)
	st, err := v.stat(fd, abs)
	if err != nil {
		return clearer(err, ref, p)
	}
	name := path.Base(abs)
	if abs[len(abs)-1] == '.' && st.Mode.IsDir() && path.Base(p) == "." {
		name = "."
	}
	if name == "/" {
		name = "" // the entries are "/" and "/etc", as docker's
	}
	t := newPacker(ctx, open(st), v.ids)
	t.mounts = v.mounts
	at := v.target(abs)
	if at == "/" {
		at = ""
	}
	if err := t.tree(fd, name, at); err != nil {
		return system(err)
	}
	if err := t.close(); err != nil {
		return err
	}
	if c, err := f.store.Get(ref); err == nil {
		f.publish(c, events.ActionArchivePath, nil)
	}
	return nil
}

// PutOptions are those of PUT /containers/{id}/archive.
type PutOptions struct {
	NoOverwriteDirNonDir bool // a directory may not replace a file, nor a file a directory
	CopyUIDGID           bool // files belong to the container's user instead of the archive's
}

// Put unpacks a tar stream, which may be compressed, into the directory at p.
func (f *Files) Put(ctx context.Context, ref, p string, o PutOptions, body io.Reader) error {
	c, err := f.store.Get(ref)
	if err != nil {
		return err
	}
	v, err := f.open(ctx, c, alter)
	if err != nil {
		return err
	}
	defer v.close()
	u := &unpacker{ctx: ctx, root: v.root, dest: absolute(p), ids: v.ids, noOverwrite: o.NoOverwriteDirNonDir}
	onRoot, err := v.checkDestination(u.dest)
	if err != nil {
		return clearer(err, ref, p)
	}
	if o.CopyUIDGID {
		if u.owner, err = v.owner(c); err != nil {
			return err
		}
	}
	plain, _, err := archive.Decompress(body)
	if err != nil {
		return err
	}
	defer plain.Close()
	if err := v.ids.act(func() error { return u.unpack(plain) }); err != nil {
		if errors.Is(err, unix.EROFS) {
			return readOnly(onRoot)
		}
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			// The archive puts something below a file, or the container
			// exchanged a directory meanwhile: neither is the engine's fault.
			return invalid("%v", err)
		}
		return system(err)
	}
	f.publish(c, events.ActionExtractToDir, nil)
	return nil
}

// checkDestination wants a directory that can be written to. It tells whether
// that lies on the container's root file system rather than on a mount.
func (v *view) checkDestination(p string) (onRoot bool, err error) {
	fd, err := v.follow(p)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	if !isDir(&st) {
		return false, invalid("extraction point is not a directory")
	}
	onRoot = mountID(fd) == mountID(v.root)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return onRoot, err
	}
	if fs.Flags&unix.ST_RDONLY != 0 {
		return onRoot, readOnly(onRoot)
	}
	return onRoot, nil
}

// owner looks the container's user up in its own files; nil if it has none.
func (v *view) owner(c *container.Container) (*owner, error) {
	r := c.Snapshot()
	if r.Config.User == "" {
		return nil, nil
	}
	return v.lookup(r.Config.User)
}
