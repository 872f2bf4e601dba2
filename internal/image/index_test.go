package image

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/klauspost/compress/zstd"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/snapshot"
	"github.com/wherry-engine/wherry/test/promise"
)

// layout builds an OCI layout in memory.
type layout struct{ files []file }

func (l *layout) blob(mediaType string, b []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	l.files = append(l.files, file{name: "blobs/sha256/" + d.Digest.Encoded(), body: string(b)})
	return d
}

func (l *layout) doc(mediaType string, v any) ocispec.Descriptor {
	return l.blob(mediaType, must(json.Marshal(v)))
}

// image adds a manifest of one zstd layer that holds a file of that name.
func (l *layout) image(p ocispec.Platform, name string) ocispec.Descriptor {
	plain := tarOf(file{name: name, body: name})
	enc := must(zstd.NewWriter(nil))
	layer := l.blob(ocispec.MediaTypeImageLayerZstd, enc.EncodeAll(plain, nil))
	config := l.doc(ocispec.MediaTypeImageConfig, ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(plain)}}})
	d := l.doc(ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer}})
	d.Platform = &p
	return d
}

func (l *layout) index(ms ...ocispec.Descriptor) ocispec.Descriptor {
	return l.doc(ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: ms})
}

func (l *layout) tar(ms ...ocispec.Descriptor) []byte {
	b := must(json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: ms}))
	return tarOf(append(l.files, file{name: "oci-layout", body: `{"imageLayoutVersion":"1.0.0"}`}, file{name: "index.json", body: string(b)})...)
}

// An index with an attestation, a foreign platform and one that is not in the
// archive: the host's image runs, the index is kept byte for byte.
func TestLoadIndex(t *testing.T) {
	f := open(t, "")
	ctx := context.Background()
	var l layout
	host := platforms.DefaultSpec()
	foreign := l.image(ocispec.Platform{OS: "linux", Architecture: "s390x"}, "foreign")
	mine := l.image(ocispec.Platform{OS: host.OS, Architecture: host.Architecture}, "mine")
	att := l.doc(ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: l.doc(ocispec.MediaTypeImageConfig, map[string]any{"x": 1}), Layers: []ocispec.Descriptor{l.blob("application/vnd.in-toto+json", []byte("{}"))}})
	att.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": mine.Digest.String()}
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("absent"), Size: 5}
	top := l.index(foreign, absent, l.index(mine, att))
	top.Annotations = map[string]string{images.AnnotationImageName: "docker.io/library/multi:1", ocispec.AnnotationRefName: "1"}
	if got := f.mustLoad(l.tar(top)); got != "Loaded image: multi:1\n" {
		t.Errorf("messages %q", got)
	}
	img := f.image("multi:1")
	if img.Target.Digest != top.Digest || img.Manifest.Digest != mine.Digest || img.Target.MediaType != ocispec.MediaTypeImageIndex {
		t.Errorf("target %v, manifest %v", img.Target, img.Manifest)
	}
	lower, err := f.Layers(ctx, img)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(lower.Dirs[0], "mine")); err != nil {
		t.Error(err)
	}
	ms, err := f.Manifests(ctx, "multi:1")
	if err != nil || len(ms) != 3 || ms[1].Kind != "image" || !ms[1].Available || ms[2].Kind != "attestation" {
		t.Errorf("manifests %+v %v", ms, err)
	}
	if err := f.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	g := open(t, "")
	g.mustLoad(f.save("multi:1"))
	if got := g.image("multi" + "@" + top.Digest.String()).Target.Digest; got != top.Digest {
		t.Errorf("after the round trip %s", got)
	}
	if blobs, _ := filepath.Glob(filepath.Join(g.root, "content/blobs/sha256/*")); len(blobs) != len(l.files) {
		t.Errorf("%d blobs, want %d", len(blobs), len(l.files))
	}
	if out := f.remove("multi:1", false); !strings.HasPrefix(out, "Untagged: multi:1\nDeleted: ") {
		t.Errorf("remove: %s", out)
	}
	f.wantEmpty()

	var only layout
	f.mustLoad(only.tar(only.image(ocispec.Platform{OS: "linux", Architecture: "s390x"}, "foreign")))
	var loop layout
	deep := loop.image(ocispec.Platform{OS: "linux", Architecture: host.Architecture}, "deep")
	for range 6 {
		deep = loop.index(deep)
	}
	if _, err := f.load(loop.tar(deep)); err == nil || !strings.Contains(err.Error(), "nested too deep") {
		t.Errorf("deep index: %v", err)
	}
}

