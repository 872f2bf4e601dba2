package registry

import (
	"bytes"
	"io"
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
			io.Copy(io.Discard, r.Body)
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
		io.Copy(io.Discard, r.Body)
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

// TestStrangersManifest: of what somebody sends who may not push nothing is read,
// and of more than a manifest may have nothing either.
func TestStrangersManifest(t *testing.T) {
	app := 0
	f := &front{app: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		app++
		w.WriteHeader(http.StatusUnauthorized)
	})}
	send := func(size int64) (code int, read int64) {
		body := &counted{Reader: io.LimitReader(zeros{}, size)}
		r := httptest.NewRequest(http.MethodPut, "/v2/x/manifests/latest", body)
		r.ContentLength = size
		w := httptest.NewRecorder()
		f.ServeHTTP(w, r)
		return w.Code, body.n
	}
	if code, n := send(maxManifest); code != http.StatusUnauthorized || n > 0 || app != 1 {
		t.Errorf("%d, %d bytes were read", code, n)
	}
	if code, n := send(maxManifest + 1); code != http.StatusRequestEntityTooLarge || n > 0 || app != 1 {
		t.Errorf("%d, %d bytes were read", code, n)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

type counted struct {
	io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}
