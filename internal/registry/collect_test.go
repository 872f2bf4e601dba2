package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// blobsOn counts the blobs in a directory of images.
func blobsOn(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "docker/registry/v2/blobs"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "data" {
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (s *server) sweep(grace time.Duration) int {
	s.t.Helper()
	n, err := s.front.ledger.Sweep(s.t.Context(), grace)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *server) load() {
	s.t.Helper()
	if err := s.front.ledger.Load(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// TestCollect follows blobs through pushes, deletions and a restart.
func TestCollect(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, Options{Delete: true, Data: dir})
	s.blob("x", []byte("before anything is known"))
	if n := s.sweep(0); n != 0 {
		t.Errorf("%d blobs were removed before the storage was read", n)
	}
	s.load()
	one, two := s.image("x", "one", "shared"), s.image("y", "two", "own")
	lost := s.blob("x", []byte("no manifest ever"))
	s.want(s.do("POST", "/v2/y/blobs/uploads/?mount="+digest.FromString("shared").String()+"&from=x", nil), 201)
	if n := s.sweep(time.Hour); n != 0 {
		t.Errorf("%d blobs were removed within their time of grace", n)
	}
	if n := s.sweep(0); n != 2 {
		t.Errorf("%d blobs removed, want the 2 without a manifest", n)
	}
	s.want(s.do("HEAD", "/v2/x/blobs/"+lost.Digest.String(), nil), 404)
	// Gone is gone: an image cannot be made of it, a push must bring it again.
	s.blob("z", []byte("no manifest ever"))
	s.want(s.do("HEAD", "/v2/x/blobs/"+lost.Digest.String(), nil), 404)
	for _, m := range []struct{ name, tag, content string }{{"x", "one", "shared"}, {"y", "two", "own"}} {
		s.want(s.do("GET", "/v2/"+m.name+"/manifests/"+m.tag, nil), 200)
		s.want(s.do("GET", "/v2/"+m.name+"/blobs/"+digest.FromString(m.content).String(), nil), 200)
	}
	s.want(s.do("DELETE", "/v2/y/manifests/"+two.Digest.String(), nil), 202)
	// A request under way keeps what it is about.
	release := s.front.ledger.Hold(digest.FromString("own"))
	if n := s.sweep(0); n != 3 { // manifest, config, and the lost one of z
		t.Errorf("%d blobs removed beside the one that is held", n)
	}
	release(true)
	if n := s.sweep(0); n != 1 {
		t.Errorf("%d blobs removed after the release", n)
	}
	s.want(s.do("GET", "/v2/x/blobs/"+digest.FromString("shared").String(), nil), 200)

	// Another process knows as much.
	c, err := settings(Options{Data: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claim(c, true); err == nil || !strings.Contains(err.Error(), "in use by another wherry-registry") {
		t.Errorf("a second collector: %v", err)
	}
	s.close()
	next := serve(t, Options{Delete: true, Data: dir})
	next.load()
	if n := next.sweep(0); n != 0 {
		t.Errorf("%d blobs of an image removed after a restart", n)
	}
	next.want(next.do("DELETE", "/v2/x/manifests/"+one.Digest.String(), nil), 202)
	next.sweep(0)
	if n := blobsOn(t, dir); n != 0 {
		t.Errorf("%d blobs left without any image", n)
	}
}

// TestCollectNonsense: what strangers send while the storage is read does not
// keep blobs from being collected.
func TestCollectNonsense(t *testing.T) {
	s := serve(t, Options{Data: t.TempDir()})
	lost := s.blob("x", []byte("no manifest ever"))
	for _, d := range []string{"nonsense", "sha256:../../../../x", "sha256:" + strings.Repeat("0", 64)} {
		body := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","layers":[{"digest":"` + d + `"}]}`
		s.want(s.do("PUT", "/v2/x/manifests/a", []byte(body), "Content-Type", ocispec.MediaTypeImageManifest), 400)
	}
	s.load()
	s.sweep(0)
	s.want(s.do("HEAD", "/v2/x/blobs/"+lost.Digest.String(), nil), 404)
}

// TestStrangersKeepNothing: who is not told of a blob does not keep it, however
// often they ask.
func TestStrangersKeepNothing(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users")
	const password = "open-sesame-4711"
	if err := os.WriteFile(users, []byte("me:$2a$04$2UQ.Qt.gq/YUwjh2itYvoOtobxovDmm6Z543qu6VNtMt3H3rHojaO\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, Options{Delete: true, Data: t.TempDir(), HTPasswd: users})
	s.load()
	me := []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("me:"+password))}
	lost := []byte("no manifest ever")
	up := s.location(s.want(s.do("POST", "/v2/x/blobs/uploads/", nil, me...), 202))
	s.want(s.do("PUT", withDigest(up, digest.FromBytes(lost)), lost, me...), 201)
	at, since := "/v2/x/blobs/"+digest.FromBytes(lost).String(), time.Now()
	for _, ask := range []struct {
		method, at string
		headers    []string
		status     int
	}{
		{"HEAD", at, nil, 401},
		{"GET", at, nil, 401},
		{"DELETE", at, nil, 401},
		{"GET", "/v2/other/blobs/" + digest.FromBytes(lost).String(), me, 404},
		{"POST", "/v2/x/blobs/uploads/?digest=" + digest.FromBytes(lost).String(), nil, 401},
		{"POST", "/v2/y/blobs/uploads/?from=x&mount=" + digest.FromBytes(lost).String(), nil, 401},
	} {
		s.want(s.do(ask.method, ask.at, nil, ask.headers...), ask.status)
	}
	if n := s.sweep(time.Since(since)); n != 1 {
		t.Errorf("%d blobs removed, want the one that only strangers asked for", n)
	}
	s.want(s.do("HEAD", at, nil, me...), 404)
}

// TestCollectRedis: with a memory outside of the storage nothing is removed
// unless that is asked for, which is refused.
func TestCollectRedis(t *testing.T) {
	var log bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(old) })
	const text = "version: 0.1\nstorage:\n  filesystem: {rootdirectory: DIR}\n  cache: {CACHE: redis}\nredis: {addrs: ['127.0.0.1:1']}\n"
	for _, c := range []struct{ cache, gc, refused, said string }{
		{"blobdescriptor", "", "", "blobs that no image needs are not removed: storage.cache redis would remember them"},
		{"layerinfo", "", "", "blobs that no image needs are not removed"},
		{"blobdescriptor", "off", "", ""},
		{"blobdescriptor", "on", "--gc on: storage.cache redis would remember blobs that were removed", ""},
		{"layerinfo", "on", "--gc on: storage.cache redis", ""},
	} {
		file := filepath.Join(t.TempDir(), "config.yml")
		if err := os.WriteFile(file, []byte(strings.NewReplacer("DIR", t.TempDir(), "CACHE", c.cache).Replace(text)), 0o600); err != nil {
			t.Fatal(err)
		}
		o := Options{File: file, GC: c.gc}
		conf, err := settings(o)
		if c.refused != "" {
			if err == nil || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%s, --gc %s: %v", c.cache, c.gc, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		log.Reset()
		f, app, release, err := open(t.Context(), o, conf)
		if err != nil {
			t.Fatal(err)
		}
		if f.ledger != nil || !strings.Contains(log.String(), c.said) || c.said == "" && log.Len() > 0 {
			t.Errorf("%s, --gc %q: collects %v, logged %q", c.cache, c.gc, f.ledger != nil, log.String())
		}
		app.Shutdown()
		release()
	}
}

// TestCollectPushing pushes and deletes images that share layers, while blobs
// are removed as soon as they may be: no image that was taken lacks anything.
func TestCollectPushing(t *testing.T) {
	s := serve(t, Options{Delete: true})
	s.load()
	ctx, stop := context.WithCancel(t.Context())
	var removed atomic.Int64
	var sweeper, pushers sync.WaitGroup
	sweeper.Go(func() {
		for ctx.Err() == nil {
			n, err := s.front.ledger.Sweep(ctx, 40*time.Millisecond)
			removed.Add(int64(n))
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond) // the next moment of grace
		}
	})
	var taken, refused atomic.Int64
	for worker := range 4 {
		pushers.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(worker)))
			for i := range 60 {
				name := fmt.Sprintf("repo%d", r.IntN(2))
				m := ocispec.Manifest{Versioned: versioned, MediaType: ocispec.MediaTypeImageManifest, Annotations: map[string]string{"push": fmt.Sprint(worker, i)}}
				push := func(content string) ocispec.Descriptor {
					d := digest.FromString(content)
					if s.do("HEAD", "/v2/"+name+"/blobs/"+d.String(), nil).StatusCode == 200 {
						return ocispec.Descriptor{MediaType: octets, Digest: d, Size: int64(len(content))}
					}
					return s.blob(name, []byte(content))
				}
				m.Config = push(fmt.Sprintf(`{"n":%d}`, r.IntN(3)))
				m.Layers = []ocispec.Descriptor{push(fmt.Sprint("layer", r.IntN(4))), push(fmt.Sprint("layer", r.IntN(4)))}
				b, err := json.Marshal(m)
				if err != nil {
					t.Error(err)
					return
				}
				d := digest.FromBytes(b)
				at := "/v2/" + name + "/manifests/" + d.String()
				if resp := s.do("PUT", at, b, "Content-Type", m.MediaType); resp.StatusCode != http.StatusCreated {
					if !strings.Contains(string(resp.body), "MANIFEST_BLOB_UNKNOWN") {
						t.Errorf("push: %s %s", resp.Status, resp.body)
					}
					refused.Add(1)
					continue
				}
				taken.Add(1)
				for _, l := range append(m.Layers, m.Config) {
					if resp := s.do("GET", "/v2/"+name+"/blobs/"+l.Digest.String(), nil); resp.StatusCode != 200 || digest.FromBytes(resp.body) != l.Digest {
						t.Errorf("image %s was taken, but its blob is: %s", d, resp.Status)
					}
				}
				s.want(s.do("DELETE", at, nil), 202)
			}
		})
	}
	pushers.Wait()
	stop()
	sweeper.Wait()
	if taken.Load() == 0 || removed.Load() == 0 {
		t.Errorf("%d images taken, %d refused, %d blobs removed: nothing was tried", taken.Load(), refused.Load(), removed.Load())
	}
	t.Logf("%d images taken, %d refused, %d blobs removed", taken.Load(), refused.Load(), removed.Load())
}
