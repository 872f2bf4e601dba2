package cp

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	kmount "github.com/wherry-engine/wherry/internal/linux/mount"
)

// capability is the one extended attribute that docker's archives carry.
const capability = "security.capability"

// packer writes files of a container as a tar stream. A file that changes
// while it is read keeps the size that its header says, cut or filled up with
// zeros; one that goes away is left out.
type packer struct {
	ctx    context.Context
	tw     *tar.Writer
	ids    ids
	mounts []string // what may be entered though it is another mount
	links  map[inode]string
	buf    []byte
}

type inode struct{ dev, ino uint64 }

func newPacker(ctx context.Context, w io.Writer, m ids) *packer {
	return &packer{ctx: ctx, ids: m, tw: tar.NewWriter(w), links: map[inode]string{}, buf: make([]byte, 128<<10)}
}

// tree writes what fd is and everything below it under the name given; at is
// its place in the container.
func (p *packer) tree(fd int, name, at string) error {
	dir, err := p.entry(fd, name)
	if err != nil || !dir {
		return err
	}
	return p.children(fd, name+"/", at)
}

// children writes what lies below the directory fd, each name after prefix.
func (p *packer) children(fd int, prefix, at string) error {
	if len(prefix) > unix.PathMax {
		return &kmount.Error{Op: "read", Path: prefix[:60] + "...", Err: unix.ENAMETOOLONG}
	}
	list, err := names(fd)
	if err != nil {
		return err
	}
	for _, name := range list {
		if err := context.Cause(p.ctx); err != nil {
			return err
		}
		one, err := child(fd, name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		if place := at + "/" + name; p.foreign(fd, one, place) {
			_, err = p.entry(one, prefix+name)
		} else {
			err = p.tree(one, prefix+name, place)
		}
		unix.Close(one)
		if err != nil {
			return err
		}
	}
	return nil
}

// foreign reports whether a file system begins at fd that is not one of the
// user's mounts: /proc, /sys, /dev and the like are not the container's files.
func (p *packer) foreign(dir, fd int, at string) bool {
	if mountID(dir) == mountID(fd) {
		return false
	}
	for _, m := range p.mounts {
		if at == m || strings.HasPrefix(at, m+"/") {
			return false
		}
	}
	return true
}

func mountID(fd int) uint64 {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st); err != nil {
		return 0
	}
	return st.Mnt_id
}

// entry writes one file without what lies below it, and tells whether it is a
// directory. Sockets have no place in an archive and are passed over.
func (p *packer) entry(fd int, name string) (dir bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	uid, gid := p.ids.inside(st.Uid, st.Gid)
	h := &tar.Header{Name: name, Mode: int64(st.Mode & 0o7777), Uid: uid, Gid: gid,
		ModTime: time.Unix(st.Mtim.Sec, 0), Format: tar.FormatPAX}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return true, p.tw.WriteHeader(h)
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		h.Linkname, _ = readlink(fd, "")
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return false, nil
	}
	if st.Nlink > 1 {
		id := inode{uint64(st.Dev), st.Ino} //nolint:unconvert // its width differs by architecture
		if first, ok := p.links[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return false, p.tw.WriteHeader(h)
		}
		p.links[id] = name
	}
	if h.Typeflag != tar.TypeReg {
		return false, p.tw.WriteHeader(h)
	}
	return false, p.regular(fd, h)
}

func (p *packer) regular(fd int, h *tar.Header) error {
	if c := xattr(fd, capability); c != nil {
		h.PAXRecords = map[string]string{"SCHILY.xattr." + capability: string(c)}
	}
	// fd is known to be a regular file: opening it has no effect on anything.
	f, err := os.OpenFile(byFD(fd), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.tw.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyBuffer(onlyWriter{p.tw}, &patient{p.ctx, io.LimitReader(f, h.Size)}, p.buf)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(onlyWriter{p.tw}, io.LimitReader(zeros{}, h.Size-n), p.buf)
	return err
}

func (p *packer) close() error { return p.tw.Close() }

// xattr reads an extended attribute of what fd has open, which is no link;
// nil if there is none.
func xattr(fd int, name string) []byte {
	buf := make([]byte, 256)
	n, err := unix.Getxattr(byFD(fd), name, buf)
	if err != nil || n < 0 {
		return nil
	}
	return buf[:n]
}

// onlyWriter hides ReadFrom, so that a copy uses our buffer and our reader.
type onlyWriter struct{ io.Writer }

// patient ends a copy when its request has ended.
type patient struct {
	ctx context.Context
	r   io.Reader
}

func (p *patient) Read(b []byte) (int, error) {
	if err := context.Cause(p.ctx); err != nil {
		return 0, err
	}
	return p.r.Read(b)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
