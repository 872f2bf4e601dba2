package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/jsonstream"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/image/archive"
)

// Of an image for several platforms single ones are saved, loaded, looked at
// and removed; digests stay, and nothing of the others comes along.
func TestPlatforms(t *testing.T) {
	ctx := context.Background()
	var l layout
	host := platforms.DefaultSpec()
	host = ocispec.Platform{OS: host.OS, Architecture: host.Architecture}
	s390, arm := ocispec.Platform{OS: "linux", Architecture: "s390x"}, ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	foreign, other, mine := l.image(s390, "foreign"), l.image(arm, "other"), l.image(host, "mine")
	att := l.doc(ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: l.doc(ocispec.MediaTypeImageConfig, map[string]any{"x": 1}), Layers: []ocispec.Descriptor{l.blob("application/vnd.in-toto+json", []byte("{}"))}})
	att.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": foreign.Digest.String()}
	top := l.index(foreign, att, other, mine)
	top.Annotations = map[string]string{images.AnnotationImageName: "docker.io/library/multi:1"}
	full := open(t, "")
	full.mustLoad(l.tar(top))
	blobs := func(f *fixture) int {
		t.Helper()
		list, err := filepath.Glob(filepath.Join(f.root, "content/blobs/sha256/*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	saved := func(want ...ocispec.Platform) []byte {
		t.Helper()
		var b bytes.Buffer
		if err := full.Save(ctx, []string{"multi:1"}, want, &b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	load := func(b []byte, want ...ocispec.Platform) *fixture {
		t.Helper()
		f := open(t, "")
		if err := f.Load(ctx, bytes.NewReader(b), true, want, func(jsonstream.Message) {}); err != nil {
			t.Fatal(err)
		}
		return f
	}
	for _, manifests := range []bool{false, true} {
		list, err := full.List(ctx, ListOptions{Manifests: manifests})
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		want := full.image("multi:1").Size
		for _, m := range list[0].Manifests {
			want += m.Size.Content
		}
		if list[0].Size != want || manifests != (list[0].Manifests != nil) {
			t.Errorf("listed with manifests %v: %d bytes, want %d, of %d manifests", manifests, list[0].Size, want, len(list[0].Manifests))
		}
	}
	// manifest, config, layer; with the attestation's three; the index
	for _, c := range []struct {
		name   string
		f      *fixture
		target ocispec.Descriptor
		id     ocispec.Descriptor
		blobs  int
	}{
		{"one saved", load(saved(arm)), other, other, 3},
		{"another saved, its manifest alone", load(saved(s390)), foreign, foreign, 3},
		{"two saved", load(saved(s390, host)), top, mine, 1 + 3 + 6},
		{"one loaded", load(saved(), arm), top, other, 1 + 3},
		{"two loaded", load(saved(), arm, s390), top, other, 1 + 3 + 6},
		{"all", load(saved()), top, mine, 1 + 9 + 3},
	} {
		img := c.f.image("multi:1")
		if img.Target.Digest != c.target.Digest || img.Manifest.Digest != c.id.Digest {
			t.Errorf("%s: target %s, manifest %s", c.name, img.Target.Digest, img.Manifest.Digest)
		}
		if n := blobs(c.f); n != c.blobs {
			t.Errorf("%s: %d blobs, want %d", c.name, n, c.blobs)
		}
		c.f.restart()
		if got := c.f.image("multi:1"); got.ID != img.ID {
			t.Errorf("%s: %s after a restart", c.name, got.ID)
		}
	}
	var docker []archive.Entry
	if err := json.Unmarshal([]byte(memberOf(t, saved(arm), "manifest.json")), &docker); err != nil || len(docker) != 1 || len(docker[0].RepoTags) != 1 {
		t.Errorf("manifest.json: %v %v", docker, err)
	}
	none := ocispec.Platform{OS: "linux", Architecture: "mips"}
	if err := full.Save(ctx, []string{"multi:1"}, []ocispec.Platform{none}, &bytes.Buffer{}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "multi:1 was found but does not provide the specified platform (linux/mips)") {
		t.Errorf("save of a platform that is not there: %v", err)
	}
	f := open(t, "")
	if err := f.Load(ctx, bytes.NewReader(saved()), true, []ocispec.Platform{none}, func(jsonstream.Message) {}); !errdefs.IsNotFound(err) {
		t.Errorf("load of a platform that is not there: %v", err)
	}
	f.wantEmpty()

	in, err := full.Inspect(ctx, "multi:1", &s390, false)
	if err != nil || in.Architecture != "s390x" || in.ID == full.image("multi:1").ID.String() {
		t.Errorf("inspect: %+v %v", in, err)
	}
	if h, err := full.History(ctx, "multi:1", &none); err == nil {
		t.Errorf("history of a platform that is not there: %v", h)
	}
	if out, err := full.Remove(ctx, "multi:1", RemoveOptions{Platforms: []ocispec.Platform{s390}}); err != nil || len(out) != 1 || out[0].Deleted != foreign.Digest.String() {
		t.Errorf("removal of a platform: %v %v", out, err)
	}
	if n := blobs(full); n != 1+3+3 {
		t.Errorf("%d blobs after a platform was removed", n)
	}
	// The host's own goes when nothing uses it; the image is another platform's then.
	only := func(p ocispec.Platform) RemoveOptions { return RemoveOptions{Platforms: []ocispec.Platform{p}} }
	running := true
	full.SetUsers(func(string) []Use { return []Use{{Container: strings.Repeat("c", 64), Running: running}} })
	if _, err := full.Remove(ctx, "multi:1", only(host)); !errdefs.IsConflict(err) || !strings.HasSuffix(err.Error(), "(cannot be forced) - image is being used by running container cccccccccccc") {
		t.Errorf("removal of the platform in use: %v", err)
	}
	running = false
	if _, err := full.Remove(ctx, "multi:1", only(host)); !errdefs.IsConflict(err) || !strings.HasSuffix(err.Error(), "(must be forced) - image is being used by stopped container cccccccccccc") {
		t.Errorf("removal of the platform of a stopped container: %v", err)
	}
	full.SetUsers(nil)
	if err := full.Tag(ctx, "multi:1", "second:2"); err != nil {
		t.Fatal(err)
	}
	before := full.image("multi:1").ID
	if out, err := full.Remove(ctx, "multi:1", only(host)); err != nil || len(out) != 1 || out[0].Deleted != mine.Digest.String() {
		t.Errorf("removal of the host's platform: %v %v", out, err)
	}
	full.restart()
	for _, name := range []string{"multi:1", "second:2"} {
		if img := full.image(name); img.Manifest.Digest != other.Digest || img.Target.Digest != top.Digest || img.Config.Architecture != "arm" {
			t.Errorf("%s: %+v", name, img)
		}
	}
	if _, err := full.Resolve(ctx, before.String()); !errdefs.IsNotFound(err) {
		t.Errorf("the image of the host's platform is there: %v", err)
	}
	if n := blobs(full); n != 1+3 {
		t.Errorf("%d blobs after the host's platform was removed", n)
	}
	if _, err := full.Remove(ctx, "multi:1", only(arm)); !errdefs.IsConflict(err) || !strings.HasSuffix(err.Error(), "no other platform of the image is here: remove the image") {
		t.Errorf("removal of the last platform: %v", err)
	}
	for _, name := range []string{"multi:1", "second:2"} {
		if _, err := full.Remove(ctx, name, RemoveOptions{}); err != nil {
			t.Error(err)
		}
	}
	full.wantEmpty()
}

// memberOf reads one member of an archive.
func memberOf(t *testing.T, b []byte, name string) string {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if h.Name == name {
			return string(must(io.ReadAll(r)))
		}
	}
}
