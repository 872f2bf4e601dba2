package request

import (
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestPlatform(t *testing.T) {
	parse := func(s string) ocispec.Platform {
		p, err := platforms.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, c := range []struct {
		asked, have string
		err         string
	}{
		{"linux/amd64", "linux/amd64", ""},
		{"linux/amd64/v2", "linux/amd64", ""},
		{"linux/arm64/v8", "linux/arm64", ""},
		{"linux/arm/v7", "linux/arm/v6", ""}, // an older one runs
		{"linux/arm/v6", "linux/arm/v7", "(linux/arm/v7) does not match the specified platform (linux/arm/v6)"},
		{"linux/arm64", "linux/s390x", "image with reference box was found but its platform (linux/s390x) does not match the specified platform (linux/arm64)"},
		{"linux/s390x", "linux/s390", "(linux/s390) does not match"},
	} {
		warning, err := Platform("box", c.asked, parse(c.have))
		if warning != "" || (err == nil) != (c.err == "") || err != nil && (!errdefs.IsNotFound(err) || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s for %s: %q %v", c.have, c.asked, warning, err)
		}
	}
	if _, err := Platform("box", "linux/arm/v6", ocispec.Platform{OS: "linux", Architecture: "arm"}); err != nil {
		t.Error(err)
	}
	if _, err := Platform("box", "a/b/c/d", platforms.DefaultSpec()); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	for arch, want := range map[string]string{
		runtime.GOARCH: "", "": "",
		"mips": "The requested image's platform (linux/mips) does not match the detected host platform (" + platforms.FormatAll(platforms.DefaultSpec()) + ") and no specific platform was requested",
	} {
		if got, err := Platform("box", "", ocispec.Platform{OS: "linux", Architecture: arch}); err != nil || got != want {
			t.Errorf("%q: %q %v", arch, got, err)
		}
	}
}
