package transfer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/snapshot"
)

// zeros is an endless file.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// bomb packs files of zeros, of each of which only the first sent bytes come.
func bomb(t *testing.T, kind string, files int, size, sent int64) packedLayer {
	t.Helper()
	var b bytes.Buffer
	var packed io.WriteCloser = gzip.NewWriter(&b)
	if kind == "zstd" {
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		packed = z
	}
	plain := digest.Canonical.Digester()
	w := tar.NewWriter(io.MultiWriter(packed, plain.Hash()))
	for i := range files {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("zeros%d", i), Typeflag: tar.TypeReg, Mode: 0o644, Size: size}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, zeros{}, min(size, sent)); err != nil {
			t.Fatal(err)
		}
	}
	if sent >= size {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := packed.Close(); err != nil {
		t.Fatal(err)
	}
	return packedLayer{b.Bytes(), ocispec.MediaTypeImageLayer + "+" + kind, plain.Digest()}
}

// packedLayer is a layer as a registry has it.
type packedLayer struct {
	blob      []byte
	mediaType string
	diff      digest.Digest
}

// TestTarBomb: a small layer that unpacks to more than there may be, or than
// there is room for, costs an error and nothing else.
func TestTarBomb(t *testing.T) {
	tight := snapshot.Limits{Bytes: 4 << 20, Entries: 1000}
	for name, c := range map[string]struct {
		kind       string
		files      int
		size, sent int64
		limits     snapshot.Limits
		disk       string // size of the disk, if it is a small one
		want       string
		is         func(error) bool
	}{
		"gzip":         {"gzip", 1, 64 << 20, 64 << 20, tight, "", "layer is too large", errdefs.IsResourceExhausted},
		"zstd":         {"zstd", 1, 64 << 20, 64 << 20, tight, "", "layer is too large", errdefs.IsResourceExhausted},
		"many files":   {"gzip", 1001, 0, 0, tight, "", "layer is too large: more than 1000 entries or 4194304 bytes", errdefs.IsResourceExhausted},
		"claimed size": {"gzip", 1, 1 << 50, 1000, snapshot.Limits{}, "", "layer is too large: more than 20000000 entries or 549755813888 bytes", errdefs.IsResourceExhausted},
		"small disk":   {"gzip", 1, 64 << 20, 64 << 20, snapshot.Limits{}, "16m", "no space left on device", func(error) bool { return true }},
	} {
		t.Run(name, func(t *testing.T) {
			f, b := newFake(t), newBench(t, Config{MaxAttempts: 1})
			if err := b.store.Close(); err != nil {
				t.Fatal(err)
			}
			if c.disk != "" {
				b.root = t.TempDir()
				if err := unix.Mount("tmpfs", b.root, "tmpfs", 0, "size="+c.disk); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := unix.Unmount(b.root, unix.MNT_DETACH); err != nil {
						t.Error(err)
					}
				})
			}
			b.limits = c.limits
			b.open()
			l := bomb(t, c.kind, c.files, c.size, c.sent)
			if len(l.blob) > 1<<20 {
				t.Fatalf("the bomb has %d bytes", len(l.blob))
			}
			f.image("x", "latest", picture{layers: []int{5000}, more: []packedLayer{l}})
			_, err := b.pull(f.host() + "/x:latest")
			if err == nil {
				t.Fatal("no error")
			}
			text := err.Error()
			if !strings.HasPrefix(text, f.host()+"/x:latest: unpack layer "+l.diff.String()+": ") || !strings.Contains(text, c.want) {
				t.Errorf("got %q", text)
			}
			if !c.is(err) {
				t.Errorf("kind of %v (%T)", err, err)
			}
			b.nothing(f.host() + "/x")
			// There is room for what is not a bomb.
			f.image("y", "latest", picture{layers: []int{500_000}})
			if _, err := b.pull(f.host() + "/y:latest"); err != nil {
				t.Error(err)
			}
		})
	}
}
