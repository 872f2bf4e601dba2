package transfer

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/test/harness"
)

var made = time.Unix(1e9, 0)

func TestPull(t *testing.T) {
	f, b := newFake(t), newBench(t, Config{})
	d := f.image("team/app", "v1", picture{layers: []int{100, 200, 300, 400}})
	ref := f.host() + "/team/app:v1"
	out, err := b.pull(ref)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"v1 Pulling from team/app\n", " Pulling fs layer\n", " Verifying Checksum\n", " Download complete\n", " Pull complete\n",
		"Digest: " + d.Digest.String() + "\nStatus: Downloaded newer image for " + ref + "\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	img := b.verify(ref)
	if len(img.RepoTags) != 1 || len(img.RepoDigests) != 1 || img.RepoDigests[0] != f.host()+"/team/app@"+d.Digest.String() {
		t.Errorf("tags %v digests %v", img.RepoTags, img.RepoDigests)
	}
	if out, err = b.pull(ref); err != nil || !strings.Contains(out, "Status: Image is up to date for "+ref) {
		t.Errorf("second pull: %v\n%s", err, out)
	}
	if n := len(f.requests("/blobs/")); n != 5 {
		t.Errorf("%d requests for blobs, want 5", n)
	}
	if out, err = b.pull(f.host() + "/team/app@" + d.Digest.String()); err != nil {
		t.Errorf("by digest: %v\n%s", err, out)
	}
}

func TestPullIndex(t *testing.T) {
	f, b := newFake(t), newBench(t, Config{})
	amd := f.image("app", "", picture{layers: []int{100, 10}})
	arm := f.image("app", "", picture{layers: []int{100}, arch: "arm64"})
	amd.Platform, arm.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}, &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	said := f.image("app", "", picture{layers: []int{30}, manifest: func(m *ocispec.Manifest) { m.Layers[0].MediaType = "application/vnd.in-toto+json" }})
	said.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	said.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": amd.Digest.String()}
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{arm, amd, said}}
	idx.SchemaVersion = 2
	top := f.put("app", "latest", idx, idx.MediaType)
	ref := f.host() + "/app"
	if _, err := b.pull(ref + ":latest"); err != nil {
		t.Fatal(err)
	}
	img := b.verify(ref)
	if img.Config.Architecture != "amd64" || img.Target.Digest != top.Digest {
		t.Errorf("%s, target %s", img.Config.Architecture, img.Target.Digest)
	}
	if _, err := b.store.Content().Size(context.Background(), said.Digest); err != nil {
		t.Error("the attestation was not kept:", err)
	}
	if _, err := b.pullAs(ref+":latest", "linux/arm64", ""); err != nil {
		t.Fatal(err)
	}
	if img := b.verify(ref); img.Config.Architecture != "arm64" {
		t.Error("platform:", img.Config.Architecture)
	}
	_, err := b.pullAs(ref+":latest", "linux/s390x", "")
	if err == nil || !strings.Contains(err.Error(), "no matching manifest for linux/s390x in the manifest list entries") {
		t.Error(err)
	}
}

