package build

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/archutil"
	"github.com/moby/buildkit/worker"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ResolveOp makes the operation of a vertex. A step for a platform that this
// machine cannot run fails with the reason when it is to run, not before: what
// is cached needs no emulator.
func (w *ownWorker) ResolveOp(v solver.Vertex, b frontend.FrontendLLBBridge, sm *session.Manager, proxy worker.ProxyOpt) (solver.Op, error) {
	op, err := w.Worker.ResolveOp(w.engine.sourceOf(v), b, sm, proxy)
	if err != nil {
		return nil, err
	}
	def, ok := v.Sys().(*pb.Op)
	if !ok || def.GetExec() == nil || def.Platform == nil {
		return op, nil
	}
	p := platforms.Normalize(ocispec.Platform{OS: def.Platform.OS, Architecture: def.Platform.Architecture, Variant: def.Platform.Variant})
	if platforms.Default().Match(p) {
		return op, nil
	}
	return &foreignOp{Op: op, platform: p}, nil
}

// foreignOp is a step for another platform.
type foreignOp struct {
	solver.Op
	platform ocispec.Platform
}

// Exec runs the step, if there is something to run it with.
func (o *foreignOp) Exec(ctx context.Context, j solver.JobContext, inputs []solver.Result) ([]solver.Result, error) {
	for _, p := range archutil.SupportedPlatforms(true) {
		if p.OS == o.platform.OS && p.Architecture == o.platform.Architecture {
			return o.Op.Exec(ctx, j, inputs)
		}
	}
	return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
		"cannot run a step for %s on this machine: no emulator is registered in /proc/sys/fs/binfmt_misc (on Debian: apt-get install qemu-user-static)", platforms.Format(o.platform)))
}
