package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/archive"
	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/image/manifest"
	"github.com/wherry-engine/wherry/internal/transfer/pack"
)

// built is an image as a build leaves it: layers that are not compressed, and
// with a statement an index with an attestation.
func (b *bench) built(name, statement string, kind string, sizes ...int) *image.Image {
	b.t.Helper()
	ctx, done, err := b.store.Content().Lease(context.Background())
	if err != nil {
		b.t.Fatal(err)
	}
	defer done()
	write := func(mediaType string, v any) ocispec.Descriptor {
		b.t.Helper()
		raw, ok := v.([]byte)
		if !ok {
			raw, _ = json.Marshal(v)
		}
		d, err := b.store.Content().WriteBytes(ctx, mediaType, raw)
		if err != nil {
			b.t.Fatal(err)
		}
		return d
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, Author: name}
	config.RootFS.Type = "layers"
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	for i, size := range sizes {
		tar, diff := layer(fmt.Sprint("file", i), size, "")
		m.Layers = append(m.Layers, write(ocispec.MediaTypeImageLayer, tar))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diff)
	}
	m.Config = write(ocispec.MediaTypeImageConfig, config)
	run := write(m.MediaType, m)
	target := run
	if statement != "" {
		a := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Subject: &run}
		a.SchemaVersion = 2
		l := write(kind, []byte(strings.ReplaceAll(statement, "DIGEST", run.Digest.Encoded())))
		about := ocispec.Image{Platform: ocispec.Platform{OS: "unknown", Architecture: "unknown"}}
		about.RootFS.DiffIDs = []digest.Digest{l.Digest}
		a.Layers, a.Config = []ocispec.Descriptor{l}, write(ocispec.MediaTypeImageConfig, about)
		att := write(a.MediaType, a)
		att.Platform = &about.Platform
		att.Annotations = map[string]string{manifest.AttestationOf: run.Digest.String(), manifest.AttestationType: "attestation-manifest"}
		listed := run
		listed.Platform = &config.Platform
		idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{listed, att}}
		idx.SchemaVersion = 2
		target = write(idx.MediaType, idx)
	}
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		b.t.Fatal(err)
	}
	img, _, err := image.NewExchange(b.store).Receive(ctx, image.Arrival{Target: target, Manifest: run, Names: []reference.Named{ref}})
	if err != nil {
		b.t.Fatal(err)
	}
	return img
}

// parse reads what a fake has under a reference.
func (f *fake) parse(t *testing.T, ref string) (*manifest.Document, digest.Digest) {
	t.Helper()
	b := f.manifests[ref]
	doc, err := manifest.Parse(ocispec.Descriptor{MediaType: f.types[ref]}, b)
	if err != nil {
		t.Fatalf("%s: %v", ref, err)
	}
	return doc, digest.FromBytes(b)
}

// packedAs makes sure that the layers of a manifest in a fake are an image's in
// a form.
func (f *fake) packedAs(t *testing.T, ref string, img *image.Image, form archive.Compression) digest.Digest {
	t.Helper()
	doc, d := f.parse(t, ref)
	if doc.Image == nil || doc.Image.Config.Digest != img.ID || len(doc.Image.Layers) != len(img.Config.RootFS.DiffIDs) {
		t.Fatalf("%s: %+v", ref, doc)
	}
	for i, l := range doc.Image.Layers {
		blob := f.blobs[l.Digest.String()]
		plain, c, err := archive.Decompress(bytes.NewReader(blob))
		if err != nil {
			t.Fatal(err)
		}
		got, err := digest.FromReader(plain)
		if err != nil || got != img.Config.RootFS.DiffIDs[i] || c != form || l.Size != int64(len(blob)) || l.MediaType != ocispec.MediaTypeImageLayer+map[archive.Compression]string{"gzip": "+gzip", "zstd": "+zstd"}[form] {
			t.Errorf("%s: layer %d is %s of %s, %+v, %v", ref, i, c, got, l, err)
		}
	}
	return d
}

