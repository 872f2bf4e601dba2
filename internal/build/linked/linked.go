// Package linked owns the account of files that several records of the build
// cache have: fileop gives a layer hard links to what it copies, and BuildKit
// counts each record as if it were alone.
//
// A file is the record's that comes first: that of an image, which has it
// whatever the cache does, then the one that the links were made from, then the
// others in their order.
package linked

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/build/fileop"
)

// Holder is a record of the cache.
type Holder struct {
	ID    string
	Dir   string // of its files
	Still bool   // they do not change any more
	Image bool   // an image has them, too
	Extra int64  // bytes that BuildKit counts and nobody has
}

// file is an inode with what it takes on the disk, and how long it is, in bytes.
type file struct {
	inode  uint64
	bytes  int64
	length int64
}

// Ledger remembers what is in directories that do not change. It is safe for
// use by several goroutines.
type Ledger struct {
	mu    sync.Mutex
	known map[string][]file // by directory
}

// Account is what records have in common at one time.
type Account struct {
	list  []counted // in the order of who a file belongs to
	extra []Holder  // those with some
}

type counted struct {
	Holder
	files []file
}

// Read takes the account of all records. Without a link among them it costs a
// look for each.
func (l *Ledger) Read(all []Holder) (*Account, error) {
	marked, from := map[string]bool{}, map[string]bool{}
	for _, h := range all {
		origins, yes := fileop.Origins(h.Dir)
		marked[h.Dir] = yes
		for _, o := range origins {
			from[o] = true
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	known := map[string][]file{}
	a := &Account{}
	for _, h := range all {
		if h.Extra > 0 {
			a.extra = append(a.extra, h)
		}
		if !marked[h.Dir] && !from[fileop.Origin(h.Dir)] {
			continue
		}
		files, ok := l.known[h.Dir]
		if !ok || !h.Still {
			var err error
			if files, err = filesOf(h.Dir); errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			} else if err != nil {
				return nil, err
			}
		}
		if h.Still {
			known[h.Dir] = files
		}
		a.list = append(a.list, counted{h, files})
	}
	l.known = known
	rank := func(h counted) int {
		switch {
		case h.Image:
			return 0
		case !marked[h.Dir]:
			return 1
		}
		return 2
	}
	slices.SortFunc(a.list, func(x, y counted) int {
		return cmp.Or(rank(x)-rank(y), cmp.Compare(x.ID, y.ID))
	})
	return a, nil
}

// filesOf lists the regular files of a tree, each inode once.
func filesOf(dir string) ([]file, error) {
	var out []file
	err := walk(unix.AT_FDCWD, dir, &out)
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: dir, Err: err}
	}
	slices.SortFunc(out, func(x, y file) int { return cmp.Compare(x.inode, y.inode) })
	return slices.CompactFunc(out, func(x, y file) bool { return x.inode == y.inode }), nil
}

func walk(at int, name string, out *[]file) error {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch {
		case e.IsDir():
			err = walk(fd, e.Name(), out)
		case e.Type().IsRegular():
			var st unix.Stat_t
			if err = unix.Fstatat(fd, e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
				*out = append(*out, file{st.Ino, st.Blocks * 512, st.Size})
			}
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

// Twice gives for each record the bytes on the disk that are another one's, or
// nobody's.
func (a *Account) Twice() map[string]int64 {
	return a.twice(func(f file) int64 { return f.bytes })
}

// Lengths is Twice in how long the files are.
func (a *Account) Lengths() map[string]int64 {
	return a.twice(func(f file) int64 { return f.length })
}

func (a *Account) twice(size func(file) int64) map[string]int64 {
	out, seen := map[string]int64{}, map[uint64]bool{}
	for _, h := range a.extra {
		out[h.ID] = h.Extra
	}
	for _, h := range a.list {
		for _, f := range h.files {
			if seen[f.inode] {
				out[h.ID] += size(f)
			} else {
				seen[f.inode] = true
			}
		}
	}
	return out
}

// Over gives by how much less was freed on the disk than what removed records were
// counted with, each alone.
func (a *Account) Over(removed map[string]bool) (bytes int64) {
	return a.over(removed, func(f file) int64 { return f.bytes })
}

// OverLengths is Over in how long the files are.
func (a *Account) OverLengths(removed map[string]bool) (bytes int64) {
	return a.over(removed, func(f file) int64 { return f.length })
}

func (a *Account) over(removed map[string]bool, size func(file) int64) (bytes int64) {
	stays, gone := map[uint64]bool{}, map[uint64]bool{}
	for _, h := range a.extra {
		if removed[h.ID] {
			bytes += h.Extra
		}
	}
	for _, h := range a.list {
		if !removed[h.ID] || h.Image {
			for _, f := range h.files {
				stays[f.inode] = true
			}
		}
	}
	for _, h := range a.list {
		if !removed[h.ID] || h.Image {
			continue
		}
		for _, f := range h.files {
			if stays[f.inode] || gone[f.inode] {
				bytes += size(f)
			}
			gone[f.inode] = true
		}
	}
	return bytes
}
