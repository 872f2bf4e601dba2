package transfer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/image/manifest"
	"github.com/wherry-engine/wherry/internal/snapshot"
	"github.com/wherry-engine/wherry/test/promise"
)

// fake is a registry that does what a test wants of it.
type fake struct {
	*httptest.Server
	mu        sync.Mutex
	blobs     map[string][]byte // digest -> content
	manifests map[string][]byte // name/tag or name/digest
	types     map[string]string
	seen      []*http.Request
	served    atomic.Int64 // bytes of blobs
	// before answers in the registry's place when it returns true.
	before func(w http.ResponseWriter, r *http.Request) bool
}

func newFake(t testing.TB) *fake {
	f := &fake{blobs: map[string][]byte{}, manifests: map[string][]byte{}, types: map[string]string{}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fake) host() string { return strings.TrimPrefix(f.URL, "http://") }

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.seen = append(f.seen, r)
	before := f.before
	f.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	if name, ref, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/"); ok {
		f.mu.Lock()
		body, kind := f.manifests[name+"/"+ref], f.types[name+"/"+ref]
		f.mu.Unlock()
		if body == nil {
			sayError(w, 404, "MANIFEST_UNKNOWN", "manifest unknown")
			return
		}
		w.Header().Set("Content-Type", kind)
		w.Write(body)
		return
	}
	if _, ref, ok := strings.Cut(r.URL.Path, "/blobs/"); ok {
		f.mu.Lock()
		body := f.blobs[ref]
		f.mu.Unlock()
		if body == nil {
			sayError(w, 404, "BLOB_UNKNOWN", "blob unknown to registry")
			return
		}
		http.ServeContent(&counting{w, &f.served}, r, "", made, bytes.NewReader(body))
		return
	}
	w.WriteHeader(200)
}

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n.Add(int64(n))
	return n, err
}

func sayError(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

// requests lists the requests whose path has a part.
func (f *fake) requests(part string) (out []*http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.seen {
		if strings.Contains(r.URL.Path, part) {
			out = append(out, r)
		}
	}
	return out
}

func (f *fake) blob(b []byte, mediaType string) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	f.mu.Lock()
	f.blobs[d.Digest.String()] = b
	f.mu.Unlock()
	return d
}

func (f *fake) put(name, tag string, v any, mediaType string) ocispec.Descriptor {
	b, ok := v.([]byte)
	if !ok {
		b, _ = json.Marshal(v)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	f.mu.Lock()
	for _, ref := range []string{tag, d.Digest.String()} {
		if ref != "" {
			f.manifests[name+"/"+ref], f.types[name+"/"+ref] = b, mediaType
		}
	}
	f.mu.Unlock()
	return d
}

// layer makes a tar with one file, compressed or not.
func layer(name string, size int, compression string) (blob []byte, diff digest.Digest) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	body := make([]byte, size)
	r := rand.New(rand.NewPCG(uint64(len(name)), uint64(size)))
	for i := range body {
		body[i] = byte(r.Uint32())
	}
	tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(size), Mode: 0o644})
	tw.Write(body)
	tw.Close()
	diff = digest.FromBytes(b.Bytes())
	switch compression {
	case "gzip":
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		w.Write(b.Bytes())
		w.Close()
		return z.Bytes(), diff
	case "zstd":
		w, _ := zstd.NewWriter(nil)
		return w.EncodeAll(b.Bytes(), nil), diff
	}
	return b.Bytes(), diff
}

// picture is an image to be put into a fake registry.
type picture struct {
	layers   []int // sizes
	tars     [][]byte
	more     []packedLayer
	arch     string
	manifest func(*ocispec.Manifest) // changes it before it is stored
}

func (f *fake) image(name, tag string, p picture) ocispec.Descriptor {
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	if p.arch != "" {
		config.Architecture = p.arch
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	for i, size := range p.layers {
		kind := []string{"gzip", "zstd", ""}[i%3]
		b, diff := layer(fmt.Sprintf("%s%s%d", name, p.arch, i), size, kind)
		mediaType := ocispec.MediaTypeImageLayer
		if kind != "" {
			mediaType += "+" + kind
		}
		m.Layers = append(m.Layers, f.blob(b, mediaType))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diff)
	}
	for _, b := range p.tars {
		m.Layers = append(m.Layers, f.blob(b, ocispec.MediaTypeImageLayer))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(b))
	}
	for _, l := range p.more {
		m.Layers = append(m.Layers, f.blob(l.blob, l.mediaType))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diff)
	}
	config.RootFS.Type = "layers"
	b, _ := json.Marshal(config)
	m.Config = f.blob(b, ocispec.MediaTypeImageConfig)
	if p.manifest != nil {
		p.manifest(&m)
	}
	return f.put(name, tag, m, m.MediaType)
}

