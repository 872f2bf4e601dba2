package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/quota/quotatest"
	"github.com/wherry-engine/wherry/test/promise"
)

func needRoot(t testing.TB) {
	t.Helper()
	promise.Root(t)
}

// openStore opens a store without a metadata database.
func openStore(t testing.TB, root, driver string, limits Limits) *Store {
	t.Helper()
	needRoot(t)
	d, err := OpenDriver(root, driver)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Driver: d, Snapshotter: d.Snapshotter, Limits: limits, Hold: func(context.Context, digest.Digest) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

type member struct {
	h    tar.Header
	body string
}

func layer(members ...member) Layer {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := m.h
		h.Size = int64(len(m.body))
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
		if _, err := io.WriteString(w, m.body); err != nil {
			panic(err)
		}
	}
	w.Close()
	return raw(b.Bytes())
}

func raw(b []byte) Layer {
	return Layer{DiffID: digest.FromBytes(b), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

func reg(name, body string) member { return member{tar.Header{Name: name}, body} }
func sym(name, to string) member {
	return member{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}, ""}
}
func hard(name, to string) member {
	return member{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}, ""}
}
func dir(name string) member { return member{tar.Header{Name: name, Typeflag: tar.TypeDir}, ""} }

// open is a directory that everybody may write to, somebody's own.
func open(name string) member {
	return member{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o777, Uid: 1234, Gid: 1234, ModTime: time.Unix(1600000000, 0)}, ""}
}

