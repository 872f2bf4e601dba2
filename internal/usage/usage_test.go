package usage

import (
	"context"
	"errors"
	"testing"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
)

func TestUsage(t *testing.T) {
	broken := errors.New("broken")
	asked := ""
	r := New(Parts{
		Images: func(context.Context) (*image.DiskUsage, error) {
			asked += "i"
			return &image.DiskUsage{TotalCount: 1}, nil
		},
		Builds: func(context.Context) (*build.DiskUsage, error) {
			asked += "b"
			return &build.DiskUsage{TotalCount: 7}, nil
		},
		Volumes: func(context.Context) (*volume.DiskUsage, error) { return nil, broken },
		Containers: func(context.Context) ([]*container.Summary, error) {
			asked += "c"
			return []*container.Summary{{State: container.StateRunning, SizeRw: 1}, {State: container.StatePaused, SizeRw: 10}, {State: container.StateExited, SizeRw: 100}, {State: container.StateCreated, SizeRw: 1000}}, nil
		},
	})
	u, err := r.Usage(t.Context(), func(k system.DiskUsageObject) bool { return k != system.VolumeObject })
	if err != nil || asked != "icb" || u.VolumeUsage != nil || u.ImageUsage.TotalCount != 1 || u.BuildCacheUsage.TotalCount != 7 {
		t.Fatalf("%+v, %v, asked %q", u, err, asked)
	}
	if c := u.ContainerUsage; c.TotalCount != 4 || c.ActiveCount != 2 || c.TotalSize != 1111 || c.Reclaimable != 1100 || len(c.Items) != 4 {
		t.Errorf("%+v", c)
	}
	if _, err := r.Usage(t.Context(), func(k system.DiskUsageObject) bool { return k == system.VolumeObject }); !errors.Is(err, broken) {
		t.Error(err)
	}
}
