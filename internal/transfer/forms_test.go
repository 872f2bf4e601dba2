package transfer

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/image/manifest"
)

// dialect is a way to write images down.
type dialect struct{ manifest, index, config, plain, gzip, zstd string }

var (
	oci = dialect{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageConfig,
		ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd}
	dockers = dialect{manifest.DockerManifest, manifest.DockerList, manifest.DockerConfig,
		"application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar.zstd"}
)

// write puts an image with a plain, a gzip and a zstd layer, each with a file
// named for arch, into the registry.
func (d dialect) write(t *testing.T, f *fake, name, tag, arch string) ocispec.Descriptor {
	t.Helper()
	m := ocispec.Manifest{MediaType: d.manifest}
	m.SchemaVersion = 2
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}}
	config.RootFS.Type = "layers"
	for how, mediaType := range map[string]string{"": d.plain, "gzip": d.gzip, "zstd": d.zstd} {
		b, diff := layer(arch+how, 1000, how)
		m.Layers = append(m.Layers, f.blob(b, mediaType))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diff)
	}
	b, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	m.Config = f.blob(b, d.config)
	desc := f.put(name, tag, m, d.manifest)
	desc.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
	return desc
}

// unpacked wants the image's three layers to have their files.
func (b *bench) unpacked(ref, arch string) {
	b.t.Helper()
	img := b.verify(ref)
	low, err := b.store.Layers(b.t.Context(), img)
	if err != nil {
		b.t.Fatal(err)
	}
	var found []string
	for _, dir := range low.Dirs {
		list, err := os.ReadDir(dir)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, f := range list {
			if st, err := os.Stat(filepath.Join(dir, f.Name())); err == nil && st.Size() == 1000 {
				found = append(found, f.Name())
			}
		}
	}
	slices.Sort(found)
	if want := []string{arch, arch + "gzip", arch + "zstd"}; !slices.Equal(found, want) || img.Config.Architecture != arch {
		b.t.Errorf("%s: files %v of %s, want %v", ref, found, img.Config.Architecture, want)
	}
}

// TestForms pulls every form that an image can have: by OCI's and by Docker's
// media types, as manifest and as index, with plain, gzip and zstd layers; by tag,
// by digest of manifest and of index, for a platform, and all tags at once.
func TestForms(t *testing.T) {
	for name, d := range map[string]dialect{"oci": oci, "docker": dockers} {
		t.Run(name, func(t *testing.T) {
			f, b := newFake(t), newBench(t, Config{})
			repo := f.host() + "/team/app"
			one := d.write(t, f, "team/app", "one", "amd64")
			arm := d.write(t, f, "team/app", "", "arm64")
			idx := ocispec.Index{MediaType: d.index, Manifests: []ocispec.Descriptor{arm, one}}
			idx.SchemaVersion = 2
			top := f.put("team/app", "many", idx, d.index)
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/tags/list") {
					if r.URL.Query().Get("last") == "" { // a page for each
						w.Header().Set("Link", `</v2/team/app/tags/list?last=many>; rel="next"`)
						fmt.Fprint(w, `{"name":"team/app","tags":["many"]}`)
					} else {
						fmt.Fprint(w, `{"name":"team/app","tags":["one"]}`)
					}
					return true
				}
				return false
			}
			for _, c := range []struct {
				ref, platform, arch string
				target              digest.Digest
				names               []string // after it, sorted
			}{
				{repo + ":one", "", "amd64", one.Digest, []string{repo + ":one"}},
				{repo + ":one", "linux/amd64", "amd64", one.Digest, []string{repo + ":one"}},
				{repo + ":many", "", "amd64", top.Digest, []string{repo + ":many"}},
				{repo + ":many", "linux/arm64", "arm64", top.Digest, []string{repo + ":many"}},
				{repo + "@" + one.Digest.String(), "", "amd64", one.Digest, nil},
				{repo + "@" + top.Digest.String(), "", "amd64", top.Digest, nil},
				{repo + "@" + top.Digest.String(), "linux/arm64/v8", "arm64", top.Digest, nil},
				{repo + ":many@" + top.Digest.String(), "", "amd64", top.Digest, nil},
				{repo, "", "amd64", top.Digest, []string{repo + ":many", repo + ":one"}},
			} {
				if _, err := b.pullAs(c.ref, c.platform, ""); err != nil {
					t.Errorf("%s %s: %v", c.ref, c.platform, err)
					continue
				}
				at := c.ref
				if at == repo {
					at += ":many"
				}
				b.unpacked(at, c.arch)
				if img := b.verify(at); img.Target.Digest != c.target || !slices.Equal(img.RepoTags, c.names) && len(img.RepoTags)+len(c.names) > 0 {
					t.Errorf("%s %s: %s %v, want %s %v", c.ref, c.platform, img.Target.Digest, img.RepoTags, c.target, c.names)
				}
				if _, _, err := b.store.Prune(t.Context(), true, nil, func(context.Context) (func(map[string]bool) int64, error) {
					return func(map[string]bool) int64 { return 0 }, nil
				}); err != nil {
					t.Fatal(err)
				}
				b.empty()
			}
		})
	}
}

// TestRefusedForms: schema 1 is refused by its name, signed or not, whatever the
// registry calls it; a layer that is only elsewhere is not fetched from there,
// and one that the registry has, too, is taken from it.
func TestRefusedForms(t *testing.T) {
	const one = `{"schemaVersion":1,"name":"x","tag":"latest","architecture":"amd64","fsLayers":[{"blobSum":"sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"}],"history":[{"v1Compatibility":"{}"}]%s}`
	for kind, body := range map[string]string{
		"application/vnd.docker.distribution.manifest.v1+json":      fmt.Sprintf(one, ""),
		"application/vnd.docker.distribution.manifest.v1+prettyjws": fmt.Sprintf(one, `,"signatures":[]`),
		"application/json":      fmt.Sprintf(one, ""),
		manifest.DockerManifest: fmt.Sprintf(one, ""),
	} {
		f, b := newFake(t), newBench(t, Config{})
		f.put("x", "latest", []byte(body), kind)
		ref := f.host() + "/x:latest"
		if _, err := b.pull(ref); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), ref) || !strings.Contains(err.Error(), "schema version 1 is no longer supported") {
			t.Errorf("%s: %v", kind, err)
		}
		b.nothing(ref)
	}
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked elsewhere: %s", r.URL) }))
	t.Cleanup(elsewhere.Close)
	for _, kind := range []string{"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"} {
		for _, here := range []bool{false, true} {
			f, b := newFake(t), newBench(t, Config{})
			f.image("x", "latest", picture{layers: []int{1000, 1000}, manifest: func(m *ocispec.Manifest) {
				m.Layers[0].MediaType, m.Layers[0].URLs = kind, []string{elsewhere.URL + "/layer"}
				if !here {
					delete(f.blobs, m.Layers[0].Digest.String())
				}
			}})
			ref := f.host() + "/x:latest"
			_, err := b.pull(ref)
			switch {
			case here && err != nil:
				t.Errorf("%s, which the registry has: %v", kind, err)
			case here:
				b.verify(ref)
			case !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), ref) || !strings.Contains(err.Error(), "lies outside of the registry ("+elsewhere.URL+"/layer), where it is not fetched from"):
				t.Errorf("%s: %v", kind, err)
			default:
				b.nothing(ref)
			}
		}
	}
}
