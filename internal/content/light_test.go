package content

import (
	"bytes"
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A temporary lease that holds only what is there costs no transaction, keeps
// it all the same, and gets its record with the first thing that is written.
func TestLightLease(t *testing.T) {
	s := open(t)
	first, firstDone, err := s.Lease(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.WriteBytes(first, "", []byte("there"))
	if err != nil {
		t.Fatal(err)
	}
	txid := func() int {
		tx, err := s.bolt.Begin(false)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback() //nolint:errcheck // it only reads
		return tx.ID()
	}
	before := txid()
	ctx, done, err := s.Lease(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, fresh, err := s.Write(ctx, bytes.NewReader(nil), d); fresh || err != nil {
		t.Errorf("a blob that is there: fresh %v, %v", fresh, err)
	}
	if err := s.Label(ctx, d.Digest, map[string]string{}); err != nil {
		t.Error(err)
	}
	if now := txid(); now != before {
		t.Errorf("holding what is there made %d transactions", now-before)
	}
	name, _ := leases.FromContext(ctx)
	list, err := s.Leases().ListResources(ctx, leases.Lease{ID: name})
	if err != nil || len(list) != 1 || list[0].ID != d.Digest.String() {
		t.Errorf("resources: %v, %v", list, err)
	}
	firstDone()
	there := func(want bool, d ocispec.Descriptor) {
		t.Helper()
		if err := s.Collect(context.Background()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Size(context.Background(), d.Digest); (err == nil) != want {
			t.Errorf("%s: %v, want it to be there: %v", d.Digest, err, want)
		}
	}
	there(true, d)
	e, err := s.WriteBytes(ctx, "", []byte("new"))
	if err != nil {
		t.Fatal(err)
	}
	there(true, e)
	if list, err = s.Leases().ListResources(ctx, leases.Lease{ID: name}); err != nil || len(list) != 2 {
		t.Errorf("resources: %v, %v", list, err)
	}
	done()
	there(false, d)
	there(false, e)
	if all, err := s.Leases().List(With(context.Background())); err != nil || len(all) != 0 {
		t.Errorf("leases: %v, %v", all, err)
	}
}

// Holds and collections at the same time: what is seen after it was held stays.
func TestLightLeaseCollected(t *testing.T) {
	s := open(t)
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			if err := s.Collect(context.Background()); err != nil {
				ended <- err
				return
			}
		}
	}()
	for range 200 {
		ctx, done, err := s.Lease(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.WriteBytes(ctx, "", []byte("same"))
		if err != nil {
			t.Fatal(err)
		}
		other, otherDone, err := s.Lease(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Write(other, bytes.NewReader([]byte("same")), d); err != nil {
			t.Fatal(err)
		}
		done()
		if _, err := s.Size(other, d.Digest); err != nil {
			t.Fatalf("a held blob is gone: %v", err)
		}
		otherDone()
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