// TestPushPacked: plain layers are compressed, once: what is known of them finds
// them again, in a repository, another one and another registry. The image and
// its id stay; its digest is the registry's, and so a pull finds it here.
func TestPushPacked(t *testing.T) {
	to, other, b := newFake(t), newFake(t), newBench(t, Config{})
	name := to.host() + "/app:v1"
	img := b.built(name, "", "", 20<<20, 100)
	k := &taker{f: to, uploads: map[string]*bytes.Buffer{}, mounts: true, cut: 3}
	to.before = k.serve
	out, err := b.push(name, "")
	if err != nil {
		t.Fatal(err, out)
	}
	d := to.packedAs(t, "app/v1", img, archive.Gzip)
	if strings.Count(out, " Pushed\n") != 2 || strings.Count(out, "Preparing") != 2 || !strings.Contains(out, "v1: digest: "+d.String()) || k.cut != 0 {
		t.Errorf("%d cuts are left\n%s", k.cut, out)
	}
	now := b.verify(name)
	if now.ID != img.ID || now.Target.Digest != img.Target.Digest || !slices.Equal(now.RepoDigests, []string{to.host() + "/app@" + d.String()}) {
		t.Errorf("the image is now %s %s %v", now.ID, now.Target.Digest, now.RepoDigests)
	}
	if same, err := b.store.Resolve(context.Background(), to.host()+"/app@"+d.String()); err != nil || same.ID != img.ID {
		t.Errorf("%v by its digest", err)
	}
	b.restart()
	sent := k.sent
	if out, err = b.push(name, ""); err != nil || strings.Count(out, "Layer already exists") != 2 || k.sent != sent || !strings.Contains(out, d.String()) {
		t.Errorf("again: %v, %d bytes\n%s", err, k.sent-sent, out)
	}

	// Another repository of the registry gets them from the first.
	before := to.before
	to.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/copy/blobs/") {
			w.WriteHeader(404)
			return true
		}
		return before(w, r)
	}
	for _, tag := range []string{to.host() + "/copy:v1", other.host() + "/app:v1"} {
		if err := b.store.Tag(context.Background(), name, tag); err != nil {
			t.Fatal(err)
		}
	}
	if out, err = b.push(to.host()+"/copy:v1", ""); err != nil || strings.Count(out, "Mounted from app") != 2 || k.sent != sent {
		t.Errorf("a copy: %v, %d bytes\n%s", err, k.sent-sent, out)
	}
	// Another registry has to be sent them; the digest is the same.
	ko := &taker{f: other, uploads: map[string]*bytes.Buffer{}}
	other.before = ko.serve
	if out, err = b.push(other.host()+"/app:v1", ""); err != nil || strings.Count(out, " Pushed\n") != 2 || !strings.Contains(out, d.String()) {
		t.Errorf("elsewhere: %v\n%s", err, out)
	}
	other.packedAs(t, "app/v1", img, archive.Gzip)

	// What was pushed comes back without anything being fetched.
	served := to.served.Load()
	for _, ref := range []string{name, to.host() + "/app@" + d.String()} {
		if out, err = b.pull(ref); err != nil || !strings.Contains(out, "Status: Image is up to date for ") || to.served.Load() != served {
			t.Errorf("%s: %v\n%s", ref, err, out)
		}
	}
	to.manifests["app/v2"], to.types["app/v2"] = to.manifests["app/v1"], to.types["app/v1"]
	if out, err = b.pull(to.host() + "/app:v2"); err != nil || !strings.Contains(out, "Downloaded newer image") || to.served.Load() != served {
		t.Errorf("under another tag: %v\n%s", err, out)
	}
	if now = b.verify(to.host() + "/app:v2"); now.ID != img.ID {
		t.Error("the other tag is another image")
	}

	// On another machine it is the same image, and what came compressed is not
	// touched by a push from there.
	c := newBench(t, Config{Compression: pack.Zstd})
	if out, err = c.pull(name); err != nil {
		t.Fatal(err, out)
	}
	if got := c.verify(name); got.ID != img.ID || got.Target.Digest != d {
		t.Errorf("elsewhere it is %s %s", got.ID, got.Target.Digest)
	}
	if out, err = c.push(name, ""); err != nil || strings.Count(out, "Layer already exists") != 2 || !strings.Contains(out, d.String()) {
		t.Errorf("pushed from there: %v\n%s", err, out)
	}
}

// TestPushPackedAlready: a small layer that the registry has from somebody else
// is known before anything is sent.
func TestPushPackedAlready(t *testing.T) {
	to, a, b := newFake(t), newBench(t, Config{}), newBench(t, Config{})
	name := to.host() + "/app:v1"
	a.built(name, "", "", 1000)
	b.built(name, "", "", 1000)
	k := &taker{f: to, uploads: map[string]*bytes.Buffer{}}
	to.before = k.serve
	if out, err := a.push(name, ""); err != nil {
		t.Fatal(err, out)
	}
	sent := k.sent
	if out, err := b.push(name, ""); err != nil || k.sent != sent || !strings.Contains(out, "Layer already exists") {
		t.Errorf("%v, %d bytes\n%s", err, k.sent-sent, out)
	}
}

