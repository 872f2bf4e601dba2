package digestref

import (
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

func TestTag(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	want := digest.Digest("sha256:" + sum)
	have := func(ref reference.Named) digest.Digest {
		if strings.Contains(ref.String(), "@") {
			return want
		}
		return "sha256:other"
	}
	for _, ref := range []string{"host:5000/a/b@sha256:" + sum, "host:5000/a/b:tag@sha256:" + sum} {
		got, ok := Tag("docker-image://"+ref, have)
		if want := "docker-image://host:5000/a/b:sha256-" + sum + "@sha256:" + sum; !ok || got != want {
			t.Errorf("%s: %q %t", ref, got, ok)
		}
	}
	for _, source := range []string{"docker-image://host/a:tag", "git://host/a@sha256:" + sum, "docker-image://A@sha256:" + sum, "docker-image://a@sha256:1"} {
		if got, ok := Tag(source, have); ok {
			t.Errorf("%s: %q", source, got)
		}
	}
	if got, ok := Tag("docker-image://a@sha256:"+sum, func(reference.Named) digest.Digest { return "" }); ok {
		t.Errorf("one that is not here: %q", got)
	}
	for _, ref := range []string{"a@sha256:", "a:1@sha256:"} {
		if got, ok := Tag("docker-image://"+ref+sum, func(reference.Named) digest.Digest { return want }); ok {
			t.Errorf("one whose tag leads there: %q", got)
		}
	}
	// One that a push gave this digest has another here.
	pushed := func(reference.Named) digest.Digest { return "sha256:here" }
	if got, ok := Tag("docker-image://a:1@sha256:"+sum, pushed); !ok || got != "docker-image://docker.io/library/a:sha256-"+sum+"@sha256:here" {
		t.Errorf("pushed: %q %t", got, ok)
	}
	canonical, d, ok := Read("host:5000/a/b:sha256-" + sum)
	if !ok || canonical != "host:5000/a/b@sha256:"+sum || d.Encoded() != sum {
		t.Errorf("%q %q %t", canonical, d, ok)
	}
	for _, name := range []string{"host/a:latest", "host/a:sha256-1", "host/a:sha256-" + strings.ToUpper(sum)} {
		if canonical, _, ok := Read(name); ok {
			t.Errorf("%s: %q", name, canonical)
		}
	}
}
