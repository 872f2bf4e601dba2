package build

import (
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/llbsolver/linuxresources"
	"github.com/moby/buildkit/solver/llbsolver/ops"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/worker"

	"github.com/wherry-engine/wherry/internal/build/executor"
)

// operation makes the operation of a vertex as BuildKit's worker does, but for
// steps, whose records see that they are cancelled.
func (w *ownWorker) operation(v solver.Vertex, b frontend.FrontendLLBBridge, sm *session.Manager, proxy worker.ProxyOpt) (solver.Op, error) {
	def, _ := v.Sys().(*pb.Op)
	step, ok := def.GetOp().(*pb.Op_Exec)
	if !ok || proxy.Network {
		return w.Worker.ResolveOp(v, b, sm, proxy)
	}
	var limits *pb.LinuxResources
	if m, ok := v.Options().Metadata.(*linuxresources.Metadata); ok && m != nil {
		limits = m.LinuxResources
	}
	return ops.NewExecOp(v, step, def.Platform, executor.Cancellable(w.CacheMgr), w.ParallelismSem, sm, w.WorkerOpt.Executor, w.Worker, limits, false)
}
