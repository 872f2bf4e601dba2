package daemon

import (
	"context"

	"github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/query"
	"github.com/wherry-engine/wherry/internal/usage"
)

// usage joins those who know what lies on the disk.
func (s *System) usage() *usage.Reporter {
	return usage.New(usage.Parts{
		Images: s.images.DiskUsage, Volumes: s.volumes.DiskUsage, Builds: s.builder.DiskUsage,
		Containers: func(ctx context.Context) ([]*container.Summary, error) {
			return s.view.List(ctx, query.ListOptions{All: true, Size: true})
		},
	})
}
