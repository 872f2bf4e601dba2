package space

import (
	"context"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
)

// When the room is closed nobody uses the cache any more, nor begins to.
func TestClose(t *testing.T) {
	pruning, over := make(chan struct{}), false
	r := New(Cache{
		Root: t.TempDir(), Policy: func() []client.PruneInfo { return []client.PruneInfo{{All: true}} },
		Worth: func(_ context.Context, p []client.PruneInfo, _ bool) ([]client.PruneInfo, error) { return p, nil },
		Prune: func(ctx context.Context, _ []client.PruneInfo) (int, uint64, error) {
			if over {
				t.Error("a closed room is emptied")
				return 0, 0, nil
			}
			close(pruning)
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Second):
				t.Error("whoever empties is not told")
			}
			over = true
			return 0, 0, context.Cause(ctx)
		},
	})
	go r.empty(context.Background(), 0)
	<-pruning
	r.Close()
	if !over {
		t.Error("closed while somebody empties")
	}
	r.Before(t.Context())
}

// A build begins also while the cache is being emptied, which may take long.
func TestEnterWhileEmptied(t *testing.T) {
	pruning, end := make(chan struct{}), make(chan struct{})
	r := New(Cache{
		Root: t.TempDir(), Policy: func() []client.PruneInfo { return []client.PruneInfo{{All: true}} },
		Worth: func(_ context.Context, p []client.PruneInfo, _ bool) ([]client.PruneInfo, error) { return p, nil },
		Prune: func(context.Context, []client.PruneInfo) (int, uint64, error) {
			close(pruning)
			<-end
			return 0, 0, nil
		},
	})
	over := make(chan struct{})
	go func() {
		defer close(over)
		r.make(context.Background(), 0) //nolint:errcheck // it has none
	}()
	<-pruning
	leave := r.Enter(t.Context()) // or the test never ends
	leave(nil)
	r.end() // the watcher does not empty it again
	close(end)
	<-over
}
