package digestref

import (
	"context"
	"strings"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/llbsolver/provenance"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/source"
	"github.com/opencontainers/go-digest"
)

// Source is BuildKit's source of images, which looks those that are here up by
// the names of Tag. What is recorded of a build names what was asked for.
type Source struct {
	source.Source
	// Find gives the operation by which the image is found, and the digest that
	// op names, or op itself and none. mode says whether what is here is wanted.
	Find func(op *pb.SourceOp, mode string) (*pb.SourceOp, digest.Digest)
}

// base is an image that was asked for by a digest.
type base struct {
	source.Identifier // as it was asked for
	asked             digest.Digest
	here              source.Identifier
}

// Capture tells the provenance of a build of it.
func (b *base) Capture(c *provenance.Capture, _ string) error {
	return b.Identifier.Capture(c, b.asked.String())
}

// Identifier reads an operation.
func (s *Source) Identifier(scheme, ref string, attrs map[string]string, platform *pb.Platform) (source.Identifier, error) {
	id, err := s.Source.Identifier(scheme, ref, attrs, platform)
	name, _, _ := strings.Cut(ref, "@")
	if _, _, found := Read(name); err != nil || found { // for a frontend, which has looked it up
		return id, err
	}
	begin := scheme + "://"
	op, d := s.Find(&pb.SourceOp{Identifier: begin + ref, Attrs: attrs}, attrs[pb.AttrImageResolveMode])
	if d == "" {
		return id, nil
	}
	here, err := s.Source.Identifier(scheme, strings.TrimPrefix(op.Identifier, begin), attrs, platform)
	return &base{id, d, here}, err
}

// Resolve makes what fetches it.
func (s *Source) Resolve(ctx context.Context, id source.Identifier, sm *session.Manager, v solver.Vertex) (source.SourceInstance, error) {
	if b, ok := id.(*base); ok {
		id = b.here
	}
	return s.Source.Resolve(ctx, id, sm, v)
}
