package build

import (
	"context"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/worker"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/build/digestref"
	"github.com/wherry-engine/wherry/internal/build/foreign"
	"github.com/wherry-engine/wherry/internal/image"
)

// byDigest gives an image that is here the name by which BuildKit finds it, and
// tells the digest that op names it by. One that a push gave another digest than
// it has here is found for a build that takes what is here; for others its
// registry has it.
func (e *engine) byDigest(ctx context.Context, op *pb.SourceOp, mode string) (_ *pb.SourceOp, named digest.Digest) {
	name, ok := digestref.Tag(op.GetIdentifier(), func(ref reference.Named) digest.Digest {
		img, err := e.b.cfg.Images.Resolve(ctx, ref.String())
		if err != nil {
			return ""
		}
		c, ok := ref.(reference.Canonical)
		if !ok {
			return img.Target.Digest
		}
		named = c.Digest()
		has := found(img, named).Digest
		if has != named && mode != pb.AttrImageResolveModePreferLocal {
			return ""
		}
		return has
	})
	if !ok {
		return op, ""
	}
	op = op.CloneVT()
	op.Identifier = name
	return op, named
}

// found is what of an image a digest means: its manifest, if that is the
// manifest's, or all of it.
func found(img *image.Image, d digest.Digest) ocispec.Descriptor {
	if img.Manifest.Digest == d {
		return img.Manifest
	}
	return img.Target
}

// ResolveOp makes the operation of a vertex.
func (w *ownWorker) ResolveOp(v solver.Vertex, b frontend.FrontendLLBBridge, sm *session.Manager, proxy worker.ProxyOpt) (solver.Op, error) {
	op, err := w.operation(v, b, sm, proxy)
	if err != nil {
		return nil, err
	}
	return w.engine.room.Wrap(foreign.Wrap(v, w.engine.copies(v, op))), nil
}

// ResolveSourceMetadata tells a frontend what an image is.
func (w *ownWorker) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt, sm *session.Manager, job solver.JobContext) (*sourceresolver.MetaResponse, error) {
	ask := func(opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
		mode := ""
		if opt.ImageOpt != nil {
			mode = opt.ImageOpt.ResolveMode
		}
		here, d := w.engine.byDigest(ctx, op, mode)
		out, err := w.Worker.ResolveSourceMetadata(ctx, here, opt, sm, job)
		if d != "" && out != nil && out.Image != nil {
			out.Image.Digest = d // the frontend pins it
		}
		return out, err
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
