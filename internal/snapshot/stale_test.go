package snapshot

import (
	"context"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
)

// paused lets a Stat have its answer and then wait.
type paused struct {
	snapshots.Snapshotter
	answered chan struct{} // one for each Stat
	leave    chan struct{}
}

func (p *paused) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	info, err := p.Snapshotter.Stat(ctx, key)
	p.answered <- struct{}{}
	<-p.leave
	return info, err
}

// TestStaleLayers: who asks for a chain's directories while it is removed does
// not make others get them when the image is there again, in other directories.
func TestStaleLayers(t *testing.T) {
	s := openStore(t, t.TempDir(), Overlay2, Limits{})
	ctx := context.Background()
	one := layer(reg("file", "content"))
	chain, err := s.Unpack(ctx, []Layer{one})
	if err != nil {
		t.Fatal(err)
	}
	plain := s.sn
	p := &paused{plain, make(chan struct{}), make(chan struct{})}
	s.sn = p
	var old Lower
	asked := make(chan error)
	go func() {
		var err error
		old, err = s.Layers(ctx, chain)
		asked <- err
	}()
	<-p.answered
	if err := s.Collect(func(map[digest.Digest]bool) error { return plain.Remove(ctx, chain.String()) }); err != nil {
		t.Fatal(err)
	}
	close(p.leave)
	if err := <-asked; err != nil {
		t.Fatal(err)
	}
	s.sn = plain
	if _, err := s.Layers(ctx, chain); err == nil {
		t.Error("the removed chain has directories")
	}
	if _, err := s.Unpack(ctx, []Layer{one}); err != nil {
		t.Fatal(err)
	}
	now, err := s.Layers(ctx, chain)
	if err != nil {
		t.Fatal(err)
	}
	if now.Dirs[0] == old.Dirs[0] {
		t.Errorf("the directory of before: %v", now.Dirs)
	}
	if _, err := s.CreateWritable(strings.Repeat("ab", 32), now, WritableOptions{}); err != nil {
		t.Error(err)
	}
}
