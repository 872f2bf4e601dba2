package executor

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/wherry-engine/wherry/internal/runtime/hook"
)

// inject puts the devices of RUN --device into a step, and tells whether they
// have hooks. What a step may have was settled when the build was loaded.
func (e *Executor) inject(s *specs.Spec, list []*pb.CDIDevice) (hooks bool, err error) {
	if len(list) > 0 {
		if err := e.devices.Refresh(); err != nil {
			return false, fmt.Errorf("CDI device injection failed: %w", err)
		}
		if err := e.devices.InjectDevices(s, list...); err != nil {
			return false, fmt.Errorf("CDI device injection failed: %w", err)
		}
	}
	return hook.Wanted(s.Hooks)
}

// hooks runs those of a step's devices.
func (e *Executor) hooks(ctx context.Context, s *step, pid int) error {
	if s.spec.Hooks == nil {
		return nil
	}
	return hook.Run(ctx, hook.Container{ID: s.id, PID: pid, Dir: filepath.Join(s.dir, "hooks"), Spec: s.spec})
}
