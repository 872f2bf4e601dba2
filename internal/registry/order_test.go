package registry

import (
	"bytes"
	"net/http"
	"net/http/httptest"
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
