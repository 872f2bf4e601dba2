package content

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/testsuite"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestContentSuite(t *testing.T) {
	testsuite.ContentSuite(t, "wherry", func(ctx context.Context, root string) (context.Context, content.Store, func() error, error) {
		s, err := Open(ctx, root, nil)
		if err != nil {
			return nil, nil, nil, err
		}
		ctx, done, err := s.Lease(ctx)
		if err != nil {
			return nil, nil, nil, err
		}
		return ctx, s.Blobs(), func() error { done(); return s.Close() }, nil
	})
}

func open(t *testing.T) *Store {
	s, err := Open(context.Background(), t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// What is written under a lease lives as long as the lease.
func TestLease(t *testing.T) {
	s := open(t)
	ctx, done, err := s.Lease(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.WriteBytes(ctx, "", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	other, otherDone, err := s.Lease(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, fresh, err := s.Write(other, bytes.NewReader(nil), d); fresh || err != nil {
		t.Errorf("second write: fresh %v, %v", fresh, err)
	}
	for i, end := range []func(){done, otherDone} {
		if err := s.Collect(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Size(ctx, d.Digest); err != nil {
			t.Errorf("collected under lease %d: %v", i, err)
		}
		end()
	}
	if err := s.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Size(ctx, d.Digest); !errdefs.IsNotFound(err) {
		t.Errorf("after the leases: %v", err)
	}
}

func TestWriteRefuses(t *testing.T) {
	s := open(t)
	good, err := s.WriteBytes(context.Background(), "", []byte("good"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(context.Background(), good.Digest, 3); !errdefs.IsInvalidArgument(err) {
		t.Errorf("read beyond the limit: %v", err)
	}
	for name, want := range map[string]ocispec.Descriptor{
		"digest": {Digest: good.Digest[:len(good.Digest)-4] + "0000", Size: 3},
		"size":   {Size: 7},
	} {
		if _, _, err := s.Write(context.Background(), bytes.NewReader([]byte("bad")), want); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	list, err := s.Blobs().ListStatuses(With(context.Background()))
	if err != nil || len(list) > 0 {
		t.Errorf("ingests left: %v %v", list, err)
	}
	if _, err := Open(context.Background(), s.mark[:len(s.mark)-len("/content/open")], nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second open of one root: %v", err)
	}
}

// TestWriteAfterCrash: a file that lost its record, or never got one, is no
// obstacle to the same blob.
func TestWriteAfterCrash(t *testing.T) {
	root := t.TempDir()
	blob := []byte("was written before")
	s, err := Open(t.Context(), root, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.WriteBytes(t.Context(), "", blob)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// As a crash leaves it between the file's rename and the record.
	if err := os.Remove(filepath.Join(root, "meta.db")); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(t.Context(), root, nil); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Size(t.Context(), d.Digest); !errdefs.IsNotFound(err) {
		t.Fatalf("the record: %v", err)
	}
	if _, err := s.WriteBytes(t.Context(), "", blob); err != nil {
		t.Error(err)
	}
	if got, err := s.Read(t.Context(), d.Digest, 100); err != nil || string(got) != string(blob) {
		t.Errorf("%q %v", got, err)
	}
}