// TestPushForms: the settings say what plain layers become.
func TestPushForms(t *testing.T) {
	for form, want := range map[pack.Form]archive.Compression{"": archive.Gzip, pack.Gzip: archive.Gzip, pack.Zstd: archive.Zstd, pack.None: archive.None} {
		to, b := newFake(t), newBench(t, Config{Compression: form})
		name := to.host() + "/app:v1"
		img := b.built(name, "", "", 100, 3000)
		k := &taker{f: to, uploads: map[string]*bytes.Buffer{}}
		to.before = k.serve
		if out, err := b.push(name, ""); err != nil {
			t.Fatal(err, out)
		}
		if d := to.packedAs(t, "app/v1", img, want); form == pack.None && d != img.Target.Digest {
			t.Errorf("pushed as it is it has the digest %s, not %s", d, img.Target.Digest)
		}
	}
}

// TestPushPackedBeside: of two images with the same plain layers that are pushed
// at once the one that keeps its digest gets them as they are.
func TestPushPackedBeside(t *testing.T) {
	for _, kept := range []string{"a", "z"} { // the first and the last of them
		first, to, b := newFake(t), newFake(t), newBench(t, Config{Compression: pack.None})
		old := b.built(first.host()+"/app:v1", "", "", 100, 3000)
		first.before = (&taker{f: first, uploads: map[string]*bytes.Buffer{}}).serve
		if out, err := b.push(first.host()+"/app:v1", ""); err != nil {
			t.Fatal(err, out)
		}
		if err := b.store.Tag(context.Background(), first.host()+"/app:v1", to.host()+"/app:"+kept); err != nil {
			t.Fatal(err)
		}
		img := b.built(to.host()+"/app:m", "", "", 100, 3000, 10)
		b.config.Compression = pack.Gzip
		b.restart()
		to.before = (&taker{f: to, uploads: map[string]*bytes.Buffer{}}).serve
		if out, err := b.push(to.host()+"/app", ""); err != nil {
			t.Fatal(err, out)
		}
		to.packedAs(t, "app/m", img, archive.Gzip)
		if d := to.packedAs(t, "app/"+kept, old, archive.None); d != old.Target.Digest {
			t.Errorf("%s had the digest %s, and has %s", kept, old.Target.Digest, d)
		}
	}
}

const statement = `{"_type":"https://in-toto.io/Statement/v0.1","subject":[{"name":"pkg:docker/app@v1","digest":{"sha256":"DIGEST"}}],"predicate":{"a":"<b>"}}`

// TestPushAttested: what an index says of an image is said of what was pushed.
func TestPushAttested(t *testing.T) {
	to, b := newFake(t), newBench(t, Config{})
	name := to.host() + "/app:v1"
	img := b.built(name, statement, inToto, 100_000)
	k := &taker{f: to, uploads: map[string]*bytes.Buffer{}}
	to.before = k.serve
	out, err := b.push(name, "")
	if err != nil {
		t.Fatal(err, out)
	}
	doc, top := to.parse(t, "app/v1")
	if doc.Index == nil || len(doc.Index.Manifests) != 2 || !strings.Contains(out, "v1: digest: "+top.String()) {
		t.Fatalf("%+v\n%s", doc, out)
	}
	run, att := doc.Index.Manifests[0], doc.Index.Manifests[1]
	if d := to.packedAs(t, "app/"+run.Digest.String(), img, archive.Gzip); d != run.Digest || run.Platform.Architecture != "amd64" {
		t.Errorf("%+v", run)
	}
	if att.Annotations[manifest.AttestationOf] != run.Digest.String() || att.Annotations[manifest.AttestationType] != "attestation-manifest" {
		t.Errorf("%+v", att)
	}
	said, d := to.parse(t, "app/"+att.Digest.String())
	if d != att.Digest || att.Size != int64(len(to.manifests["app/"+att.Digest.String()])) || said.Image.Subject.Digest != run.Digest || said.Image.Subject.Size != run.Size {
		t.Errorf("%s %+v", d, said.Image)
	}
	l := said.Image.Layers[0]
	if got := string(to.blobs[l.Digest.String()]); got != strings.ReplaceAll(statement, "DIGEST", run.Digest.Encoded()) {
		t.Error(got)
	}
	var about ocispec.Image
	if err := json.Unmarshal(to.blobs[said.Image.Config.Digest.String()], &about); err != nil || about.RootFS.DiffIDs[0] != l.Digest {
		t.Errorf("%v %v", about, err)
	}
	// The statement of old is nowhere.
	for _, blob := range to.blobs {
		if bytes.Contains(blob, []byte(img.Manifest.Digest.Encoded())) {
			t.Errorf("it speaks of the old digest: %s", blob)
		}
	}
	sent := k.sent
	if out, err = b.push(name, ""); err != nil || k.sent != sent || !strings.Contains(out, top.String()) {
		t.Errorf("again: %v, %d bytes\n%s", err, k.sent-sent, out)
	}
	c := newBench(t, Config{})
	if out, err = c.pull(name); err != nil {
		t.Fatal(err, out)
	}
	if got := c.verify(name); got.ID != img.ID || got.Target.Digest != top {
		t.Errorf("%+v", got)
	}

	// One that is signed cannot speak of another manifest: its image stays as it is.
	signed := b.built(to.host()+"/app:v2", statement, "application/vnd.dsse.envelope.v1+json", 200_000)
	if out, err = b.push(to.host()+"/app:v2", ""); err != nil || !strings.Contains(out, "v2: digest: "+signed.Target.Digest.String()) {
		t.Errorf("signed: %v\n%s", err, out)
	}
}

