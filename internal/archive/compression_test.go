package archive

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

func TestDecompress(t *testing.T) {
	plain := bytes.Repeat([]byte("wherry "), 10000)
	write := func(open func(io.Writer) (io.WriteCloser, error)) []byte {
		var b bytes.Buffer
		w, err := open(&b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	z := write(func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) })
	g := write(func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })
	skip := append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, z...)
	for name, c := range map[string]struct {
		in   []byte
		want Compression
	}{
		"plain": {plain, None}, "gzip": {g, Gzip}, "zstd": {z, Zstd}, "zstd after a skippable frame": {skip, Zstd},
		"xz": {write(func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }), XZ},
	} {
		r, kind, err := Decompress(bytes.NewReader(c.in))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, plain) || kind != c.want {
			t.Errorf("%s: %d bytes of %q, %v", name, len(got), kind, err)
		}
		r.Close()
	}
	for _, short := range []string{"", "x", "\x1f\x8b\x08"} {
		if r, _, err := Decompress(bytes.NewReader([]byte(short))); err == nil {
			if b, err := io.ReadAll(r); err != nil || string(b) != short {
				t.Errorf("%q: %q %v", short, b, err)
			}
		}
	}
	if r, _, err := Decompress(bytes.NewReader(g[:len(g)/2])); err == nil {
		if _, err := io.ReadAll(r); err == nil {
			t.Error("a cut gzip stream reads without error")
		}
	}
}
