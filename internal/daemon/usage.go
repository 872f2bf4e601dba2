package daemon

import (
	"context"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"

	"github.com/wherry-engine/wherry/internal/query"
	"github.com/wherry-engine/wherry/internal/usage"
)

// usage joins those who know what lies on the disk.
func (s *System) usage() *usage.Reporter {
	return usage.New(usage.Parts{
		Images: func(ctx context.Context) (*image.DiskUsage, error) {
			cache, err := s.builder.Own(ctx)
			if err != nil {
				return nil, err
			}
			return s.images.DiskUsage(ctx, cache, s.builder.Twice)
		},
		Volumes: s.volumes.DiskUsage, Builds: s.builder.DiskUsage,
		Containers: func(ctx context.Context) ([]*container.Summary, error) {
			return s.view.List(ctx, query.ListOptions{All: true, Size: true})
		},
	})
}
