package image

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/image/archive"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

func TestLoadDockerArchive(t *testing.T) {
	for _, driver := range []string{snapshot.Overlay2, snapshot.VFS} {
		t.Run(driver, func(t *testing.T) {
			f := open(t, driver)
			top := tarOf(file{name: "etc/"}, file{name: "etc/motd", body: "hi"}, file{name: "etc/.wh.passwd"})
			out := f.mustLoad(dockerArchive([]string{"busybox:1", "busybox:latest"}, nil, busybox(), gz(top)))
			if want := "Loaded image: busybox:1\nLoaded image: busybox:latest\n"; out != want {
				t.Errorf("messages %q, want %q", out, want)
			}
			f.restart()
			img := f.image("busybox")
			if len(img.RepoTags) != 2 || img.Config.Config.Cmd[0] != "sh" || img.Size == 0 {
				t.Errorf("image %+v", img)
			}
			lower, err := f.Layers(context.Background(), img)
			if err != nil {
				t.Fatal(err)
			}
			cid := id.New()
			w, err := f.Snapshots().CreateWritable(cid, lower, snapshot.WritableOptions{})
			if err != nil {
				t.Fatal(err)
			}
			root := mountWritable(t, w)
			if b, err := os.ReadFile(filepath.Join(root, "etc/motd")); err != nil || string(b) != "hi" {
				t.Errorf("etc/motd: %q %v", b, err)
			}
			if _, err := os.Stat(filepath.Join(root, "etc/passwd")); !os.IsNotExist(err) {
				t.Errorf("etc/passwd should be whited out: %v", err)
			}
			if fi, err := os.Stat(filepath.Join(root, "tmp")); err != nil || fi.Mode()&os.ModeSticky == 0 {
				t.Errorf("tmp: %v %v", fi, err)
			}
			if err := os.WriteFile(filepath.Join(root, "new"), []byte("12345"), 0o644); err != nil {
				t.Fatal(err)
			}
			if n, err := f.Snapshots().Usage(cid); err != nil || n != 5 {
				t.Errorf("usage %d %v, want 5", n, err)
			}
		})
	}
}

func TestLoadFromSkopeo(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src.tar")
	if err := os.WriteFile(src, dockerArchive([]string{"busybox:latest"}, nil, busybox()), 0o600); err != nil {
		t.Fatal(err)
	}
	policy := []string{"--insecure-policy", "copy", "-q"}
	for name, dst := range map[string]string{
		"docker-archive": "docker-archive:%s:busybox:copied",
		"oci-archive":    "oci-archive:%s:busybox:copied",
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t, "")
			out := filepath.Join(dir, name+".tar")
			tool(t, "skopeo", append(policy, "docker-archive:"+src, strings.Replace(dst, "%s", out, 1))...)
			b, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if got := f.mustLoad(b); got != "Loaded image: busybox:copied\n" {
				t.Errorf("messages %q", got)
			}
			f.mustLoad(dockerArchive([]string{"busybox:latest"}, nil, busybox()))
			if a, b := f.image("busybox:copied"), f.image("busybox"); a.ChainID != b.ChainID {
				t.Errorf("chains differ: %s %s", a.ChainID, b.ChainID)
			}
			for _, c := range [][]string{{"gzip", "-kf"}, {"xz", "-kf0"}, {"bzip2", "-kf"}, {"zstd", "-qkf"}} {
				tool(t, c[0], append(c[1:], out)...)
				ext := map[string]string{"gzip": ".gz", "xz": ".xz", "bzip2": ".bz2", "zstd": ".zst"}[c[0]]
				b, err := os.ReadFile(out + ext)
				if err != nil {
					t.Fatal(err)
				}
				if got := f.mustLoad(b); got != "Loaded image: busybox:copied\n" {
					t.Errorf("%s: messages %q", c[0], got)
				}
			}
		})
	}
}

// Archives as kaniko and others with the same library write them: members are
// named by their digests, layers are compressed.
func TestLoadKaniko(t *testing.T) {
	f := open(t, "")
	plain := tarOf(file{name: "a", body: "a"})
	layer := gz(plain)
	config := must(json.Marshal(ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(plain)}}}))
	name, member := digest.FromBytes(config).String(), digest.FromBytes(layer).Encoded()+".tar.gz"
	list := must(json.Marshal([]archive.Entry{{Config: name, RepoTags: []string{"kaniko:1"}, Layers: []string{member}}}))
	if got := f.mustLoad(tarOf(file{name: name, body: string(config)}, file{name: member, body: string(layer)}, file{name: "manifest.json", body: string(list)})); got != "Loaded image: kaniko:1\n" {
		t.Errorf("messages %q", got)
	}
	if got := f.image("kaniko:1").ID.String(); got != name {
		t.Errorf("id %s, want %s", got, name)
	}
}
