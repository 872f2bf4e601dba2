package cp

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// playground is a container's root with a directory outside that nothing may
// be read from or written to.
type playground struct {
	root, outside string
	v             *view
}

const secret = "the host's secret"

func newPlayground(t *testing.T) *playground {
	t.Helper()
	p := &playground{root: t.TempDir(), outside: t.TempDir()}
	for _, dir := range []string{p.root, p.outside} {
		if err := os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.write(t, filepath.Join(p.root, "a/b/c/f"), "the container's")
	for _, name := range []string{"a/b/c/f", "b/c/f", "c/f", "f"} {
		p.write(t, filepath.Join(p.outside, name), secret)
	}
	fd, err := openDir(p.root)
	if err != nil {
		t.Fatal(err)
	}
	p.v = &view{root: fd}
	t.Cleanup(func() { unix.Close(fd) })
	return p
}

func (p *playground) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// race exchanges the file or directory at name with a link to the same place
// outside, over and over, until the test calls stop.
func (p *playground) race(t *testing.T, name string) (stop func()) {
	t.Helper()
	at := filepath.Join(p.root, name)
	link := filepath.Join(p.root, "link")
	os.Remove(link)
	if err := os.Symlink(filepath.Join(p.outside, name), link); err != nil {
		t.Fatal(err)
	}
	var end atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !end.Load() {
			// It fails while the other side has the file away for a moment.
			_ = unix.Renameat2(unix.AT_FDCWD, at, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
		}
	})
	return func() { end.Store(true); wg.Wait() }
}

// snapshot describes everything outside: names, contents, modes, times.
func (p *playground) snapshot(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(p.outside, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		fmt.Fprintln(&b, path, st.Mode, st.Uid, st.Gid, st.Size, st.Mtim, st.Ctim, st.Nlink)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// rounds is how often each race is run; long enough that a reader by path
// loses it, which the test makes sure of.
const rounds = 1500

// TestCVE_2018_15664_Read copies a file out while each component of its path
// in turn is exchanged with a link out of the root.
func TestCVE_2018_15664_Read(t *testing.T) {
	for _, name := range []string{"a", "a/b", "a/b/c", "a/b/c/f"} {
		t.Run(strings.ReplaceAll(name, "/", "_"), func(t *testing.T) {
			p := newPlayground(t)
			stop := p.race(t, name)
			defer stop()
			read, leaks := 0, 0
			for range rounds {
				if data, err := os.ReadFile(filepath.Join(p.root, "a/b/c/f")); err == nil && string(data) == secret {
					leaks++
				}
				for _, path := range []string{"/a/b/c/f", "/a"} {
					var b bytes.Buffer
					fd, err := p.v.locate(path)
					if err != nil {
						continue
					}
					k := newPacker(t.Context(), &b, ids{})
					err = k.tree(fd, "x", path)
					unix.Close(fd)
					if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.ENOTDIR) {
						t.Fatal(err)
					}
					if bytes.Contains(b.Bytes(), []byte(secret)) {
						t.Fatalf("%s gave what lies outside", path)
					}
					if bytes.Contains(b.Bytes(), []byte("the container's")) {
						read++
					}
				}
			}
			if leaks == 0 {
				t.Error("not even a reader by path was misled: this race proves nothing")
			}
			if read == 0 {
				t.Error("the container's own file was never read")
			}
		})
	}
}

func archiveOf(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.Uid, h.Gid = os.Getuid(), os.Getgid()
		h.ModTime = time.Unix(1, 0)
		body := ""
		if h.Typeflag == tar.TypeReg {
			body = "new"
		}
		h.Size = int64(len(body))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestCVE_2018_15664_Write copies files in under the same races.
// TestCVE_2021_41089 is the same with the entry itself exchanged between its
// making and the change of its mode, owner and time.
func TestCVE_2018_15664_Write(t *testing.T) { races(t, "a", "a/b", "a/b/c") }

func TestCVE_2021_41089(t *testing.T) { races(t, "a/b/c/f", "a/b/c/d") }

func races(t *testing.T, list ...string) {
	data := archiveOf(t,
		&tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o4777},
		&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o2777},
		&tar.Header{Name: "d/g", Typeflag: tar.TypeReg, Mode: 0o777},
		&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "f", Mode: 0o777},
		&tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "f", Mode: 0o777},
	)
	for _, name := range list {
		t.Run(strings.ReplaceAll(name, "/", "_"), func(t *testing.T) {
			p := newPlayground(t)
			if err := os.MkdirAll(filepath.Join(p.outside, "a/b/c/d"), 0o755); err != nil {
				t.Fatal(err)
			}
			before := p.snapshot(t)
			stop := p.race(t, name)
			done := 0
			for range rounds {
				u := &unpacker{ctx: t.Context(), root: p.v.root, dest: "/a/b/c"}
				if u.unpack(bytes.NewReader(data)) == nil {
					done++
				}
			}
			stop()
			if after := p.snapshot(t); after != before {
				t.Errorf("outside was\n%s\nand is\n%s", before, after)
			}
			if done == 0 {
				t.Error("nothing was ever unpacked")
			}
		})
	}
}

