package buildcontext

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/api/lend"
	"github.com/wherry-engine/wherry/internal/build/conn"
	"github.com/wherry-engine/wherry/internal/build/lending"
	"github.com/wherry-engine/wherry/test/promise"
)

// lender lends files of a directory, which open gives.
func lender(t *testing.T, open func(name string) (*os.File, error)) *loans {
	return &loans{dir: "context", open: func(ctx context.Context) (*lending.Borrower, error) {
		a, b, err := conn.Pair()
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { a.Close() })
		go func() {
			defer b.Close()
			lend.Serve(b, func(dir, name string) (*os.File, error) { //nolint:errcheck // it may be cut off
				if dir != "context" {
					t.Errorf("a directory %q is asked for", dir)
				}
				return open(name)
			})
		}()
		return lending.Borrow(a)
	}}
}

// TestLent has the large files of a tree lent, all, some or none of them.
func TestLent(t *testing.T) {
	promise.Root(t)
	for _, c := range []struct {
		name  string
		lends func(name string, n int64) bool
	}{
		{"all", func(string, int64) bool { return true }},
		{"none", func(string, int64) bool { return false }},
		{"some", func(_ string, n int64) bool { return n%2 == 0 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			from := t.TempDir()
			var lent, asked atomic.Int64
			likeBuildKit(t, from, t.TempDir(), func() *loans {
				return lender(t, func(name string) (*os.File, error) {
					if !c.lends(name, asked.Add(1)) {
						return nil, os.ErrPermission
					}
					lent.Add(1)
					return os.Open(filepath.Join(from, name))
				})
			})
			// Those of 32 KB and more: b, d/big, z, five at once, many of the 700, and
			// what is new of them after other changes.
			if asked.Load() < 10 || (lent.Load() == 0) != (c.name == "none") {
				t.Errorf("%d files lent, %d asked for", lent.Load(), asked.Load())
			}
		})
	}
}

// TestLentDoNotTravel counts what comes as messages where files are lent, and
// where the client's end is cut off.
func TestLentDoNotTravel(t *testing.T) {
	promise.Root(t)
	const size = 5 << 20
	for _, c := range []struct {
		name string
		ends bool
		want int
	}{{"lent", false, 10}, {"cut off", true, 10 + size}} {
		from, to, l, n := t.TempDir(), t.TempDir(), newKnown(), 0
		err := errors.Join(os.WriteFile(from+"/small", []byte("0123456789"), 0o644), os.WriteFile(from+"/large", bytes.Repeat([]byte("x"), size), 0o600))
		if err != nil {
			t.Fatal(err)
		}
		sent := &counted{bytes: map[uint32]int{}}
		loans := lender(t, func(name string) (*os.File, error) { return os.Open(filepath.Join(from, name)) })
		if c.ends {
			begin := loans.open
			loans.open = func(ctx context.Context) (*lending.Borrower, error) {
				b, err := begin(ctx)
				if err == nil {
					b.Close()
				}
				return b, err
			}
		}
		if err := transferThrough(t, from, sent, borrowerInto(to, l, &n, loans)); err != nil {
			t.Fatal(c.name, err)
		}
		sum := 0
		for _, n := range sent.bytes {
			sum += n
		}
		if sum != c.want {
			t.Errorf("%s: %d bytes travelled, not %d", c.name, sum, c.want)
		}
		if got, want := listing(t, to, true), listing(t, from, true); got != want {
			t.Errorf("%s: there is\n%s\nthe source is\n%s", c.name, got, want)
		}
	}
}

// TestLentAndFull has no room for what is lent.
func TestLentAndFull(t *testing.T) {
	promise.Root(t)
	from, to := t.TempDir(), t.TempDir()
	if err := unix.Mount("tmpfs", to, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(to, 0) //nolint:errcheck // the directory's removal tells
	for _, name := range []string{"a", "b", "c", "d"} {
		if err := os.WriteFile(filepath.Join(from, name), make([]byte, 3<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	err := transfer(t, from, borrowerInto(to, newKnown(), &n, lender(t, func(name string) (*os.File, error) { return os.Open(filepath.Join(from, name)) })))
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("it ends with %v", err)
	}
}

// TestShared lends on a file system on which files can share their bytes.
func TestShared(t *testing.T) {
	promise.Root(t)
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 400<<20)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.xfs", "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			promise.Lacks(t, "xfs", err, string(out))
		}
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	from, ours := dir+"/from", dir+"/ours"
	if err := errors.Join(os.Mkdir(from, 0o700), os.Mkdir(ours, 0o700)); err != nil {
		t.Fatal(err)
	}
	open := func(name string) (*os.File, error) { return os.Open(filepath.Join(from, name)) }
	likeBuildKit(t, from, ours, func() *loans { return lender(t, open) })

	if err := os.WriteFile(from+"/f", []byte(strings.Repeat("one ", 10<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	syncFS(t, dir)
	before, n := free(t, dir), 0
	if err := transfer(t, from, borrowerInto(ours, newKnown(), &n, lender(t, open))); err != nil {
		t.Fatal(err)
	}
	syncFS(t, dir)
	if used := before - free(t, dir); used > 4<<20 {
		t.Errorf("a copy of 40 MB takes %d bytes", used)
	}
	if err := os.WriteFile(from+"/f", []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(ours + "/f"); err != nil || string(b) != strings.Repeat("one ", 10<<20) {
		t.Errorf("a change of the source changes the copy, %v", err)
	}
}

func free(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bfree) * st.Bsize
}

func syncFS(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
}
