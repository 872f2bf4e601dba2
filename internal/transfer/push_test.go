package transfer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// taker lets a fake take uploads; each may be cut after some bytes.
type taker struct {
	f         *fake
	uploads   map[string]*bytes.Buffer
	cut       int // how many chunks are still to be cut in the middle
	mounts    bool
	sent      int
	elsewhere string
}

func (k *taker) serve(w http.ResponseWriter, r *http.Request) bool {
	name, rest, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/blobs/uploads/")
	k.f.mu.Lock()
	defer k.f.mu.Unlock()
	switch {
	case ok && r.Method == http.MethodPost:
		if from := r.URL.Query().Get("from"); k.mounts && from != "" && k.f.blobs[r.URL.Query().Get("mount")] != nil {
			w.WriteHeader(http.StatusCreated)
			return true
		}
		id := fmt.Sprint("u", len(k.uploads))
		k.uploads[id] = &bytes.Buffer{}
		w.Header().Set("Location", k.elsewhere+"/v2/"+name+"/blobs/uploads/"+id+"?state=1")
		w.WriteHeader(http.StatusAccepted)
	case ok && r.Method == http.MethodGet:
		w.Header().Set("Location", r.URL.String())
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, k.uploads[rest].Len()-1)))
		w.WriteHeader(http.StatusNoContent)
	case ok && r.Method == http.MethodPatch:
		var from int
		fmt.Sscanf(r.Header.Get("Content-Range"), "%d-", &from)
		if from != k.uploads[rest].Len() {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		}
		if k.cut > 0 {
			k.cut--
			n, _ := io.CopyN(k.uploads[rest], r.Body, 1<<20)
			k.sent += int(n)
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		n, _ := io.Copy(k.uploads[rest], r.Body)
		k.sent += int(n)
		w.Header().Set("Location", r.URL.String())
		w.Header().Set("Range", fmt.Sprintf("0-%d", k.uploads[rest].Len()-1))
		w.WriteHeader(http.StatusAccepted)
	case ok && r.Method == http.MethodPut:
		n, _ := io.Copy(k.uploads[rest], r.Body)
		k.sent += int(n)
		b := k.uploads[rest].Bytes()
		if d := digest.FromBytes(b); d.String() != r.URL.Query().Get("digest") {
			sayError(w, 400, "DIGEST_INVALID", "provided digest did not match uploaded content")
			return true
		}
		k.f.blobs[r.URL.Query().Get("digest")] = b
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodPut:
		name, ref, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
		b, _ := io.ReadAll(r.Body)
		for _, ref := range []string{ref, digest.FromBytes(b).String()} {
			k.f.manifests[name+"/"+ref], k.f.types[name+"/"+ref] = b, r.Header.Get("Content-Type")
		}
		w.WriteHeader(http.StatusCreated)
	default:
		return false
	}
	return true
}

func (b *bench) push(ref, auth string) (string, error) {
	var out strings.Builder
	err := b.Push(b.t.Context(), ref, "", auth, func(m jsonstream.Message) {
		if m.Progress != nil && m.Progress.Total > 0 {
			return
		}
		fmt.Fprintln(&out, strings.TrimSpace(m.ID+" "+m.Status))
	})
	return out.String(), err
}