// TestRefused is one hostile or broken registry a row. None of them may leave
// anything behind.
func TestRefused(t *testing.T) {
	broken := func(change func(*ocispec.Manifest)) func(*fake) {
		return func(f *fake) { f.image("x", "latest", picture{layers: []int{50_000, 60_000}, manifest: change}) }
	}
	for name, c := range map[string]struct {
		set  func(*fake)
		want string
		kind func(error) bool
	}{
		"no such tag":  {func(*fake) {}, "manifest for HOST/x:latest not found: manifest unknown: manifest unknown", errdefs.IsNotFound},
		"no such name": {answering(404, "NAME_UNKNOWN"), "repository HOST/x not found: name unknown: because", errdefs.IsNotFound},
		"html":         {answering(400, ""), "received unexpected HTTP status: 400 Bad Request", errdefs.IsInvalidArgument},
		"schema 1": {func(f *fake) {
			f.put("x", "latest", []byte(`{"schemaVersion":1,"name":"x","fsLayers":[]}`), "application/vnd.docker.distribution.manifest.v1+prettyjws")
		}, "HOST/x:latest: manifest .* schema version 1 is no longer supported", errdefs.IsInvalidArgument},
		"wrong config": {func(f *fake) {
			f.image("x", "latest", picture{layers: []int{50_000}})
			for d, body := range f.blobs {
				if len(body) < 10_000 {
					f.blobs[d] = append([]byte(" "), body...)
				}
			}
		}, "content does not match its digest", errdefs.IsInvalidArgument},
		"too long":         {broken(func(m *ocispec.Manifest) { m.Layers[0].Size -= 10 }), "is longer than the", errdefs.IsInvalidArgument},
		"too short":        {broken(func(m *ocispec.Manifest) { m.Layers[0].Size += 10 }), "", func(error) bool { return true }},
		"layers and diffs": {broken(func(m *ocispec.Manifest) { m.Layers = m.Layers[:1] }), "layers length mismatch: expected 1, got 2", errdefs.IsInvalidArgument},
		"swapped layers":   {broken(func(m *ocispec.Manifest) { m.Layers[0], m.Layers[1] = m.Layers[1], m.Layers[0] }), "invalid diffID for layer", errdefs.IsInvalidArgument},
		"artifact": {broken(func(m *ocispec.Manifest) { m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" }),
			`Encountered remote "application/vnd.cncf.helm.config.v1+json"(unknown) when fetching`, errdefs.IsInvalidArgument},
		"foreign layer": {broken(func(m *ocispec.Manifest) {
			m.Layers[1] = ocispec.Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Digest: digest.FromString("elsewhere"), Size: 9, URLs: []string{"http://169.254.169.254/secret"}}
		}), "lies outside of the registry (http://169.254.169.254/secret), where it is not fetched from", errdefs.IsInvalidArgument},
		"sha512": {broken(func(m *ocispec.Manifest) { m.Layers[1].Digest = digest.SHA512.FromString("x") }), "unsupported digest algorithm sha512", errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			f, b := newFake(t), newBench(t, Config{MaxAttempts: 1})
			c.set(f)
			_, err := b.pull(f.host() + "/x:latest")
			if err == nil {
				t.Fatal("no error")
			}
			text := strings.ReplaceAll(err.Error(), f.host(), "HOST")
			for _, part := range strings.Split(c.want, ".*") {
				if !strings.Contains(text, part) {
					t.Errorf("got %q, want %q", text, c.want)
				}
			}
			if !strings.Contains(text, "HOST/x") {
				t.Errorf("%q does not name the image", text)
			}
			if !c.kind(err) {
				t.Errorf("kind of %v (%T)", err, err)
			}
			b.nothing(f.host() + "/x")
		})
	}
}

// TestResume cuts the connection again and again, at random places; little more
// than the image may be fetched, also when the engine ends between two tries.
func TestResume(t *testing.T) {
	chance := harness.Chance(t)
	f, b := newFake(t), newBench(t, Config{MaxAttempts: 2})
	f.image("big", "latest", picture{layers: []int{3 << 20, 2 << 20, 1 << 20}})
	total := int64(0)
	for _, blob := range f.blobs {
		total += int64(len(blob))
	}
	ref := f.host() + "/big:latest"
	var cuts, fetched atomic.Int64
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		_, name, ok := strings.Cut(r.URL.Path, "/blobs/")
		if !ok || cuts.Load() >= 20 {
			if ok {
				fetched.Add(rest(f, name, r))
			}
			return false
		}
		f.mu.Lock()
		body := f.blobs[name]
		f.mu.Unlock()
		var from int
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		f.mu.Lock()
		n := min(len(body)-from, 1+chance.IntN(400_000))
		f.mu.Unlock()
		if n == len(body)-from {
			fetched.Add(int64(n))
			return false
		}
		cuts.Add(1)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)-from))
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
			w.WriteHeader(http.StatusPartialContent)
		}
		m, _ := w.Write(body[from : from+n])
		fetched.Add(int64(m))
		panic(http.ErrAbortHandler)
	}
	tries := 0
	for ; ; tries++ {
		if _, err := b.pull(ref); err == nil {
			break
		} else if tries > 30 {
			t.Fatal(err)
		}
		b.restart()
	}
	b.verify(ref)
	if got := fetched.Load(); cuts.Load() < 20 || float64(got) > 1.05*float64(total) {
		t.Errorf("%d cuts, %d tries: fetched %d bytes of %d", cuts.Load(), tries, got, total)
	}
	if left, err := b.store.Content().Leases().List(content.With(context.Background())); err != nil || len(left) > 0 {
		t.Errorf("leases stay: %v %v", left, err)
	}
}

func rest(f *fake, name string, r *http.Request) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var from int64
	fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
	return int64(len(f.blobs[name])) - from
}

