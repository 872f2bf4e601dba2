package build

import (
	"context"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/worker"
	"github.com/opencontainers/go-digest"

	"github.com/wherry-engine/wherry/internal/build/digestref"
	"github.com/wherry-engine/wherry/internal/build/foreign"
)

// byDigest gives an image that is here the name by which BuildKit finds it.
func (e *engine) byDigest(ctx context.Context, op *pb.SourceOp) *pb.SourceOp {
	name, ok := digestref.Tag(op.GetIdentifier(), func(ref string) digest.Digest {
		img, err := e.b.cfg.Images.Resolve(ctx, ref)
		if err != nil {
			return ""
		}
		return img.Target.Digest
	})
	if ok {
		op = op.CloneVT()
		op.Identifier = name
	}
	return op
}

// ResolveOp makes the operation of a vertex.
func (w *ownWorker) ResolveOp(v solver.Vertex, b frontend.FrontendLLBBridge, sm *session.Manager, proxy worker.ProxyOpt) (solver.Op, error) {
	op, err := w.Worker.ResolveOp(w.engine.sourceOf(v), b, sm, proxy)
	if err != nil {
		return nil, err
	}
	return w.engine.room.Wrap(foreign.Wrap(v, w.engine.copies(v, op))), nil
}

// ResolveSourceMetadata tells a frontend what an image is.
func (w *ownWorker) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt, sm *session.Manager, job solver.JobContext) (*sourceresolver.MetaResponse, error) {
	ask := func(opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
		return w.Worker.ResolveSourceMetadata(ctx, w.engine.byDigest(ctx, op), opt, sm, job)
	}
	out, err := ask(opt)
	if err == nil {
		out, err = suits(op, opt, out, ask)
	}
	if out != nil && out.Op != nil {
		out.Op = op
	}
	return out, err
}

// source is a vertex whose image is looked up by its digest.
type source struct {
	solver.Vertex
	op *pb.Op
}

// Sys is the operation.
func (s *source) Sys() any { return s.op }

func (e *engine) sourceOf(v solver.Vertex) solver.Vertex {
	op, ok := v.Sys().(*pb.Op)
	if !ok || op.GetSource() == nil {
		return v
	}
	changed := e.byDigest(e.running, op.GetSource())
	if changed == op.GetSource() {
		return v
	}
	op = op.CloneVT()
	op.Op = &pb.Op_Source{Source: changed}
	return &source{v, op}
}
