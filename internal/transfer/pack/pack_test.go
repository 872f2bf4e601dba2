package pack

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/archive"
)

// content is half noise, half text.
func content(size int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(size)))
	b := make([]byte, size)
	for i := range b {
		if i/1000%2 == 0 {
			b[i] = byte(r.Uint32())
		} else {
			b[i] = "the same words "[i%15]
		}
	}
	return b
}

// all reads a stream to its end, in chunks that must be of a size.
func all(t *testing.T, s *Stream, size int) []byte {
	t.Helper()
	defer s.Close()
	var out []byte
	for {
		b, last, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		if out = append(out, b...); last {
			if len(b) > size {
				t.Errorf("the last chunk has %d bytes", len(b))
			}
			break
		}
		if len(b) != size {
			t.Errorf("a chunk has %d bytes, not %d", len(b), size)
		}
	}
	if d := s.Descriptor(); d.Digest != digest.FromBytes(out) || d.Size != int64(len(out)) {
		t.Errorf("it says %s %d, and is %s %d", d.Digest, d.Size, digest.FromBytes(out), len(out))
	}
	return out
}

// TestStream: whatever the chunks, the reads and the number of processors, a
// layer becomes the same bytes, and is what it was when they are unpacked.
func TestStream(t *testing.T) {
	for _, f := range []Form{Gzip, Zstd} {
		for _, size := range []int{1, 1024, 1 << 20, 5<<20 + 3} {
			plain := content(size)
			want := digest.FromBytes(plain)
			first := all(t, f.Start(bytes.NewReader(plain), want, 1<<20), 1<<20)
			was := runtime.GOMAXPROCS(1)
			for _, chunk := range []int{len(first), len(first) + 1, 100_000} {
				if again := all(t, f.Start(iotest.HalfReader(bytes.NewReader(plain)), want, chunk), chunk); !bytes.Equal(first, again) {
					t.Errorf("%s of %d bytes is not the same in chunks of %d", f, size, chunk)
				}
			}
			runtime.GOMAXPROCS(was)
			r, c, err := archive.Decompress(bytes.NewReader(first))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) || string(c) != string(f) {
				t.Errorf("%s of %d bytes: %d bytes come back, as %s, %v", f, size, len(got), c, err)
			}
			r.Close()
		}
	}
}

func TestStreamFails(t *testing.T) {
	plain := content(3 << 20)
	for _, f := range []Form{Gzip, Zstd} {
		for name, c := range map[string]struct {
			r    io.Reader
			want digest.Digest
		}{
			"does not have this digest any more": {bytes.NewReader(plain), digest.FromString("other")},
			"the disk":                           {io.MultiReader(bytes.NewReader(plain), iotest.ErrReader(&diskError{})), digest.FromBytes(plain)},
		} {
			s := f.Start(c.r, c.want, 64<<10)
			for {
				_, last, err := s.Next()
				if last {
					t.Fatalf("%s: %s: it ends well", f, name)
				}
				if err != nil {
					if !strings.Contains(err.Error(), name) {
						t.Errorf("%s: %v", name, err)
					}
					break
				}
			}
			s.Close()
		}
		// One that nobody wants any more ends, wherever it is.
		for n := range 4 {
			s := f.Start(&endless{b: plain}, digest.FromBytes(plain), 64<<10)
			for range n {
				if _, _, err := s.Next(); err != nil {
					t.Error(err)
				}
			}
			s.Close()
			if !errors.Is(s.err, errStopped) {
				t.Errorf("%s: after %d chunks: %v", f, n, s.err)
			}
		}
	}
}

// endless says the same again and again.
type endless struct {
	b  []byte
	at int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.b[e.at:])
	e.at = (e.at + n) % len(e.b)
	return n, nil
}

type diskError struct{}

func (*diskError) Error() string { return "the disk" }

func TestMediaType(t *testing.T) {
	for of, want := range map[string][2]string{
		ocispec.MediaTypeImageLayer:                                        {"application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar+zstd"},
		ocispec.MediaTypeImageLayerGzip:                                    {"application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar+zstd"},
		"application/vnd.docker.image.rootfs.diff.tar":                     {"application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar.zstd"},
		"application/vnd.docker.image.rootfs.diff.tar.gzip":                {"application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar.zstd"},
		"application/vnd.docker.image.rootfs.foreign.diff.tar":             {},
		"application/vnd.oci.image.layer.nondistributable.v1.tar":          {},
		"application/vnd.in-toto+json":                                     {},
		"application/vnd.oci.image.layer.v1.tar+encrypted":                 {},
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":        {},
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip+foo": {},
	} {
		gzip, _ := Gzip.MediaType(of)
		zstd, _ := Zstd.MediaType(of)
		if gzip != want[0] || zstd != want[1] {
			t.Errorf("%s: %q %q", of, gzip, zstd)
		}
		if _, ok := Gzip.MediaType(of); ok != (want[0] != "") {
			t.Errorf("%s: %t", of, ok)
		}
		if as, ok := None.MediaType(of); ok {
			t.Errorf("%s becomes %q without a compression", of, as)
		}
	}
}

func TestRemember(t *testing.T) {
	labels := map[string]string{}
	a := ocispec.Descriptor{Digest: digest.FromString("a"), Size: 7}
	if _, _, ok := Gzip.Recall(labels, "r:5000"); ok {
		t.Error("it is remembered before it happened")
	}
	remember := func(host, repository string, d ocispec.Descriptor) {
		for k, v := range Gzip.Remember(labels, host, repository, d) {
			labels[k] = v
		}
	}
	check := func(host string, d ocispec.Descriptor, in string) {
		t.Helper()
		got, list, ok := Gzip.Recall(labels, host)
		if !ok || got.Digest != d.Digest || got.Size != d.Size || strings.Join(list, ",") != in {
			t.Errorf("%s: %v %v %t", host, got, list, ok)
		}
	}
	remember("r:5000", "x", a)
	remember("r:5000", "y/z", a)
	remember("r:5000", "x", a)
	check("r:5000", a, "x,y/z")
	check("other", a, "")
	if _, _, ok := Zstd.Recall(labels, "r:5000"); ok {
		t.Error("one form stands for another")
	}
	for _, name := range strings.Split("abcdefgh", "") {
		remember("r:5000", name, a)
	}
	check("r:5000", a, "a,b,c,d,e,f,g,h")
	// Another compressor, another digest: what has the first does not have it.
	b := ocispec.Descriptor{Digest: digest.FromString("b"), Size: 8}
	remember("other", "x", b)
	check("r:5000", b, "")
	labels["wherry.push.gzip"] = "damaged"
	if _, _, ok := Gzip.Recall(labels, "r:5000"); ok {
		t.Error("nonsense is remembered")
	}
}
