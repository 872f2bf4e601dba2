package diff

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Archive is what an archive is written to.
type Archive interface {
	io.Writer
	// File announces the content of a file of the layer, by its path.
	File(name string, size int64) error
}

// capability is the one attribute of files that layers have.
const capability = "security.capability"

// whiteout is what the names of files begin with that stand for removed ones.
const whiteout = ".wh."

// Write writes the archive of a layer, which is the directory dir above the tree
// base ("" for none), and sums the sizes of the layer's files, hard links once.
// Neither may change meanwhile.
func Write(ctx context.Context, to Archive, dir, base string) (size int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	jobs := walk(ctx, dir, base)
	defer func() {
		cancel()
		for job := range jobs {
			<-job.done
			job.in.release()
		}
	}()
	w := &writer{to: to, tar: tar.NewWriter(to), first: map[uint64]string{}, waiting: map[uint64][]waiting{}, seen: map[uint64]bool{}}
	for job := range jobs {
		<-job.done
		if job.err == nil && job.leave {
			w.above = w.above[:len(w.above)-1]
		}
		if job.err == nil && job.enter {
			w.above = append(w.above, &job.entries[0])
		}
		for i := range job.entries {
			if job.err != nil {
				break
			}
			job.err = w.entry(ctx, job.in, &job.entries[i])
		}
		job.in.release()
		if job.err != nil {
			return 0, job.err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	return w.size, w.tar.Close()
}

// waiting is a name, and the directories that it is in.
type waiting struct {
	entry *entry
	above []*entry
}

type writer struct {
	to    Archive
	tar   *tar.Writer
	above []*entry          // the directories that the next entry is in
	first map[uint64]string // names of files that have several
	// Names that are as they were before, by their file's inode. A name of the file
	// that is not has them written behind it, too, or unpacked it were another file.
	waiting map[uint64][]waiting
	seen    map[uint64]bool // such files that are counted
	size    int64
	part    []byte
}

// count adds a file to the layer's size.
func (w *writer) count(st *unix.Stat_t) {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR || st.Nlink > 1 && w.seen[st.Ino] {
		return
	}
	if st.Nlink > 1 {
		w.seen[st.Ino] = true
	}
	w.size += st.Size
}

// entry writes one, and the directories above it that were not.
func (w *writer) entry(ctx context.Context, in *dir, e *entry) error {
	w.count(&e.st)
	if e.st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return nil
	}
	above := w.above
	if n := len(above); n > 0 && above[n-1] == e {
		above = above[:n-1]
	}
	if e.kind == unchanged {
		if !in.whole || !e.links() {
			return nil
		}
		if _, ok := w.first[e.st.Ino]; !ok {
			w.waiting[e.st.Ino] = append(w.waiting[e.st.Ino], waiting{e, slices.Clone(above)})
			return nil
		}
	}
	if err := w.parents(above); err != nil {
		return err
	}
	if e.kind == removed {
		name := path.Join(path.Dir(e.path), whiteout+path.Base(e.path))
		never := time.Unix(0, 0).UTC()
		return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: never, AccessTime: never, ChangeTime: never})
	}
	if err := w.header(e); err != nil {
		return err
	}
	if e.regular() && e.st.Size > 0 && !e.linked {
		if err := w.content(ctx, in, e); err != nil {
			return err
		}
	}
	if !e.links() {
		return nil
	}
	others := w.waiting[e.st.Ino]
	delete(w.waiting, e.st.Ino)
	for _, o := range others {
		if err := w.parents(o.above); err != nil {
			return err
		}
		if err := w.header(o.entry); err != nil {
			return err
		}
	}
	return nil
}

// parents writes the directories that an entry is in, and that were not.
func (w *writer) parents(above []*entry) error {
	for _, d := range above {
		if !d.written {
			if err := w.header(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// header writes what an entry is but for its content.
func (w *writer) header(e *entry) error {
	h := &tar.Header{
		Name: e.path, Format: tar.FormatPAX, Mode: int64(e.st.Mode & 0o7777), Uid: int(e.st.Uid), Gid: int(e.st.Gid),
		ModTime: time.Unix(e.st.Mtim.Sec, 0),
	}
	switch e.st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, e.st.Size
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		e.written = true
	case unix.S_IFLNK:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.target
	case unix.S_IFCHR:
		h.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		return fmt.Errorf("%s: files of type %o cannot be in a layer", e.path, e.st.Mode&unix.S_IFMT)
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		h.Devmajor, h.Devminor = int64(unix.Major(e.st.Rdev)), int64(unix.Minor(e.st.Rdev))
	}
	if e.links() {
		if name, ok := w.first[e.st.Ino]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, name, 0
			e.linked = true
		} else {
			w.first[e.st.Ino] = e.path
		}
	}
	if len(e.capability) > 0 {
		h.PAXRecords = map[string]string{"SCHILY.xattr." + capability: string(e.capability)}
	}
	if err := w.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", e.path, err)
	}
	return nil
}

// content writes the bytes of a regular file.
func (w *writer) content(ctx context.Context, in *dir, e *entry) error {
	if err := w.to.File(e.path, e.st.Size); err != nil {
		return err
	}
	if e.data != nil {
		_, err := w.tar.Write(e.data)
		return err
	}
	f, err := in.open(e)
	if err != nil {
		return err
	}
	defer f.Close()
	if w.part == nil {
		w.part = make([]byte, partSize)
	}
	var from io.Reader = f
	if e.st.Size > 2*partSize {
		ahead, stop := readAhead(ctx, f)
		defer stop()
		from = ahead
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{w.tar}, struct{ io.Reader }{from}, w.part)
	if err == nil && n != e.st.Size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.path, err)
	}
	return nil
}

// partSize is how much of a file is read at once.
const partSize = 512 << 10

// readAhead reads a file while what came before is used. Stop must be called.
func readAhead(ctx context.Context, f *os.File) (r io.Reader, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	parts, free := make(chan []byte, 3), make(chan []byte, 4)
	for range cap(free) {
		free <- make([]byte, partSize)
	}
	a := &ahead{parts: parts, free: free}
	go func() {
		defer close(parts)
		for {
			var part []byte
			select {
			case part = <-free:
			case <-ctx.Done():
				a.err = context.Cause(ctx)
				return
			}
			n, err := f.Read(part)
			if n > 0 {
				select {
				case parts <- part[:n]:
				case <-ctx.Done():
					a.err = context.Cause(ctx)
					return
				}
			}
			if err != nil {
				a.err = err
				return
			}
		}
	}()
	return a, func() {
		cancel()
		for range parts { // the file is not read any more once it is closed
		}
	}
}

type ahead struct {
	parts <-chan []byte
	free  chan<- []byte
	err   error // of the end, once parts is closed
	part  []byte
	rest  bytes.Reader
}

func (a *ahead) Read(p []byte) (int, error) {
	for a.rest.Len() == 0 {
		if a.part != nil {
			a.free <- a.part[:partSize]
			a.part = nil
		}
		part, ok := <-a.parts
		if !ok {
			if errors.Is(a.err, io.EOF) {
				return 0, io.EOF
			}
			return 0, a.err
		}
		a.part = part
		a.rest.Reset(part)
	}
	return a.rest.Read(p)
}
