package transfer

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// archive is what the fake has as an OCI layout, with x:latest in its index.
func (f *fake) archive(t *testing.T) []byte {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(name string, body []byte) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(body)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	blob := func(d string) string { return "blobs/" + strings.Replace(d, ":", "/", 1) }
	var top ocispec.Descriptor
	for ref, body := range f.manifests {
		if d, ok := strings.CutPrefix(ref, "x/sha256:"); ok {
			top.Digest, top.Size, top.MediaType = digest.NewDigestFromEncoded(digest.SHA256, d), int64(len(body)), f.types[ref]
			put(blob(top.Digest.String()), body)
		}
	}
	top.Annotations = map[string]string{"io.containerd.image.name": "example.com/x:latest"}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{top}}
	index.SchemaVersion = 2
	body, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	put("index.json", body)
	for d, body := range f.blobs {
		put(blob(d), body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestHostile is each thing that a broken or hostile registry or archive may
// come with: pulled and loaded it is refused with an error that names the image
// and the cause, or tamed, and nothing stays.
func TestHostile(t *testing.T) {
	broken := func(change func(*ocispec.Manifest)) func(*fake) {
		return func(f *fake) { f.image("x", "latest", picture{layers: []int{50_000, 60_000}, manifest: change}) }
	}
	members := func(list ...tar.Header) func(*fake) {
		return func(f *fake) {
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
			f.image("x", "latest", picture{layers: []int{5000}, tars: [][]byte{b.Bytes()}})
		}
	}
	// onWire lets the layer of more than 10 kB come as change makes it.
	onWire := func(change func([]byte) []byte) func(*fake) {
		return func(f *fake) {
			f.image("x", "latest", picture{layers: []int{50_000}})
			for d, body := range f.blobs {
				if len(body) > 10_000 {
					f.blobs[d] = change(body)
				}
			}
		}
	}
	repeat := func(n int) func(*fake) {
		return broken(func(m *ocispec.Manifest) {
			for len(m.Layers) < n {
				m.Layers = append(m.Layers, m.Layers[0])
			}
		})
	}
	outside := filepath.Join(t.TempDir(), "absolute")
	tight := snapshot.Limits{Bytes: 4 << 20, Entries: 1000}
	// The texts of pull and load, HOST/x:latest and example.com/x:latest being X;
	// .* stands for anything. "" where there is no such thing.
	for name, c := range map[string]struct {
		set        func(*fake)
		limits     snapshot.Limits
		pull, load string
		pullIs     func(error) bool
		taken      func(t *testing.T, layer string) // instead of an error
	}{
		"wrong digest": {set: onWire(func(b []byte) []byte { return append([]byte("x"), b[1:]...) }),
			pull: "X: filesystem layer verification failed for digest sha256:", load: "blobs/sha256/.*: .*content does not match its digest"},
		"truncated layer": {set: onWire(func(b []byte) []byte { return b[:9000] }), pullIs: errdefs.IsInternal,
			pull: "X: blob sha256:.* from HOST: unexpected EOF after 9000 of 5.* bytes", load: "blobs/sha256/.*: .*content does not match its digest"},
		"layer of which an end is missing": {set: func(f *fake) {
			l := bomb(t, "gzip", 1, 100_000, 50_000) // its digests are right
			f.image("x", "latest", picture{more: []packedLayer{l}})
		}, pull: "X: unpack layer sha256:.*: .*unexpected EOF", load: "X: unpack layer sha256:.*: .*unexpected EOF"},
		"manifest of 100 MB": {set: func(f *fake) { f.put("x", "latest", make([]byte, 100<<20), ocispec.MediaTypeImageManifest) },
			pull: "X: .*more than 4194304 bytes", load: "X: .*more than the 4194304"},
		"10000 layers": {set: repeat(10_000), pull: "X: max depth exceeded: it has 10000 layers, more than 127", load: "X: max depth exceeded: it has 10000 layers, more than 127"},
		"128 layers":   {set: repeat(128), pull: "X: max depth exceeded: it has 128 layers, more than 127", load: "X: max depth exceeded: it has 128 layers, more than 127"},
		"path out": {set: members(tar.Header{Name: "../../etc/passwd", Typeflag: tar.TypeReg}),
			pull: `X: unpack layer sha256:.*: layer contains the path "../../etc/passwd", which leads out of it`, load: `X: unpack layer sha256:.*: layer contains the path "../../etc/passwd", which leads out of it`},
		"path out by a directory": {set: members(tar.Header{Name: "a/../../x", Typeflag: tar.TypeReg}),
			pull: `X: unpack layer sha256:.*: layer contains the path "../x", which leads out of it`, load: `X: unpack layer sha256:.*: layer contains the path "../x", which leads out of it`},
		"hard link out": {set: members(tar.Header{Name: "in", Typeflag: tar.TypeLink, Linkname: "../../../etc/shadow"}),
			pull: `X: unpack layer sha256:.*: layer contains the hard link "in" to "../../../etc/shadow", which leads out of it`, load: `X: unpack layer sha256:.*: layer contains the hard link "in" to`},
		"absolute hard link out": {set: members(tar.Header{Name: "in", Typeflag: tar.TypeLink, Linkname: "/etc/shadow"}),
			pull: `X: unpack layer sha256:.*: layer contains the hard link "/in" to "/etc/shadow", which is not there`, load: `X: unpack layer sha256:.*: layer contains the hard link "/in" to "/etc/shadow", which is not there`},
		"tar bomb": {limits: tight, set: func(f *fake) {
			f.image("x", "latest", picture{more: []packedLayer{bomb(t, "gzip", 1, 64<<20, 64<<20)}})
		}, pull: "X: unpack layer sha256:.*: layer is too large", load: "X: unpack layer sha256:.*: layer is too large", pullIs: errdefs.IsResourceExhausted},
		"unknown media type": {set: broken(func(m *ocispec.Manifest) { m.Layers[1].MediaType = "application/x-evil" }),
			pull: `X: layer sha256:.* has the unsupported media type "application/x-evil"`, load: `X: layer sha256:.* has the unsupported media type "application/x-evil"`},
		"unknown media type of the manifest": {set: func(f *fake) { f.put("x", "latest", []byte(`{"schemaVersion":2}`), "application/x-evil") },
			pull: `X: .*manifest`, load: `index.json refers to the unsupported media type "application/x-evil"`},
		"absolute name": {set: members(tar.Header{Name: outside, Typeflag: tar.TypeReg, Mode: 0o600}), taken: func(t *testing.T, layer string) {
			if fi, err := os.Lstat(filepath.Join(layer, outside)); err != nil || !fi.Mode().IsRegular() {
				t.Error("it is not in the layer:", err)
			}
			if _, err := os.Lstat(outside); err == nil {
				t.Error("it is outside of the layer")
			}
		}},
		"device nodes": {set: members(tar.Header{Name: "dev/mem", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 1, Mode: 0o666},
			tar.Header{Name: "/dev/wherry-test-disk", Typeflag: tar.TypeBlock, Devmajor: 8, Mode: 0o666}), taken: func(t *testing.T, layer string) {
			for name, want := range map[string]uint32{"dev/mem": unix.S_IFCHR, "dev/wherry-test-disk": unix.S_IFBLK} {
				var st unix.Stat_t
				if err := unix.Lstat(filepath.Join(layer, name), &st); err != nil || st.Mode&unix.S_IFMT != want {
					t.Errorf("%s in the layer: %o %v", name, st.Mode, err)
				}
			}
			if _, err := os.Lstat("/dev/wherry-test-disk"); err == nil {
				t.Error("the host has got a device")
			}
		}},
		"401": {set: answering(401, "UNAUTHORIZED"), pull: "X: unauthorized: because", pullIs: errdefs.IsInternal},
		"403": {set: answering(403, "DENIED"), pull: "pull access denied for HOST/x, repository does not exist or may require 'docker login': denied: because", pullIs: errdefs.IsNotFound},
		"404": {set: answering(404, "MANIFEST_UNKNOWN"), pull: "manifest for X not found: manifest unknown: because", pullIs: errdefs.IsNotFound},
		"429": {set: answering(429, "TOOMANYREQUESTS", "Retry-After", "3600"), pull: "X: toomanyrequests: because (try again after 3600 s)", pullIs: errdefs.IsResourceExhausted},
		"500": {set: answering(500, ""), pull: "X: received unexpected HTTP status: 500 Internal Server Error", pullIs: errdefs.IsInternal},
		"503": {set: answering(503, "", "Retry-After", "3600"), pull: "X: received unexpected HTTP status: 503 Service Unavailable", pullIs: errdefs.IsInternal},
		"TLS not trusted": {set: func(f *fake) {
			f.image("x", "latest", picture{layers: []int{5000}})
			f.Server = httptest.NewTLSServer(f)
			t.Cleanup(f.Close)
		}, pull: `X: Get "https://HOST/v2/": tls: failed to verify certificate: x509: `, pullIs: errdefs.IsInternal},
	} {
		prepare := func(t *testing.T) (*fake, *bench) {
			f, b := newFake(t), newBench(t, Config{MaxAttempts: 1})
			c.set(f)
			if c.limits != (snapshot.Limits{}) {
				b.limits = c.limits
				b.restart()
			}
			return f, b
		}
		outcome := func(t *testing.T, b *bench, err error, ref, want string) {
			t.Helper()
			if c.taken != nil {
				if err != nil {
					t.Fatal(err)
				}
				img := b.verify(ref)
				low, err := b.store.Layers(context.Background(), img)
				if err != nil {
					t.Fatal(err)
				}
				c.taken(t, low.Dirs[0])
				if _, err := b.store.Remove(context.Background(), ref, image.RemoveOptions{}); err != nil {
					t.Error(err)
				}
				b.nothing(ref)
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			text := strings.ReplaceAll(err.Error(), ref, "X")
			t.Log(text)
			for part := range strings.SplitSeq(want, ".*") {
				_, after, ok := strings.Cut(text, part)
				if !ok {
					t.Fatalf("got %q, want %q", err, want)
				}
				text = after
			}
			b.nothing(ref)
		}
		if c.pull != "" || c.taken != nil {
			t.Run("pull/"+name, func(t *testing.T) {
				f, b := prepare(t)
				// Loopback is never asked to prove who it is; 0.0.0.0 leads there, too.
				host := strings.TrimPrefix(f.URL, "http://")
				if at, tls := strings.CutPrefix(f.URL, "https://127.0.0.1"); tls {
					host = "0.0.0.0" + at
				}
				ref := host + "/x:latest"
				_, err := b.pull(ref)
				outcome(t, b, err, ref, strings.ReplaceAll(c.pull, "HOST", host))
				if is := c.pullIs; err != nil && (is == nil && !errdefs.IsInvalidArgument(err) || is != nil && !is(err)) {
					t.Errorf("kind of %v (%T)", err, err)
				}
			})
		}
		if c.load != "" || c.taken != nil {
			t.Run("load/"+name, func(t *testing.T) {
				f, b := prepare(t)
				err := b.store.Load(t.Context(), bytes.NewReader(f.archive(t)), true, nil, func(jsonstream.Message) {})
				outcome(t, b, err, "example.com/x:latest", c.load)
				if err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsResourceExhausted(err) {
					t.Errorf("kind of %v (%T)", err, err)
				}
			})
		}
	}
}
