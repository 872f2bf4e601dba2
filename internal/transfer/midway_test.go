package transfer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// onBlob lets a fake answer for one blob of x:latest otherwise, and counts how
// often it was asked for.
func onBlob(f *fake, digest string, then func(n int64, w http.ResponseWriter, r *http.Request) bool) *atomic.Int64 {
	var n atomic.Int64
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/blobs/"+digest) {
			return false
		}
		return then(n.Add(1), w, r)
	}
	return &n
}

// blobsOf returns the digests of an image's config and of one of its layers.
func (f *fake) blobsOf(t *testing.T, ref string) map[string]string {
	t.Helper()
	var m ocispec.Manifest
	if err := json.Unmarshal(f.manifests[ref], &m); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"config": m.Config.Digest.String(), "layer": m.Layers[1].Digest.String()}
}

// TestMidway: a registry that gives a good manifest and then refuses a layer or
// the config, or breaks off. The error names the image and the cause, and
// nothing is left that looks like an image.
func TestMidway(t *testing.T) {
	refuse := func(status int, code string, header ...string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			if code == "" {
				w.WriteHeader(status)
			} else {
				sayError(w, status, code, "because")
			}
		}
	}
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter)
		want   string // DIGEST is the blob's
		is     func(error) bool
		times  int64 // how often the blob is asked for
	}{
		"401":                   {refuse(401, "UNAUTHORIZED"), "X: unauthorized: because", errdefs.IsInternal, 1},
		"403":                   {refuse(403, "DENIED"), "pull access denied for HOST/x, repository does not exist or may require 'docker login': denied: because", errdefs.IsNotFound, 1},
		"404":                   {refuse(404, "BLOB_UNKNOWN"), "X: blob unknown: because", errdefs.IsNotFound, 1},
		"404 without a word":    {refuse(404, ""), "X: blob DIGEST: received unexpected HTTP status: 404 Not Found", errdefs.IsNotFound, 1},
		"429 for an hour":       {refuse(429, "TOOMANYREQUESTS", "Retry-After", "3600"), "X: toomanyrequests: because (try again after 3600 s)", errdefs.IsResourceExhausted, 1},
		"429 for no time":       {refuse(429, "TOOMANYREQUESTS", "Retry-After", "0"), "X: toomanyrequests: because (try again after 0 s)", errdefs.IsResourceExhausted, 4},
		"500":                   {refuse(500, ""), "X: blob DIGEST: received unexpected HTTP status: 500 Internal Server Error", errdefs.IsInternal, 0},
		"503 for an hour":       {refuse(503, "", "Retry-After", "3600"), "X: blob DIGEST: received unexpected HTTP status: 503 Service Unavailable", errdefs.IsInternal, 1},
		"cut before the answer": {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, `X: Get "http://HOST/v2/": EOF`, errdefs.IsInternal, 0},
		"cut before it says any": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, "X: blob DIGEST from HOST: unexpected EOF", errdefs.IsInternal, 2},
	} {
		for _, which := range []string{"config", "layer"} {
			t.Run(name+"/"+which, func(t *testing.T) {
				t.Parallel()
				f, b := newFake(t), newBench(t, Config{MaxAttempts: 2})
				f.image("x", "latest", picture{layers: []int{5000, 60_000, 7000}})
				digest := f.blobsOf(t, "x/latest")[which]
				n := onBlob(f, digest, func(_ int64, w http.ResponseWriter, _ *http.Request) bool {
					c.answer(w)
					return true
				})
				ref := f.host() + "/x:latest"
				_, err := b.pull(ref)
				if err == nil {
					t.Fatal("no error")
				}
				text := strings.NewReplacer(ref, "X", f.host(), "HOST", digest, "DIGEST").Replace(err.Error())
				if !strings.HasPrefix(text, c.want) {
					t.Errorf("got  %s\nwant %s", text, c.want)
				}
				if !c.is(err) {
					t.Errorf("kind of %v (%T)", err, err)
				}
				if c.times > 0 && n.Load() != c.times {
					t.Errorf("it was asked for %d times, want %d", n.Load(), c.times)
				}
				if img, err := b.store.Resolve(t.Context(), ref); err == nil {
					t.Errorf("there is an image: %v", img.ID)
				}
				b.nothing(ref)
			})
		}
	}
}

