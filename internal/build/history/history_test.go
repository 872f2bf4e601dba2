package history

import (
	"fmt"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestUsageMeanwhile: records that come and go while the history is counted keep
// nobody from the account.
func TestUsageMeanwhile(t *testing.T) {
	h, err := Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 5 {
			var all []digest.Digest
			for i := range 100 {
				d := digest.FromString(fmt.Sprint(i))
				w, err := h.blobs.Writer(t.Context(), content.WithRef(d.String()), content.WithDescriptor(ocispec.Descriptor{Digest: d}))
				if err != nil {
					t.Error(err)
					return
				}
				fmt.Fprint(w, i)
				if err := w.Commit(t.Context(), 0, d); err != nil {
					t.Error(err)
				}
				all = append(all, d)
			}
			for _, d := range all {
				if err := h.blobs.Delete(t.Context(), d); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	for {
		if _, err := h.Usage(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
