package build

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// suits asks the registry for an image whose platform is here only as another
// one's: one that was pulled or built for amd64 is no base for arm64. got is what
// was found here, ask asks again.
func suits(op *pb.SourceOp, opt sourceresolver.Opt, got *sourceresolver.MetaResponse, ask func(sourceresolver.Opt) (*sourceresolver.MetaResponse, error)) (*sourceresolver.MetaResponse, error) {
	want := opt.ImageOpt
	if want == nil || want.Platform == nil || want.ResolveMode != pb.AttrImageResolveModePreferLocal || got == nil || got.Image == nil {
		return got, nil
	}
	var is ocispec.Platform
	if json.Unmarshal(got.Image.Config, &is) != nil || is.OS == "" || is.Architecture == "" || platforms.Only(*want.Platform).Match(is) {
		return got, nil
	}
	again := *want
	again.ResolveMode = pb.AttrImageResolveModeForcePull
	opt.ImageOpt = &again
	out, err := ask(opt)
	if err != nil {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("image with reference %s was found but does not match the specified platform: wanted %s, actual: %s; its registry has none either: %v",
			strings.TrimPrefix(op.GetIdentifier(), "docker-image://"), platforms.Format(*want.Platform), platforms.Format(platforms.Normalize(is)), err))
	}
	return out, nil
}
