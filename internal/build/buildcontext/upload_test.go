package buildcontext

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestUploads(t *testing.T) {
	var u Uploads
	for range 100 { // either comes first
		brought := make(chan error, 1)
		go func() { brought <- u.Bring(t.Context(), "b", strings.NewReader("context")) }()
		body, done, err := u.Await(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(body); string(got) != "context" {
			t.Errorf("body %q", got)
		}
		select {
		case err := <-brought:
			t.Fatalf("the request ended before its body was read: %v", err)
		default:
		}
		done()
		if err := <-brought; err != nil {
			t.Error(err)
		}
	}
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if err := u.Bring(ctx, "a", nil); !errors.Is(err, gone) {
		t.Errorf("without a build: %v", err)
	}
	if _, _, err := u.Await(ctx, "a"); !errors.Is(err, gone) {
		t.Errorf("without a context: %v", err)
	}
	if len(u.m) != 0 {
		t.Errorf("%d builds are still waited for", len(u.m))
	}
}
