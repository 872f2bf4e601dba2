package files

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestArrange(t *testing.T) {
	file, dir := place{path: "/s/x", exists: true}, place{path: "/s/x", exists: true, dir: true}
	contents := place{path: "/s/x/.", exists: true, dir: true}
	for _, c := range []struct {
		src, dst place
		dir      string
		names    [2]string // an entry, and what it becomes
		err      string
	}{
		{dir, place{path: "/d", exists: true, dir: true}, "/d", [2]string{"x/f", "x/f"}, ""},
		{dir, place{path: "/d/new"}, "/d", [2]string{"x/f", "new/f"}, ""},
		{contents, place{path: "/d/new"}, "/d", [2]string{"./f", "new/f"}, ""},
		{contents, place{path: "/d/new"}, "/d", [2]string{".", "new"}, ""},
		{file, place{path: "/d/f", exists: true}, "/d", [2]string{"x", "f"}, ""},
		{file, place{path: "/d/new"}, "/d", [2]string{"x", "new"}, ""},
		{dir, place{path: "/d/f", exists: true}, "", [2]string{}, "cannot copy directory"},
		{file, place{path: "/d/new/"}, "", [2]string{}, "no such directory"},
	} {
		p, err := arrange(c.src, c.dst)
		if c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%v to %v: %v", c.src, c.dst, err)
			}
			continue
		}
		if err != nil || p.dir != c.dir || p.name(c.names[0]) != c.names[1] {
			t.Errorf("%v to %v: %+v, %s is %s, %v", c.src, c.dst, p, c.names[0], p.name(c.names[0]), err)
		}
	}
}

func TestSplitArgument(t *testing.T) {
	for arg, want := range map[string][2]string{
		"c:/x": {"c", "/x"}, "c:": {"c", ""}, "/a:b": {"", "/a:b"}, "./a:b": {"", "./a:b"}, "x": {"", "x"}, "-": {"", "-"},
	} {
		if c, p := splitArgument(arg); [2]string{c, p} != want {
			t.Errorf("%q is %q %q", arg, c, p)
		}
	}
}

// TestUnpackStays unpacks what a hostile container might send: nothing may be
// made, changed or linked outside of the destination.
func TestUnpackStays(t *testing.T) {
	for name, list := range map[string][]tar.Header{
		"dots":     {{Name: "../f", Typeflag: tar.TypeReg, Mode: 0o777}},
		"absolute": {{Name: "/../f", Typeflag: tar.TypeReg, Mode: 0o777}},
		"link":     {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, {Name: "l/f", Typeflag: tar.TypeReg, Mode: 0o777}},
		"over":     {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, {Name: "l/sub/", Typeflag: tar.TypeDir, Mode: 0o777}},
		"hardlink": {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../outside/f"}},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			dest, outside := filepath.Join(top, "dest"), filepath.Join(top, "outside")
			for _, d := range []string{dest, outside} {
				if err := os.Mkdir(d, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(outside, "f"), []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range list {
				if err := w.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if err := unpack(&b, plan{dir: dest}); err == nil {
				t.Error("it was taken")
			}
			all, err := os.ReadDir(outside)
			if err != nil || len(all) != 1 {
				t.Errorf("outside holds %v, %v", all, err)
			}
			st, err := os.Stat(filepath.Join(outside, "f"))
			if err != nil || st.Size() != 4 || st.Mode() != 0o600 {
				t.Errorf("outside's file is %v, %v", st, err)
			}
			if left, err := os.ReadDir(top); err != nil || len(left) != 2 {
				t.Errorf("beside it: %v, %v", left, err)
			}
		})
	}
}

// TestRoundTrip packs a tree and unpacks it under another name.
func TestRoundTrip(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(from, "d/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "d/sub/f"), []byte(strings.Repeat("x", 100000)), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(from, "d/sub/f"), filepath.Join(from, "d/z")); err != nil {
		t.Fatal(err)
	}
	src, err := localSource(filepath.Join(from, "d"), false)
	if err != nil {
		t.Fatal(err)
	}
	p, err := arrange(src, place{path: filepath.Join(to, "new")})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := pack(&b, src, p); err != nil {
		t.Fatal(err)
	}
	if err := unpack(&b, plan{dir: to}); err != nil {
		t.Fatal(err)
	}
	one, err := os.Stat(filepath.Join(to, "new/sub/f"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.Stat(filepath.Join(to, "new/z"))
	if err != nil || !os.SameFile(one, other) || one.Mode() != 0o640 || one.Size() != 100000 {
		t.Errorf("%v and %v, %v", one, other, err)
	}
}