// bench is a store with a client.
type bench struct {
	*Client
	t      testing.TB
	root   string
	store  *image.Store
	config Config
	limits snapshot.Limits
	fresh  []string // what lies in the data root of a new store
	mu     sync.Mutex
	events []events.Message
}

func newBench(t testing.TB, c Config) *bench {
	promise.Root(t)
	b := &bench{t: t, root: t.TempDir(), config: c}
	b.open()
	b.fresh = b.inside()
	t.Cleanup(func() { b.store.Close() })
	return b
}

func (b *bench) open() {
	b.t.Helper()
	publish := func(m events.Message) {
		b.mu.Lock()
		b.events = append(b.events, m)
		b.mu.Unlock()
	}
	var err error
	if b.store, err = image.Open(context.Background(), image.Config{Root: b.root, Events: publish, Limits: b.limits}); err != nil {
		b.t.Fatal(err)
	}
	if b.Client, err = New(Options{Images: b.store, UserAgent: "test", Events: publish}, b.config); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) restart() {
	b.t.Helper()
	if err := b.store.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.open()
}

// pull returns the messages, one a line, and the error.
func (b *bench) pull(ref string) (string, error) { return b.pullAs(ref, "", "") }

func (b *bench) pullAs(ref, platform, auth string) (string, error) {
	var out strings.Builder
	err := b.Pull(b.t.Context(), ref, platform, auth, func(m jsonstream.Message) {
		if m.Progress != nil && m.Progress.Total > 0 {
			return
		}
		fmt.Fprintln(&out, strings.TrimSpace(m.ID+" "+m.Status))
	})
	return out.String(), err
}

// inside lists the layers and all files of the data root but its databases.
func (b *bench) inside() (list []string) {
	b.t.Helper()
	b.store.Snapshots().Settle()
	err := filepath.WalkDir(b.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, b.root)
		if !d.IsDir() && filepath.Ext(name) != ".db" || strings.HasSuffix(filepath.Dir(name), "/snapshots") {
			list = append(list, name)
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return list
}

// nothing makes sure that a pull that failed has left nothing, once the engine
// has been restarted and what could have been resumed is given up.
func (b *bench) nothing(ref string) {
	b.t.Helper()
	b.restart()
	if img, err := b.store.Resolve(context.Background(), ref); err == nil {
		b.t.Errorf("there is an image: %v", img.ID)
	}
	if err := b.store.Content().Forget(context.Background(), time.Now()); err != nil {
		b.t.Fatal(err)
	}
	if err := b.store.Collect(context.Background()); err != nil {
		b.t.Fatal(err)
	}
	b.empty()
}

// empty makes sure that the store is as small as a fresh one.
func (b *bench) empty() {
	b.t.Helper()
	if left := b.inside(); !slices.Equal(left, b.fresh) {
		b.t.Errorf("left behind: %v, fresh: %v", left, b.fresh)
	}
	if left, err := b.store.Content().Leases().List(content.With(context.Background())); err != nil || len(left) > 0 {
		b.t.Errorf("leases stay: %v %v", left, err)
	}
}

// verify reads every blob of an image.
func (b *bench) verify(ref string) *image.Image {
	b.t.Helper()
	img, err := b.store.Resolve(context.Background(), ref)
	if err != nil {
		b.t.Fatal(err)
	}
	m, err := b.store.Content().Read(context.Background(), img.Manifest.Digest, manifest.MaxSize)
	if err != nil {
		b.t.Fatal(err)
	}
	doc, err := manifest.Parse(img.Manifest, m)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, d := range append(doc.Image.Layers, doc.Image.Config) {
		r, _, err := b.store.Content().Reader(context.Background(), d.Digest)
		if err != nil {
			b.t.Fatal(err)
		}
		got, err := digest.FromReader(r)
		r.Close()
		if err != nil || got != d.Digest {
			b.t.Errorf("%s: blob %s is %s, %v", ref, d.Digest, got, err)
		}
	}
	if _, err := b.store.Layers(context.Background(), img); err != nil {
		b.t.Error(err)
	}
	return img
}

var _ io.Writer = (*counting)(nil)

// answering makes a registry answer every request with an error.
func answering(code int, name string, header ...string) func(*fake) {
	return func(f *fake) {
		f.before = func(w http.ResponseWriter, r *http.Request) bool {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			if name == "" {
				w.WriteHeader(code)
			} else {
				sayError(w, code, name, "because")
			}
			return true
		}
	}
}