// TestCancel leaves parts, and only for so long.
func TestCancel(t *testing.T) {
	f, b := newFake(t), newBench(t, Config{})
	f.image("big", "latest", picture{layers: []int{1 << 20}})
	ctx, cancel := context.WithCancel(context.Background())
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		_, name, ok := strings.Cut(r.URL.Path, "/blobs/")
		if !ok || len(f.blobs[name]) < 1<<20 {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(f.blobs[name])))
		w.Write(f.blobs[name][:1<<19])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	err := b.Pull(ctx, f.host()+"/big:latest", "", "", func(m jsonstream.Message) {
		if m.Progress != nil && m.Progress.Current > 0 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.before = nil
	f.mu.Unlock()
	if _, err := b.pull(f.host() + "/big:latest"); err != nil {
		t.Fatal(err)
	}
	last := f.requests("/blobs/")
	if r := last[len(last)-1].Header.Get("Range"); r == "" {
		t.Error("the second pull did not go on where the first was")
	}
}

// TestOnce: many pulls of images that share layers fetch each layer once.
func TestOnce(t *testing.T) {
	f, b := newFake(t), newBench(t, Config{MaxDownloads: 2})
	f.image("one", "latest", picture{layers: []int{300_000, 200_000, 100_000}})
	f.mu.Lock()
	for k, v := range f.manifests {
		if tag, ok := strings.CutPrefix(k, "one/"); ok {
			f.manifests["two/"+tag], f.types["two/"+tag] = v, f.types[k]
		}
	}
	f.mu.Unlock()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if _, err := b.pull(f.host() + []string{"/one", "/two"}[i%2] + ":latest"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[string]int{}
	for _, r := range f.requests("/blobs/") {
		_, name, _ := strings.Cut(r.URL.Path, "/blobs/")
		if len(f.blobs[name]) > 10_000 {
			seen[name]++
		}
	}
	for name, n := range seen {
		if n != 1 {
			t.Errorf("%s fetched %d times", name, n)
		}
	}
	b.verify(f.host() + "/one")
	b.verify(f.host() + "/two")
}

// TestMirrors: a mirror that is down, refuses, or lies is passed over and
// named; credentials of the registry go to none of them.
func TestMirrors(t *testing.T) {
	origin, liar, denier, good := newFake(t), newFake(t), newFake(t), newFake(t)
	b := newBench(t, Config{MaxAttempts: 2})
	p := picture{layers: []int{100_000, 50_000}}
	origin.image("app", "v1", p)
	want := good.image("app", "v1", p)
	for k, v := range good.manifests {
		good.manifests["mirrored/"+k], good.types["mirrored/"+k] = v, good.types[k]
	}
	liar.image("app", "v1", p)
	for d, body := range liar.blobs {
		if len(body) > 10_000 {
			liar.blobs[d] = append([]byte("x"), body[1:]...)
		}
	}
	denier.before = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("WWW-Authenticate", `Basic realm="give me"`)
		sayError(w, 401, "UNAUTHORIZED", "no")
		return true
	}
	b.config.Mirrors = map[string][]Mirror{
		"*": {{URL: denier.URL}, {URL: "http://127.0.0.1:1"}, {URL: liar.URL}, {URL: good.URL + "/", Rewrite: []Rewrite{{regexp.MustCompile("^app$"), "mirrored/$0"}}}},
	}
	good.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/v2/mirrored/app/") {
			t.Errorf("asked for %s", r.URL.Path)
		}
		return false
	}
	if err := b.Configure(b.config); err != nil {
		t.Fatal(err)
	}
	auth := base64.URLEncoding.EncodeToString([]byte(`{"username":"me","password":"secret"}`))
	ref := origin.host() + "/app:v1"
	if out, err := b.pullAs(ref, "", auth); err != nil {
		t.Fatal(err, out)
	}
	if img := b.verify(ref); img.Target.Digest != want.Digest {
		t.Error(img.Target.Digest)
	}
	if n := len(origin.requests("/")); n > 0 {
		t.Errorf("the registry itself was asked %d times", n)
	}
	for _, f := range []*fake{liar, denier, good} {
		for _, r := range f.requests("/") {
			if r.Header.Get("Authorization") != "" {
				t.Errorf("credentials went to a mirror: %s", r.URL)
			}
		}
	}
	skipped := map[string]bool{}
	for _, e := range b.events {
		if e.Action == "mirror_skipped" {
			skipped[e.Actor.Attributes["mirror"]] = e.Actor.Attributes["reason"] != ""
		}
	}
	for _, m := range []string{denier.URL, "http://127.0.0.1:1", liar.URL} {
		if !skipped[m] {
			t.Errorf("%s was not named in an event: %v", m, skipped)
		}
	}
}

// TestRetryAfter: a busy registry that says when is waited for.
func TestRetryAfter(t *testing.T) {
	f, b := newFake(t), newBench(t, Config{})
	f.image("x", "latest", picture{layers: []int{100}})
	var n atomic.Int64
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") && n.Add(1) <= 2 {
			w.Header().Set("Retry-After", "0")
			sayError(w, []int{429, 503}[n.Load()%2], "TOOMANYREQUESTS", "slow down")
			return true
		}
		return false
	}
	if _, err := b.pull(f.host() + "/x:latest"); err != nil {
		t.Fatal(err)
	}
}