// TestWaitsAsTold: a registry that is busy in the middle of a pull says when to
// come again, in seconds or as a date; it is not asked before, and then gives
// the rest.
func TestWaitsAsTold(t *testing.T) {
	for _, which := range []string{"config", "layer"} {
		for _, status := range []int{429, 503} {
			t.Run(fmt.Sprint(which, status), func(t *testing.T) {
				t.Parallel()
				f, b := newFake(t), newBench(t, Config{})
				f.image("x", "latest", picture{layers: []int{5000, 60_000, 7000}})
				var again []time.Time // not before which it may come
				n := onBlob(f, f.blobsOf(t, "x/latest")[which], func(n int64, w http.ResponseWriter, _ *http.Request) bool {
					now := time.Now()
					if n > 1 && now.Before(again[n-2]) {
						t.Errorf("request %d came %v too early", n, again[n-2].Sub(now))
					}
					switch n {
					case 1:
						again = append(again, now.Add(time.Second))
						w.Header().Set("Retry-After", "1")
					case 2:
						at := now.Add(2 * time.Second).Truncate(time.Second)
						again = append(again, at)
						w.Header().Set("Retry-After", at.UTC().Format(http.TimeFormat))
					default:
						return false
					}
					sayError(w, status, "TOOMANYREQUESTS", "slow down")
					return true
				})
				ref := f.host() + "/x:latest"
				if _, err := b.pull(ref); err != nil {
					t.Fatal(err)
				}
				if n.Load() != 3 {
					t.Errorf("asked for %d times", n.Load())
				}
				b.verify(ref)
			})
		}
	}
}

// TestHealed: a config and a manifest that are cut are asked for again, as layers are.
func TestHealed(t *testing.T) {
	f, b := newFake(t), newBench(t, Config{})
	f.image("x", "latest", picture{layers: []int{5000, 60_000}})
	var cuts []string
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		kind := r.URL.Path
		if strings.Contains(kind, "/blobs/") && !strings.HasSuffix(kind, f.blobsOf(t, "x/latest")["config"]) || !strings.Contains(kind, "/x/") || slices.Contains(cuts, kind) {
			return false
		}
		cuts = append(cuts, kind)
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, `{"schemaVersion":`)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	ref := f.host() + "/x:latest"
	if _, err := b.pull(ref); err != nil {
		t.Fatal(err)
	}
	if len(cuts) != 2 {
		t.Errorf("cut: %v", cuts)
	}
	b.verify(ref)
}

// TestOthersFailure: who waits for a blob that another pull fetches is not told
// of that one's refusal, but asks with its own credentials.
func TestOthersFailure(t *testing.T) {
	f, b := newFake(t), newBench(t, Config{MaxAttempts: 1})
	f.image("x", "latest", picture{layers: []int{5000, 60_000}})
	layer := f.blobsOf(t, "x/latest")["layer"]
	refused, joined := make(chan struct{}), make(chan struct{})
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		user, _, _ := r.BasicAuth()
		if user == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			sayError(w, 401, "UNAUTHORIZED", "who?")
			return true
		}
		if strings.HasSuffix(r.URL.Path, layer) && user == "stranger" {
			close(refused)
			<-joined
			sayError(w, 403, "DENIED", "not for you")
			return true
		}
		return false
	}
	ref := f.host() + "/x:latest"
	stranger := make(chan error)
	go func() {
		_, err := b.pullAs(ref, "", authHeader("stranger", "x"))
		stranger <- err
	}()
	<-refused
	friend := make(chan error)
	go func() {
		_, err := b.pullAs(ref, "", authHeader("friend", "x"))
		friend <- err
	}()
	b.shared()
	close(joined)
	if err := <-stranger; err == nil || !strings.Contains(err.Error(), "denied: not for you") {
		t.Error("the stranger:", err)
	}
	if err := <-friend; err != nil {
		t.Error("the friend:", err)
	}
	b.verify(ref)
}

// shared returns when two pulls wait for one blob.
func (b *bench) shared() {
	for waits := false; !waits; time.Sleep(time.Millisecond) { // nothing tells that it waits
		b.Client.mu.Lock()
		for _, fl := range b.flights {
			fl.mu.Lock()
			waits = waits || fl.wanted > 1
			fl.mu.Unlock()
		}
		b.Client.mu.Unlock()
	}
}

// TestOthersSize: a manifest that says a wrong size of a blob does not fail the
// pull of one that says the right one.
func TestOthersSize(t *testing.T) {
	f, b := newFake(t), newBench(t, Config{MaxAttempts: 1})
	f.image("x", "latest", picture{layers: []int{5000, 60_000}})
	layer := f.blobsOf(t, "x/latest")["layer"]
	f.image("x", "wrong", picture{layers: []int{5000, 60_000}, manifest: func(m *ocispec.Manifest) { m.Layers[1].Size -= 10 }})
	asked, joined := make(chan struct{}), make(chan struct{})
	onBlob(f, layer, func(n int64, _ http.ResponseWriter, _ *http.Request) bool {
		if n == 1 {
			close(asked)
			<-joined
		}
		return false
	})
	wrong, right := make(chan error), make(chan error)
	go func() {
		_, err := b.pull(f.host() + "/x:wrong")
		wrong <- err
	}()
	<-asked
	go func() {
		_, err := b.pull(f.host() + "/x:latest")
		right <- err
	}()
	b.shared()
	close(joined)
	if err := <-wrong; err == nil || !strings.Contains(err.Error(), "bytes that its manifest says") {
		t.Error("with the wrong size:", err)
	}
	if err := <-right; err != nil {
		t.Error("with the right one:", err)
	}
	b.verify(f.host() + "/x:latest")
}