// TestCVE_2019_14271 looks a user up in accounts that a container has made to
// mislead or hang the engine; nothing but bounded regular files of its own
// root is read.
func TestCVE_2019_14271(t *testing.T) {
	for name, build := range map[string]func(path string) error{
		"fifo":    func(path string) error { return unix.Mkfifo(path, 0o600) },
		"dir":     func(path string) error { return os.Mkdir(path, 0o700) },
		"outside": func(path string) error { return os.Symlink("/../../../../../../etc/passwd", path) },
		"proc":    func(path string) error { return os.Symlink("/proc/self/root/etc/passwd", path) },
		"huge": func(path string) error {
			f, err := os.Create(path)
			if err != nil {
				return err
			}
			defer f.Close()
			return f.Truncate(1 << 40)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlayground(t)
			if err := os.Mkdir(filepath.Join(p.root, "etc"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := build(filepath.Join(p.root, "etc/passwd")); err != nil {
				t.Fatal(err)
			}
			result := inBackground(func() error { _, err := p.v.lookup("root"); return err })
			select {
			case err := <-result:
				if err == nil {
					t.Error("found a user that the container does not have")
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the lookup hangs")
			}
		})
	}
	p := newPlayground(t)
	p.write(t, filepath.Join(p.root, "etc/passwd"), "me:x:12:34::/:/bin/sh\n")
	if o, err := p.v.lookup("me"); err != nil || *o != (owner{12, 34}) {
		t.Errorf("me is %v, %v", o, err)
	}
}

func inBackground(f func() error) <-chan error {
	c := make(chan error, 1)
	go func() { c <- f() }()
	return c
}

// TestSlip unpacks archives that try to reach out of their destination.
func TestSlip(t *testing.T) {
	for name, list := range map[string][]*tar.Header{
		"dots":     {{Name: "../../../../../../f", Typeflag: tar.TypeReg}},
		"inner":    {{Name: "x/../../../f", Typeflag: tar.TypeReg}},
		"hardlink": {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../../../etc/passwd"}},
		"link":     {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "OUTSIDE"}, {Name: "l/new", Typeflag: tar.TypeReg}},
		"dotlink":  {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../../../../../../../../OUTSIDE"}, {Name: "l/f", Typeflag: tar.TypeReg}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlayground(t)
			for _, h := range list {
				h.Linkname = strings.ReplaceAll(h.Linkname, "OUTSIDE", p.outside)
			}
			before := p.snapshot(t)
			u := &unpacker{ctx: t.Context(), root: p.v.root, dest: "/a/b"}
			err := u.unpack(bytes.NewReader(archiveOf(t, list...)))
			if err == nil && name != "link" && name != "dotlink" {
				t.Error("it was taken")
			}
			if after := p.snapshot(t); after != before {
				t.Errorf("outside was\n%s\nand is\n%s", before, after)
			}
		})
	}
}