// Layers that reach out of their root: nothing outside is made, changed, linked
// to or removed, whether the layer is refused or tamed.
func TestHostileLayers(t *testing.T) {
	for _, driver := range []string{Overlay2, VFS} {
		t.Run(driver, func(t *testing.T) {
			outside := t.TempDir()
			victim := filepath.Join(outside, "victim")
			if err := os.WriteFile(victim, []byte("safe"), 0o600); err != nil {
				t.Fatal(err)
			}
			var before, after syscall.Stat_t
			if err := syscall.Stat(outside, &before); err != nil {
				t.Fatal(err)
			}
			up := strings.Repeat("../", 30)
			abs := strings.TrimPrefix(outside, "/")
			cases := map[string][]Layer{
				"dotdot":             {layer(reg(up+abs+"/new", "x"))},
				"absolute":           {layer(reg(victim, "x"))},
				"symlink then file":  {layer(sym("out", outside), reg("out/victim", "x"))},
				"relative symlink":   {layer(sym("out", up+abs), reg("out/new", "x"))},
				"symlink chain":      {layer(dir("a/"), sym("a/b", ".."), sym("c", "a/b/"+up+abs), reg("c/new", "x"))},
				"symlink is target":  {layer(sym("out", victim), reg("out", "x"))},
				"hard link out":      {layer(hard("in", victim))},
				"hard link dotdot":   {layer(hard("in", up+strings.TrimPrefix(victim, "/")))},
				"hard link to link":  {layer(sym("out", outside), hard("in", "out/victim"))},
				"link then write":    {layer(sym("out", victim), hard("in", "out"), reg("in", "x"))},
				"whiteout dotdot":    {layer(reg("a/.wh...", "")), layer(reg("a/.wh..", ""))},
				"whiteout by link":   {layer(sym("out", outside)), layer(sym("out", outside), reg("out/.wh.victim", ""))},
				"whiteout outside":   {layer(reg(up+abs+"/.wh.victim", ""))},
				"opaque by link":     {layer(sym("out", outside), reg("out/.wh..wh..opq", ""))},
				"link below":         {layer(sym("out", outside)), layer(reg("out/victim", "x"))},
				"directory to link":  {layer(dir("d/"), sym("d", outside), reg("d/new", "x"))},
				"long path":          {layer(reg(strings.Repeat("a", 64<<10), "x"))},
				"deep path":          {layer(reg(strings.Repeat("d/", 32<<10)+"f", "x"))},
				"overlay attributes": {layer(member{tar.Header{Name: "d/", Typeflag: tar.TypeDir, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": outside}}, ""})},
				"chmod by link":      {layer(sym("out", victim), member{tar.Header{Name: "out", Typeflag: tar.TypeReg, Mode: 0o777}, "x"})},
				"inherit by link":    {layer(open("out/")), layer(sym("out", outside), reg("out/x", "x"))},
				"inherit below link": {layer(open("out/"), open("out/"+filepath.Base(outside)+"/")), layer(reg("out/"+filepath.Base(outside)+"/x", "x"), sym("out", filepath.Dir(outside)))},
				"no tar":             {raw([]byte(strings.Repeat("this is no tar ", 100)))},
			}
			for name, layers := range cases {
				t.Run(name, func(t *testing.T) {
					root := t.TempDir()
					s := openStore(t, root, driver, Limits{})
					for _, l := range layers {
						chain, err := s.Unpack(context.Background(), []Layer{l})
						t.Log(err)
						if errdefs.IsInternal(err) {
							t.Error(err)
						}
						if err != nil {
							continue
						}
						low, err := s.Layers(context.Background(), chain)
						if err != nil {
							t.Fatal(err)
						}
						if b, err := unixGet(filepath.Join(low.Dirs[0], "d"), "trusted.overlay.redirect"); err == nil {
							t.Errorf("trusted.overlay.redirect=%q got through", b)
						}
					}
					if _, err := s.Unpack(context.Background(), layers); err != nil {
						t.Log(err)
					}
					if b, err := os.ReadFile(victim); err != nil || string(b) != "safe" {
						t.Fatalf("victim: %q %v", b, err)
					}
					var st syscall.Stat_t
					if err := syscall.Stat(victim, &st); err != nil || st.Nlink != 1 || st.Mode&0o777 != 0o600 {
						t.Fatalf("victim: %d links, mode %o, %v", st.Nlink, st.Mode, err)
					}
					if err := syscall.Stat(outside, &after); err != nil || before.Mode != after.Mode || before.Uid != after.Uid || before.Mtim != after.Mtim {
						t.Fatalf("outside: %v, owner %d, mode %o, changed at %v", err, after.Uid, after.Mode, after.Mtim)
					}
					if e, err := os.ReadDir(outside); err != nil || len(e) != 1 {
						t.Fatalf("outside: %v %v", e, err)
					}
					if keys := active(t, s); len(keys) > 0 {
						t.Errorf("half-unpacked snapshots left: %v", keys)
					}
				})
			}
		})
	}
}

func unixGet(path, name string) (string, error) {
	b := make([]byte, 256)
	n, err := unix.Lgetxattr(path, name, b)
	return string(b[:max(n, 0)]), err
}

func TestLimits(t *testing.T) {
	s := openStore(t, t.TempDir(), Overlay2, Limits{Bytes: 1 << 20, Entries: 10})
	var many []member
	for i := range 11 {
		many = append(many, reg(fmt.Sprint(i), ""))
	}
	for name, l := range map[string]Layer{"entries": layer(many...), "bytes": layer(reg("f", strings.Repeat("x", 1<<20+1)))} {
		if _, err := s.Unpack(context.Background(), []Layer{l}); !errdefs.IsResourceExhausted(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Unpack(context.Background(), make([]Layer, 128)); err == nil || err.Error() != "max depth exceeded" {
		t.Errorf("128 layers: %v", err)
	}
	wrong := layer(reg("f", "x"))
	wrong.DiffID = digest.FromString("else")
	if _, err := s.Unpack(context.Background(), []Layer{wrong}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("wrong digest: %v", err)
	}
	if keys := active(t, s); len(keys) > 0 {
		t.Errorf("left: %v", keys)
	}
}

// Owner, mode, time, attributes, capabilities, hard links and device nodes are
// those of the tar.
func TestAttributes(t *testing.T) {
	at := time.Unix(1600000000, 0)
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	l := layer(
		member{tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 5, Gid: 6, ModTime: at}, ""},
		member{tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o2775, Uid: 7, Gid: 8, ModTime: at}, ""},
		member{tar.Header{Name: "d/f", Mode: 0o4711, Uid: 9, Gid: 10, ModTime: at, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.x": "y"}}, "body"},
		member{tar.Header{Name: "d/g", Typeflag: tar.TypeLink, Linkname: "d/f", Mode: 0o4711, Uid: 9, Gid: 10, ModTime: at}, ""},
		member{tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}, ""},
		member{tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600}, ""},
	)
	s := openStore(t, t.TempDir(), Overlay2, Limits{})
	chain, err := s.Unpack(context.Background(), []Layer{l})
	if err != nil {
		t.Fatal(err)
	}
	low, err := s.Layers(context.Background(), chain)
	if err != nil {
		t.Fatal(err)
	}
	top := low.Dirs[0]
	stat := func(name string) (st syscall.Stat_t) {
		if err := syscall.Lstat(filepath.Join(top, name), &st); err != nil {
			t.Error(err)
		}
		return st
	}
	for name, want := range map[string][3]uint32{".": {0o750, 5, 6}, "d": {0o2775, 7, 8}, "d/f": {0o4711, 9, 10}} {
		st := stat(name)
		if got := [3]uint32{st.Mode & 0o7777, st.Uid, st.Gid}; got != want || st.Mtim.Sec != at.Unix() {
			t.Errorf("%s: %o at %d, want %o", name, got, st.Mtim.Sec, want)
		}
	}
	if stat("d/f").Ino != stat("d/g").Ino {
		t.Error("the hard link is a file of its own")
	}
	if st := stat("null"); st.Rdev != unix.Mkdev(1, 3) || st.Mode&syscall.S_IFMT != syscall.S_IFCHR {
		t.Errorf("null: %o %x", st.Mode, st.Rdev)
	}
	if v, err := unixGet(filepath.Join(top, "d/f"), "security.capability"); err != nil || v != capability {
		t.Errorf("capability %q %v", v, err)
	}
	w, err := s.CreateWritable(id.New(), low, WritableOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(w.Upper, &st); err != nil || st.Mode&0o7777 != 0o750 || st.Uid != 5 {
		t.Errorf("upper: %o %d %v", st.Mode, st.Uid, err)
	}
}

// Docker's limit of 127 layers must be mountable.
func TestDeepChain(t *testing.T) {
	s := openStore(t, t.TempDir(), Overlay2, Limits{})
	var layers []Layer
	for i := range MaxDepth {
		layers = append(layers, layer(reg(fmt.Sprint("f", i), "x")))
	}
	chain, err := s.Unpack(context.Background(), layers)
	if err != nil {
		t.Fatal(err)
	}
	low, err := s.Layers(context.Background(), chain)
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.CreateWritable(id.New(), low, WritableOptions{Volatile: true})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time with the mark of a volatile mount there
		root := t.TempDir()
		data, chdir := w.OverlayOptions()
		if chdir == "" || len(data) >= os.Getpagesize() {
			t.Fatalf("%d bytes of options, in %q", len(data), chdir)
		}
		t.Chdir(chdir)
		if err := syscall.Mount("overlay", root, "overlay", 0, data); err != nil {
			t.Fatal(err)
		}
		got, _ := filepath.Glob(filepath.Join(root, "f*"))
		if err := syscall.Unmount(root, 0); err != nil {
			t.Error(err)
		}
		if len(got) != MaxDepth {
			t.Errorf("%d files, want %d", len(got), MaxDepth)
		}
		if w, err = s.OpenWritable(filepath.Base(filepath.Dir(w.Upper)), Lower{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWritableLife(t *testing.T) {
	for _, driver := range []string{Overlay2, VFS} {
		t.Run(driver, func(t *testing.T) {
			root := t.TempDir()
			s := openStore(t, root, driver, Limits{})
			cid := id.New()
			if _, err := s.OpenWritable(cid, Lower{}); !errdefs.IsNotFound(err) {
				t.Errorf("open before create: %v", err)
			}
			w, err := s.CreateWritable(cid, Lower{}, WritableOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.CreateWritable(cid, Lower{}, WritableOptions{}); !errors.Is(err, os.ErrExist) {
				t.Errorf("create twice: %v", err)
			}
			if err := os.WriteFile(filepath.Join(w.Upper+w.Dir, "f"), []byte("123"), 0o600); err != nil {
				t.Fatal(err)
			}
			if n, err := s.Usage(cid); n != 3 || err != nil {
				t.Errorf("usage %d %v", n, err)
			}
			if err := s.RemoveWritable(cid); err != nil {
				t.Fatal(err)
			}
			if err := s.RemoveWritable(cid); err != nil {
				t.Errorf("remove twice: %v", err)
			}
			if _, err := s.Usage(cid); !errdefs.IsNotFound(err) {
				t.Errorf("usage after remove: %v", err)
			}
			for _, bad := range []string{"", "..", "../../x", strings.Repeat("a", 63), strings.Repeat("g", 64)} {
				if _, err := s.CreateWritable(bad, Lower{}, WritableOptions{}); !errdefs.IsInvalidArgument(err) {
					t.Errorf("id %q: %v", bad, err)
				}
			}
			if _, err := s.CreateWritable(id.New(), Lower{}, WritableOptions{SizeLimit: 1}); !errdefs.IsInvalidArgument(err) {
				t.Errorf("size limit: %v", err)
			}
			s.Settle()
			if err := os.MkdirAll(filepath.Join(root, "trash", "old", "deep"), 0o700); err != nil {
				t.Fatal(err)
			}
			if _, err := openTrash(filepath.Join(root, "trash")); err != nil {
				t.Fatal(err)
			}
			again, err := openTrash(filepath.Join(root, "trash"))
			if err != nil {
				t.Fatal(err)
			}
			again.wait()
			if e, _ := os.ReadDir(filepath.Join(root, "trash")); len(e) != 0 {
				t.Errorf("trash: %v", e)
			}
			if _, err := OpenDriver(root, map[string]string{Overlay2: VFS, VFS: Overlay2}[driver]); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("other driver: %v", err)
			}
		})
	}
}

func BenchmarkWritable(b *testing.B) {
	s := openStore(b, b.TempDir(), Overlay2, Limits{})
	chain, err := s.Unpack(context.Background(), []Layer{layer(reg("f", "x")), layer(reg("g", "x"))})
	if err != nil {
		b.Fatal(err)
	}
	var ids []string
	for b.Loop() {
		low, err := s.Layers(context.Background(), chain)
		if err != nil {
			b.Fatal(err)
		}
		cid := id.New()
		ids = append(ids, cid)
		if _, err := s.CreateWritable(cid, low, WritableOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	at := time.Now()
	for _, cid := range ids {
		if err := s.RemoveWritable(cid); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(time.Since(at).Nanoseconds())/float64(len(ids)), "remove-ns")
}

// TestWritableLimit: what a container writes is bounded, through the overlay too.
func TestWritableLimit(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			s := openStore(t, filepath.Join(quotatest.Mounted(t, kind), "store"), Overlay2, Limits{})
			cid := id.New()
			w, err := s.CreateWritable(cid, Lower{}, WritableOptions{SizeLimit: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			data, _ := w.OverlayOptions()
			root := t.TempDir()
			if err := syscall.Mount("overlay", root, "overlay", 0, data); err != nil {
				t.Fatal(err)
			}
			if err := quotatest.Write(filepath.Join(root, "some"), 512); err != nil {
				t.Error(err)
			}
			if err := quotatest.Write(filepath.Join(root, "more"), 1024); !quotatest.Full(err) {
				t.Errorf("more than the limit: %v", err)
			}
			if err := syscall.Unmount(root, 0); err != nil {
				t.Error(err)
			}
			other, err := s.CreateWritable(id.New(), Lower{}, WritableOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := quotatest.Write(filepath.Join(other.Upper, "much"), 4096); err != nil {
				t.Error(err)
			}
			if err := s.RemoveWritable(cid); err != nil {
				t.Error(err)
			}
			s.Settle()
			s.Close()
		})
	}
}
