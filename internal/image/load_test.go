package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/internal/id"
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
