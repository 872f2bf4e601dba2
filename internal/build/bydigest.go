package build

import (
	"context"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// BuildKit looks a base image up by its tag alone, and then compares the digest.
// One that is asked for by digest, and is here under any tag or none, is
// therefore given a tag that says the digest, which the table of images reads.

const (
	imageScheme = "docker-image://"
	digestTag   = "sha256-"
)

// byDigest gives a source that names an image by digest, and that is here, its
// tag; another stays as it is.
func (e *engine) byDigest(ctx context.Context, op *pb.SourceOp) *pb.SourceOp {
	ref, ok := strings.CutPrefix(op.GetIdentifier(), imageScheme)
	if !ok || !strings.Contains(ref, "@") {
		return op
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return op
	}
	c, ok := named.(reference.Canonical)
	if !ok || c.Digest().Algorithm() != digest.SHA256 {
		return op
	}
	if _, err := e.b.cfg.Images.Resolve(ctx, c.String()); err != nil {
		return op
	}
	op = op.CloneVT()
	op.Identifier = imageScheme + reference.TrimNamed(named).String() + ":" + digestTag + c.Digest().Encoded() + "@" + c.Digest().String()
	return op
}

// ofTag gives the digest of a tag that byDigest made.
func ofTag(name string) (canonical string, d digest.Digest, ok bool) {
	repository, hex, ok := strings.Cut(name, ":"+digestTag)
	d = digest.NewDigestFromEncoded(digest.SHA256, hex)
	if !ok || d.Validate() != nil {
		return "", "", false
	}
	return repository + "@" + d.String(), d, true
}

// ResolveSourceMetadata tells a frontend what an image is.
func (w *ownWorker) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt, sm *session.Manager, job solver.JobContext) (*sourceresolver.MetaResponse, error) {
	out, err := w.Worker.ResolveSourceMetadata(ctx, w.engine.byDigest(ctx, op), opt, sm, job)
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
