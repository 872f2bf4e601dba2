package registry

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/wherry-engine/wherry/internal/registry/sweep"
)

// TestDeletedAndPushed: a manifest that is pushed again while it is deleted keeps
// its blobs, whichever of the two is answered last.
func TestDeletedAndPushed(t *testing.T) {
	layer := digest.FromString("layer")
	body := []byte(`{"schemaVersion":2,"layers":[{"digest":"` + layer.String() + `"}]}`)
	at := "/v2/x/manifests/" + digest.FromBytes(body).String()
	ledger := sweep.New(nil, nil)
	f := &front{ledger: ledger}
	stored, pushed, done := false, make(chan struct{}), make(chan struct{})
	f.app = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			stored = true
			close(pushed)
			w.WriteHeader(http.StatusCreated)
			return
		}
		stored = false
		go func() {
			defer close(done)
			f.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPut, at, bytes.NewReader(body)))
		}()
		select {
		case <-pushed:
			<-done // it has been noted before the deletion is
		case <-time.After(200 * time.Millisecond): // it waits: nothing tells that
		}
		w.WriteHeader(http.StatusAccepted)
	})
	f.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodDelete, at, nil))
	<-done
	if kept := ledger.Keeps(layer); !stored || !kept {
		t.Errorf("the manifest is stored: %v, its layer is kept: %v", stored, kept)
	}
}

// TestDeletionIsNotWaitedFor: other manifests are pushed and deleted while one is
// deleted, which takes long where a repository has many tags.
func TestDeletionIsNotWaitedFor(t *testing.T) {
	body := []byte(`{"schemaVersion":2}`)
	one, other := digest.FromString("one"), digest.FromString("other")
	f := &front{ledger: sweep.New(nil, nil)}
	begun, end, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	f.app = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, one.String()) {
			close(begun)
			<-end
		}
		w.WriteHeader(http.StatusAccepted)
	})
	go func() {
		defer close(done)
		f.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodDelete, "/v2/x/manifests/"+one.String(), nil))
	}()
	<-begun
	f.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPut, "/v2/x/manifests/latest", bytes.NewReader(body)))
	f.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodDelete, "/v2/x/manifests/"+other.String(), nil))
	close(end)
	<-done
}
