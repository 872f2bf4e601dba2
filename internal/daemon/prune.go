package daemon

import (
	"context"
	"time"

	apiimage "github.com/moby/moby/api/types/image"

	"github.com/wherry-engine/wherry/internal/build"
	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/image"
)

// pruner reads the filters of `image prune` for the store.
type pruner struct{ images removable }

func (p pruner) Prune(ctx context.Context, f filter.Args) (apiimage.PruneReport, error) {
	var report apiimage.PruneReport
	if err := f.Validate("dangling", "label", "label!", "until"); err != nil {
		return report, err
	}
	dangling, err := f.Bool("dangling", true)
	if err != nil {
		return report, err
	}
	until, err := f.Until(time.Now())
	if err != nil {
		return report, err
	}
	spare := func(img *image.Image) bool {
		labels := img.Config.Config.Labels
		return !until.IsZero() && img.Created.After(until) || !f.Labels("label", labels) || f.Has("label!") && f.Labels("label!", labels)
	}
	if err := p.images.builds.Settle(ctx); err != nil {
		return report, err
	}
	report.ImagesDeleted, report.SpaceReclaimed, err = p.images.Prune(ctx, !dangling, spare, p.images.builds.Linked)
	return report, err
}

// removable are the images, of which none goes while a build that was answered
// still holds it: what was removed is gone then.
type removable struct {
	*image.Store
	builds *build.Builder
}

// Remove waits for those builds, then removes.
func (r removable) Remove(ctx context.Context, ref string, o image.RemoveOptions) ([]apiimage.DeleteResponse, error) {
	if err := r.builds.Settle(ctx); err != nil {
		return nil, err
	}
	return r.Store.Remove(ctx, ref, o)
}
