// Package usage owns the account of what lies on the engine's disk: images,
// containers, volumes, and how much of each could go.
package usage

import (
	"context"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
)

// Parts are who knows about one kind of object each.
type Parts struct {
	Images     func(context.Context) (*image.DiskUsage, error)
	Containers func(context.Context) ([]*container.Summary, error) // all of them, with sizes
	Volumes    func(context.Context) (*volume.DiskUsage, error)
	Builds     func(context.Context) (*build.DiskUsage, error)
}

// Reporter asks the parts.
type Reporter struct{ parts Parts }

// New makes a reporter.
func New(p Parts) *Reporter { return &Reporter{p} }

// Usage reports on the kinds of objects that are wanted. It looks at every
// file of the containers and volumes, so it takes its time.
func (r *Reporter) Usage(ctx context.Context, wanted func(system.DiskUsageObject) bool) (*system.DiskUsage, error) {
	var u system.DiskUsage
	var err error
	if wanted(system.ImageObject) {
		if u.ImageUsage, err = r.parts.Images(ctx); err != nil {
			return nil, err
		}
	}
	if wanted(system.ContainerObject) {
		if u.ContainerUsage, err = r.containers(ctx); err != nil {
			return nil, err
		}
	}
	if wanted(system.VolumeObject) {
		if u.VolumeUsage, err = r.parts.Volumes(ctx); err != nil {
			return nil, err
		}
	}
	if wanted(system.BuildCacheObject) {
		if u.BuildCacheUsage, err = r.parts.Builds(ctx); err != nil {
			return nil, err
		}
	}
	return &u, nil
}

func (r *Reporter) containers(ctx context.Context) (*container.DiskUsage, error) {
	list, err := r.parts.Containers(ctx)
	if err != nil {
		return nil, err
	}
	u := &container.DiskUsage{TotalCount: int64(len(list))}
	for _, c := range list {
		u.Items = append(u.Items, *c)
		u.TotalSize += c.SizeRw
		switch c.State {
		case container.StateRunning, container.StatePaused, container.StateRestarting:
			u.ActiveCount++
		default:
			u.Reclaimable += c.SizeRw
		}
	}
	return u, nil
}