// A few kilobytes of indexes can lead to an image billions of times: it is found,
// or refused, before that takes long.
func TestIndexBomb(t *testing.T) {
	f := open(t, "")
	host := platforms.DefaultSpec()
	times := func(d ocispec.Descriptor, n int) []ocispec.Descriptor {
		return slices.Repeat([]ocispec.Descriptor{d}, n)
	}
	var l layout
	deep := l.image(ocispec.Platform{OS: host.OS, Architecture: host.Architecture}, "mine")
	for range 3 {
		deep = l.index(times(deep, 1000)...)
	}
	deep.Annotations = map[string]string{images.AnnotationImageName: "docker.io/library/deep:1", ocispec.AnnotationRefName: "1"}
	f.mustLoad(l.tar(deep))
	if _, err := f.DiskUsage(t.Context(), nil, unlinked); err != nil {
		t.Error(err)
	}
	f.remove("deep:1", false)
	for want, bomb := range map[string]func(l *layout) ocispec.Descriptor{
		"leads to more than 10000 manifests": func(l *layout) ocispec.Descriptor {
			m := l.image(ocispec.Platform{OS: host.OS, Architecture: host.Architecture}, "mine")
			var list []ocispec.Descriptor
			for i := range 12 {
				list = append(list, l.index(times(m, 1000-i)...))
			}
			return l.index(list...)
		},
		"leads to more than 64 MB of manifests or configs": func(l *layout) ocispec.Descriptor {
			l.image(ocispec.Platform{OS: host.OS, Architecture: host.Architecture}, "mine")
			var doc ocispec.Manifest
			if err := json.Unmarshal([]byte(l.files[len(l.files)-1].body), &doc); err != nil {
				t.Fatal(err)
			}
			doc.Annotations = map[string]string{"long": strings.Repeat("x", 1<<20)}
			return l.index(times(l.doc(ocispec.MediaTypeImageManifest, doc), 100)...)
		},
	} {
		var l layout
		if _, err := f.load(l.tar(bomb(&l))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	f.wantEmpty()
}

// What podman saves is loaded, and what is saved here podman loads.
func TestPodmanArchive(t *testing.T) {
	promise.Program(t, "podman")
	f := open(t, "")
	dir := t.TempDir()
	podman := func(args ...string) string {
		t.Helper()
		args = append([]string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs"}, args...)
		out, err := exec.Command("podman", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("podman %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	f.mustLoad(dockerArchive([]string{"example.com/x/y:1"}, nil, busybox()))
	want := f.image("example.com/x/y:1")
	in := filepath.Join(dir, "in.tar")
	if err := os.WriteFile(in, f.save("example.com/x/y:1"), 0o600); err != nil {
		t.Fatal(err)
	}
	podman("load", "-q", "-i", in)
	if got := strings.TrimSpace(podman("images", "-q", "--no-trunc", "example.com/x/y:1")); got != want.ID.String() {
		t.Errorf("podman has %s, want %s", got, want.ID)
	}
	for _, format := range []string{"docker-archive", "oci-archive"} {
		out := filepath.Join(dir, format)
		podman("save", "-q", "--format", format, "-o", out, "example.com/x/y:1")
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.mustLoad(b); got != "Loaded image: example.com/x/y:1\n" {
			t.Errorf("%s: %q", format, got)
		}
		if got := f.image("example.com/x/y:1"); got.ChainID != want.ChainID {
			t.Errorf("%s: chain %s, want %s", format, got.ChainID, want.ChainID)
		}
	}
}

// Memory stays flat however large a layer is.
func TestLoadStreams(t *testing.T) {
	f := open(t, "")
	big := dockerArchive([]string{"big:1"}, nil, tarOf(file{name: "zeros", body: strings.Repeat("\x00", 192<<20)}))
	r := io.Reader(bytes.NewReader(big))
	runtime.GC()
	var before, m runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := f.Load(context.Background(), r, true, nil, func(jsonstream.Message) {}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&m)
	if got := (m.TotalAlloc - before.TotalAlloc) >> 20; got > 48 {
		t.Errorf("loading %d MB allocated %d MB", len(big)>>20, got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.remove("big:1", false)
	slow := io.MultiReader(bytes.NewReader(big[:8<<20]), readerFunc(func([]byte) (int, error) { cancel(); return 0, nil }))
	if err := f.Load(ctx, slow, true, nil, func(jsonstream.Message) {}); err == nil {
		t.Error("a cancelled load went through")
	}
	f.wantEmpty()
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Containers made while their image is removed by force either stand on all
// their layers or are refused.
func TestCreateWhileRemoving(t *testing.T) {
	f := open(t, "")
	ctx := context.Background()
	for range 10 {
		f.mustLoad(dockerArchive([]string{"a:1"}, nil, tarOf(file{name: "a"}), tarOf(file{name: "b"})))
		lower, err := f.Layers(ctx, f.image("a:1"))
		if err != nil {
			t.Fatal(err)
		}
		var made []string
		var work sync.WaitGroup
		work.Go(func() {
			for range 20 {
				cid := id.New()
				w, err := f.Snapshots().CreateWritable(cid, lower, snapshot.WritableOptions{})
				if errdefs.IsNotFound(err) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				made = append(made, cid)
				for _, d := range w.Lower {
					if _, err := os.Stat(d); err != nil {
						t.Error(err)
					}
				}
			}
		})
		f.remove("a:1", true)
		work.Wait()
		for _, cid := range made {
			if _, err := f.Snapshots().OpenWritable(cid, snapshot.Lower{}); err != nil {
				t.Error(err)
			}
			if err := f.Snapshots().RemoveWritable(cid); err != nil {
				t.Error(err)
			}
		}
		if err := f.Collect(ctx); err != nil {
			t.Fatal(err)
		}
		f.wantEmpty()
	}
}
