package flatten

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// layer packs lines: "dir/", "file=content", "link>target", "hard~target".
func layer(t *testing.T, lines ...string) *bytes.Reader {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, l := range lines {
		h := &tar.Header{Name: l, Mode: 0o644, Typeflag: tar.TypeReg}
		data := ""
		switch {
		case strings.HasSuffix(l, "/"):
			h.Typeflag = tar.TypeDir
		case strings.Contains(l, ">"):
			h.Name, h.Linkname, _ = strings.Cut(l, ">")
			h.Typeflag = tar.TypeSymlink
		case strings.Contains(l, "~"):
			h.Name, h.Linkname, _ = strings.Cut(l, "~")
			h.Typeflag = tar.TypeLink
		default:
			h.Name, data, _ = strings.Cut(l, "=")
			h.Size = int64(len(data))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(buf.Bytes())
}

func lines(t *testing.T, r io.Reader) []string {
	t.Helper()
	var out []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			out = append(out, h.Name)
		case tar.TypeSymlink:
			out = append(out, h.Name+">"+h.Linkname)
		case tar.TypeLink:
			out = append(out, h.Name+"~"+h.Linkname)
		default:
			out = append(out, fmt.Sprintf("%s=%s", h.Name, data))
		}
	}
}

func TestMerge(t *testing.T) {
	for name, c := range map[string]struct {
		layers [][]string
		want   []string
	}{
		"apart":               {[][]string{{"a=1"}, {"b=2"}}, []string{"a=1", "b=2"}},
		"replaced":            {[][]string{{"d/", "d/a=1"}, {"d/", "d/a=2"}}, []string{"d/", "d/a=2"}},
		"removed":             {[][]string{{"d/", "d/a=1", "d/b=1"}, {"d/", "d/.wh.a="}}, []string{"d/", "d/b=1", "d/.wh.a="}},
		"dir gone":            {[][]string{{"d/", "d/a=1", "d/s/", "d/s/b=1"}, {".wh.d="}}, []string{".wh.d="}},
		"of base":             {[][]string{{"x=1"}, {".wh.base="}}, []string{"x=1", ".wh.base="}},
		"again":               {[][]string{{"a=1"}, {".wh.a="}, {"a=3"}}, []string{"a=3"}},
		"dir again":           {[][]string{{"d/", "d/a=1"}, {".wh.d="}, {"d/", "d/b=3"}}, []string{"d/", "d/b=3", "d/.wh..wh..opq="}},
		"both in one":         {[][]string{{"d/", "d/a=1"}, {".wh.d=", "d/", "d/b=2"}}, []string{"d/", "d/b=2", "d/.wh..wh..opq="}},
		"opaque":              {[][]string{{"d/", "d/a=1"}, {"d/", "d/.wh..wh..opq=", "d/b=2"}}, []string{"d/", "d/b=2", "d/.wh..wh..opq="}},
		"dir to file":         {[][]string{{"d/", "d/a=1"}, {"d=2"}}, []string{"d=2"}},
		"file to dir":         {[][]string{{"d=1"}, {"d/", "d/a=2"}}, []string{"d/", "d/a=2"}},
		"symlink":             {[][]string{{"d/", "d/a=1"}, {"d>e"}}, []string{"d>e"}},
		"hard link":           {[][]string{{"a=1", "b~a"}, {"c=2"}}, []string{"a=1", "c=2", "b~a"}},
		"its target gone":     {[][]string{{"a=1", "b~a", "c~a"}, {".wh.a="}}, []string{"b=1", "c~b", ".wh.a="}},
		"its target replaced": {[][]string{{"a=1", "b~a"}, {"a=2"}}, []string{"a=2", "b=1"}},
		"removed twice":       {[][]string{{"a=1"}, {".wh.a="}, {".wh.b="}}, []string{".wh.a=", ".wh.b="}},
		"below what is gone":  {[][]string{{"d/", "d/a=1"}, {"d/", "d/.wh.a="}, {".wh.d="}}, []string{".wh.d="}},
	} {
		t.Run(name, func(t *testing.T) {
			var layers []Layer
			for _, l := range c.layers {
				layers = append(layers, layer(t, l...))
			}
			var out bytes.Buffer
			if err := Merge(&out, layers); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, lines(t, &out)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestMergeTruncated(t *testing.T) {
	l := layer(t, "a=0123456789")
	b := make([]byte, 515)
	if _, err := l.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := Merge(io.Discard, []Layer{bytes.NewReader(b)}); err == nil {
		t.Error("a layer that was cut off is merged")
	}
}
