package request

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Platform checks that an image is for the platform that was asked for; where
// none was, that it is for this host's, which only gives a warning.
func Platform(ref, asked string, have ocispec.Platform) (warning string, err error) {
	if asked == "" {
		host := platforms.DefaultSpec()
		if have.Architecture == "" || fits(host, have) {
			return "", nil
		}
		return fmt.Sprintf("The requested image's platform (%s) does not match the detected host platform (%s) and no specific platform was requested",
			platforms.FormatAll(have), platforms.FormatAll(host)), nil
	}
	want, err := platforms.Parse(asked)
	if err != nil {
		return "", errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	if fits(want, have) {
		return "", nil
	}
	return "", errdefs.ErrNotFound.WithMessage(fmt.Sprintf("image with reference %s was found but its platform (%s) does not match the specified platform (%s)",
		ref, platforms.FormatAll(have), platforms.FormatAll(want)))
}

// fits: an image that does not say its variant is for all of them.
func fits(want, have ocispec.Platform) bool {
	return platforms.Only(want).Match(platforms.Normalize(have)) ||
		have.Variant == "" && have.OS == want.OS && have.Architecture == want.Architecture
}