// TestPushPackedCut: a registry that forgets what it had of an upload gets it
// again from the start, and a push that fails is begun anew by the next.
func TestPushPackedCut(t *testing.T) {
	to, b := newFake(t), newBench(t, Config{MaxAttempts: 2})
	name := to.host() + "/app:v1"
	img := b.built(name, "", "", 10<<20)
	k := &taker{f: to, uploads: map[string]*bytes.Buffer{}}
	patches := 0
	to.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch {
			return k.serve(w, r)
		}
		if patches++; patches == 2 {
			io.Copy(io.Discard, r.Body)
			for _, u := range k.uploads {
				u.Reset()
			}
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		return k.serve(w, r)
	}
	if out, err := b.push(name, ""); err != nil {
		t.Fatal(err, out)
	}
	to.packedAs(t, "app/v1", img, archive.Gzip)
	if patches != 5 {
		t.Errorf("%d chunks, not one, one that was lost, and three", patches)
	}

	gone := newFake(t)
	kg := &taker{f: gone, uploads: map[string]*bytes.Buffer{}, cut: 100}
	gone.before = kg.serve
	if err := b.store.Tag(context.Background(), name, gone.host()+"/app:v1"); err != nil {
		t.Fatal(err)
	}
	if out, err := b.push(gone.host()+"/app:v1", ""); err == nil {
		t.Error(out)
	}
	if list := gone.requests("/blobs/uploads/"); list[len(list)-1].Method != http.MethodDelete {
		t.Error("the upload that failed was not taken back")
	}
	if got := b.verify(name); len(got.RepoDigests) != 1 || len(gone.manifests) != 0 {
		t.Errorf("%v, %d manifests", got.RepoDigests, len(gone.manifests))
	}
	b.restart()
	kg.cut = 0
	if out, err := b.push(gone.host()+"/app:v1", ""); err != nil {
		t.Error(err, out)
	}
	gone.packedAs(t, "app/v1", img, archive.Gzip)
}

// TestPushCancelled: a client that goes away in the middle of a chunk takes
// its upload back.
func TestPushCancelled(t *testing.T) {
	to, b := newFake(t), newBench(t, Config{})
	name := to.host() + "/app:v1"
	b.built(name, "", "", 10<<20)
	k := &taker{f: to, uploads: map[string]*bytes.Buffer{}}
	ctx, cancel := context.WithCancel(t.Context())
	to.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			io.CopyN(io.Discard, r.Body, 1000)
			cancel()
			io.Copy(io.Discard, r.Body) // until the connection is gone
			return true
		}
		return k.serve(w, r)
	}
	if err := b.Push(ctx, name, "", "", func(jsonstream.Message) {}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	list := to.requests("/blobs/uploads/")
	if last := list[len(list)-1]; last.Method != http.MethodDelete {
		t.Errorf("the last that the registry heard is %s", last.Method)
	}
}

// TestPackedForgotten: what is known of a layer's compressed form goes with it.
func TestPackedForgotten(t *testing.T) {
	to, b := newFake(t), newBench(t, Config{})
	name := to.host() + "/app:v1"
	b.built(name, statement, inToto, 1000)
	to.before = (&taker{f: to, uploads: map[string]*bytes.Buffer{}}).serve
	if out, err := b.push(name, ""); err != nil {
		t.Fatal(err, out)
	}
	list, err := b.store.Remove(context.Background(), name, image.RemoveOptions{})
	if err != nil || len(list) != 4 { // the tag, the digest, the image, the layer
		t.Errorf("%+v %v", list, err)
	}
	b.nothing(name)
}