// TestPush: what was pulled arrives elsewhere with the same digest; what is
// there is not sent again, what another repository has is mounted, and a chunk
// that was cut goes on in its middle.
func TestPush(t *testing.T) {
	from, to, b := newFake(t), newFake(t), newBench(t, Config{})
	want := from.image("app", "v1", picture{layers: []int{12 << 20, 100, 100}})
	total := 0
	for _, blob := range from.blobs {
		total += len(blob)
	}
	if _, err := b.pull(from.host() + "/app:v1"); err != nil {
		t.Fatal(err)
	}
	k := &taker{f: to, uploads: map[string]*bytes.Buffer{}, cut: 2, mounts: true}
	to.before = k.serve
	if _, err := b.push(to.host()+"/app:v1", ""); err == nil || err.Error() != "An image does not exist locally with the tag: "+to.host()+"/app" {
		t.Error(err)
	}
	for _, name := range []string{"/app:v1", "/app:v2", "/copy:v1"} {
		if err := b.store.Tag(context.Background(), from.host()+"/app:v1", to.host()+name); err != nil {
			t.Fatal(err)
		}
	}
	out, err := b.push(to.host()+"/app:v3", "")
	if err == nil || err.Error() != "tag does not exist: "+to.host()+"/app:v3" || out != "The push refers to repository ["+to.host()+"/app]\n" {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = b.push(to.host()+"/app:v1", ""); err != nil {
		t.Fatal(err, out)
	}
	if !strings.Contains(out, "The push refers to repository ["+to.host()+"/app]\n") || !strings.Contains(out, fmt.Sprintf("v1: digest: %s size: %d\n", want.Digest, want.Size)) || strings.Count(out, " Pushed\n") != 3 {
		t.Errorf("output:\n%s", out)
	}
	if k.cut != 0 || k.sent != total {
		t.Errorf("%d cuts left; sent %d bytes of %d", k.cut, k.sent, total)
	}
	out, err = b.push(to.host()+"/app", "") // all tags
	if err != nil || strings.Count(out, "Layer already exists") != 3 || k.sent != total || !strings.Contains(out, "v2: digest: "+want.Digest.String()) {
		t.Errorf("%v, sent %d of %d\n%s", err, k.sent, total, out)
	}
	// The fake knows a blob in every repository, so let it deny that once.
	plain := to.before
	to.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/copy/blobs/") {
			w.WriteHeader(404)
			return true
		}
		return plain(w, r)
	}
	out, err = b.push(to.host()+"/copy:v1", "")
	if err != nil || strings.Count(out, "Mounted from app") != 3 || k.sent != total {
		t.Errorf("%v, sent %d of %d\n%s", err, k.sent, total, out)
	}
	img := b.verify(to.host() + "/app:v1")
	if !strings.Contains(strings.Join(img.RepoDigests, " "), to.host()+"/app@"+want.Digest.String()) {
		t.Error(img.RepoDigests)
	}
}

// TestPushIndex: an index of which only one platform is here is not pushed as
// if it were whole.
func TestPushIndex(t *testing.T) {
	from, to, b := newFake(t), newFake(t), newBench(t, Config{})
	amd, arm := from.image("app", "", picture{layers: []int{100}}), from.image("app", "", picture{layers: []int{100}, arch: "arm64"})
	amd.Platform, arm.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}, &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{arm, amd}}
	idx.SchemaVersion = 2
	top := from.put("app", "v1", idx, idx.MediaType)
	if _, err := b.pull(from.host() + "/app:v1"); err != nil {
		t.Fatal(err)
	}
	to.before = (&taker{f: to, uploads: map[string]*bytes.Buffer{}}).serve
	if err := b.store.Tag(context.Background(), from.host()+"/app:v1", to.host()+"/app:v1"); err != nil {
		t.Fatal(err)
	}
	out, err := b.push(to.host()+"/app:v1", "")
	if err != nil || !strings.Contains(out, "v1: digest: "+amd.Digest.String()) {
		t.Fatal(err, out)
	}
	if _, err := b.pullAs(from.host()+"/app:v1", "linux/arm64", ""); err != nil {
		t.Fatal(err)
	}
	out, err = b.push(to.host()+"/app:v1", "")
	if err != nil || !strings.Contains(out, "v1: digest: "+top.Digest.String()) {
		t.Fatal(err, out)
	}
}

// TestPushElsewhere: an upload's Location may be another server; it gets the
// blob and nothing secret.
func TestPushElsewhere(t *testing.T) {
	from, to, b := newFake(t), newFake(t), newBench(t, Config{})
	from.image("app", "v1", picture{layers: []int{100}})
	if _, err := b.pull(from.host() + "/app:v1"); err != nil {
		t.Fatal(err)
	}
	k := &taker{f: to, uploads: map[string]*bytes.Buffer{}}
	k.elsewhere = spy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { k.serve(w, r) })).URL
	guarded(to, k.serve)
	if err := b.store.Tag(context.Background(), from.host()+"/app:v1", to.host()+"/app:v1"); err != nil {
		t.Fatal(err)
	}
	if out, err := b.push(to.host()+"/app:v1", authHeader("me", secret)); err != nil {
		t.Fatal(err, out)
	}
}
