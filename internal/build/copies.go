package build

import (
	"context"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/solver"

	"github.com/wherry-engine/wherry/internal/build/fileop"
	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

// copies gives the operation of a vertex; one that copies files writes straight
// into the directory of its layer. With vfs each layer is a copy of the one
// below, so there is no such directory.
func (e *engine) copies(v solver.Vertex, op solver.Op) solver.Op {
	images := e.b.cfg.Images
	driver := images.Snapshots().Driver()
	if driver != snapshot.Overlay2 {
		return op
	}
	files := &fileop.Files{Worker: e.worker, Mounts: func(ctx context.Context, record string) ([]mount.Mount, error) {
		return images.Content().Snapshotter(driver).Mounts(content.With(ctx), e.snapshotName(record))
	}}
	return files.Wrap(v, op)
}
