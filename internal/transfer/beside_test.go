package transfer

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/jsonstream"
)

// TestPushedAtOnce: of two pushes of one layer to one registry one waits for the
// other, compresses and sends nothing, and says so: it finds the layer in its
// repository, or takes it from the other's.
func TestPushedAtOnce(t *testing.T) {
	for second, says := range map[string]string{"app:v2": "Layer already exists", "copy:v1": "Mounted from app"} {
		t.Run(second, func(t *testing.T) {
			to, b := newFake(t), newBench(t, Config{})
			b.built(to.host()+"/app:v1", "", "", 3000)
			if err := b.store.Tag(t.Context(), to.host()+"/app:v1", to.host()+"/"+second); err != nil {
				t.Fatal(err)
			}
			k := &taker{f: to, uploads: map[string]*bytes.Buffer{}, mounts: true}
			sends, waits := make(chan struct{}), make(chan struct{})
			var first, told sync.Once
			to.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/copy/blobs/") {
					w.WriteHeader(http.StatusNotFound) // the fake knows a blob in every repository
					return true
				}
				if r.Method == http.MethodPatch || r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/") {
					first.Do(func() {
						close(sends)
						<-waits
					})
				}
				return k.serve(w, r)
			}
			var mu sync.Mutex
			said := map[string]int{} // by both
			push := func(name string, hear func()) error {
				return b.Push(t.Context(), to.host()+"/"+name, "", "", func(m jsonstream.Message) {
					mu.Lock()
					defer mu.Unlock()
					said[m.Status]++
					if m.ID != "" && m.Status != "Preparing" {
						hear()
					}
				})
			}
			done := make(chan error)
			go func() { done <- push("app:v1", func() {}) }()
			<-sends
			if err := push(second, func() { told.Do(func() { close(waits) }) }); err != nil {
				t.Error(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			if said["Pushed"] != 1 || said[says] != 1 {
				t.Errorf("%v", said)
			}
			if n := len(k.uploads); n != 2 { // the layer and the config
				t.Errorf("%d uploads", n)
			}
		})
	}
}

// TestStalledClient: a pull whose client reads nothing keeps no other pull of the
// same layers waiting.
func TestStalledClient(t *testing.T) {
	f, b := newFake(t), newBench(t, Config{})
	f.image("x", "latest", picture{layers: []int{3 << 20, 100}})
	began, read := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		once := sync.OnceFunc(func() { close(began) })
		first <- b.Pull(t.Context(), f.host()+"/x:latest", "", "", func(m jsonstream.Message) {
			if m.Status == "Downloading" {
				once()
				<-read
			}
		})
	}()
	<-began
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := b.Pull(ctx, f.host()+"/x:latest", "", "", func(jsonstream.Message) {}); err != nil {
		t.Error(err)
	}
	close(read)
	if err := <-first; err != nil {
		t.Error(err)
	}
	b.verify(f.host() + "/x")
}
