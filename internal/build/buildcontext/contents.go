package buildcontext

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path"

	"github.com/moby/buildkit/cache/contenthash"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

// arrived is a small file.
type arrived struct {
	st   *types.Stat
	data []byte
	file *os.File // new, to be written
	old  *os.File // with the same looks, to be compared
}

func (u *unpacker) regular(ctx context.Context, in *dir, st *types.Stat, r io.Reader) error {
	name := path.Base(st.Path)
	if st.Size > u.most {
		return in.wrap("write", name, unix.ENOSPC)
	}
	same, was, err := u.same(in, st)
	if err != nil {
		return err
	}
	a := &arrived{st: st}
	if same {
		a.old, err = open(in.fd, st)
	} else {
		err = u.place(in, st, was, func() (err error) {
			a.file, err = begin(in.fd, st)
			return err
		})
	}
	if err != nil {
		return err
	}
	if st.Size > small {
		return u.large(ctx, in, a, r)
	}
	a.data = make([]byte, st.Size)
	if _, err := io.ReadFull(r, a.data); err != nil {
		a.close()
		return broken(err)
	}
	u.busy.Add(1)
	select {
	case u.ready <- a:
		return nil
	case <-ctx.Done():
		a.close()
		u.busy.Done()
		return context.Cause(ctx)
	}
}

// open opens a file that is there.
func open(at int, st *types.Stat) (*os.File, error) {
	fd, err := unix.Openat(at, path.Base(st.Path), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: st.Path, Err: err}
	}
	return os.NewFile(uintptr(fd), st.Path), nil
}

func (a *arrived) close() {
	if a.file != nil {
		a.file.Close()
	}
	if a.old != nil {
		a.old.Close()
	}
}

// bare tells whether a file has no attributes of which an archive knows.
func bare(f *os.File) bool {
	names := make([]byte, 1024)
	n, err := unix.Flistxattr(int(f.Fd()), names)
	if err != nil {
		return errors.Is(err, unix.ENOTSUP)
	}
	for name := range bytes.SplitSeq(names[:n], []byte{0}) {
		if len(name) > 0 && string(name) != "security.selinux" {
			return false
		}
	}
	return true
}

// write works on small files until there are no more. After a failure it only
// takes them, so that nobody waits.
func (u *unpacker) write() (err error) {
	var at opened
	defer at.close()
	var buffer []byte
	for a := range u.ready {
		if err == nil {
			if buffer == nil {
				buffer = make([]byte, small)
			}
			if err = u.small(a, buffer, &at); err != nil {
				u.stop(err)
			}
		}
		a.close()
		u.busy.Done()
	}
	return err
}

func (u *unpacker) small(a *arrived, buffer []byte, at *opened) error {
	if a.old != nil {
		n, err := io.ReadFull(a.old, buffer[:len(a.data)])
		if err == nil && bytes.Equal(buffer[:n], a.data) && bare(a.old) {
			return nil
		}
		if err := u.change(); err != nil {
			return err
		}
		in, err := at.dir(u.top, path.Dir(a.st.Path))
		if err != nil {
			return err
		}
		if err := unix.Unlinkat(in, path.Base(a.st.Path), 0); err != nil {
			return u.top.wrap("remove", a.st.Path, err)
		}
		if a.file, err = begin(in, a.st); errors.Is(err, unix.EEXIST) {
			return nil // by a further entry of that name
		} else if err != nil {
			return err
		}
	}
	h, err := contenthash.NewFromStat(a.st)
	if err != nil {
		return err
	}
	h.Write(a.data) //nolint:errcheck // it never fails
	err = finish(a.file, a.st, func(w io.Writer) error {
		_, err := w.Write(a.data)
		return err
	})
	if err != nil {
		return err
	}
	return u.note(a.st, h)
}

// large writes a file as it comes. As long as it is what is there already
// nothing is written.
func (u *unpacker) large(ctx context.Context, in *dir, a *arrived, r io.Reader) error {
	defer a.close()
	if u.buffer == nil {
		u.buffer, u.beside = make([]byte, small), make([]byte, small)
	}
	var done int64
	rest := u.buffer[:0]
	if a.old != nil {
		equal := bare(a.old)
		for equal && done < a.st.Size {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			rest = u.buffer[:min(small, a.st.Size-done)]
			if _, err := io.ReadFull(r, rest); err != nil {
				return broken(err)
			}
			n, err := io.ReadFull(a.old, u.beside[:len(rest)])
			if equal = err == nil && bytes.Equal(rest, u.beside[:n]); equal {
				done += int64(n)
			}
		}
		if equal {
			return nil
		}
		err := u.place(in, a.st, unix.S_IFREG, func() (err error) {
			a.file, err = begin(in.fd, a.st)
			return err
		})
		if err != nil {
			return err
		}
	}
	h, err := contenthash.NewFromStat(a.st)
	if err != nil {
		return err
	}
	err = finish(a.file, a.st, func(f io.Writer) error {
		w := io.MultiWriter(f, h)
		if done > 0 {
			if _, err := io.CopyBuffer(w, struct{ io.Reader }{io.NewSectionReader(a.old, 0, done)}, u.beside); err != nil {
				return err
			}
		}
		for {
			if _, err := w.Write(rest); err != nil {
				return err
			}
			if done += int64(len(rest)); done == a.st.Size {
				return nil
			}
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			rest = u.buffer[:min(small, a.st.Size-done)]
			if _, err := io.ReadFull(r, rest); err != nil {
				return broken(err)
			}
		}
	})
	if err != nil {
		return err
	}
	return u.note(a.st, h)
}
