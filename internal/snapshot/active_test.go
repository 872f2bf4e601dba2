package snapshot

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// active lists the snapshots that are neither committed nor removed, and
// directories that belong to no snapshot.
func active(t *testing.T, s *Store) (keys []string) {
	t.Helper()
	n := 0
	err := s.sn.Walk(context.Background(), func(_ context.Context, info snapshots.Info) error {
		n++
		if info.Kind != snapshots.KindCommitted {
			keys = append(keys, info.Name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := filepath.Glob(filepath.Join(s.base, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) != n {
		keys = append(keys, dirs...)
	}
	return keys
}
