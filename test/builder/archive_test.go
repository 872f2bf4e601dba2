package builder

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// layersIn reads a saved image: which blobs it has that are archives, each
// checked against its name.
func layersIn(t *testing.T, saved string) (out []string) {
	t.Helper()
	f, err := os.Open(saved)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		name, ok := strings.CutPrefix(h.Name, "blobs/sha256/")
		if !ok || name == "" {
			continue
		}
		var content bytes.Buffer
		sum := sha256.New()
		if _, err := io.Copy(io.MultiWriter(sum, &content), r); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != name {
			t.Errorf("%s has the digest %s", h.Name, got)
		}
		if b := content.Bytes(); len(b) > 262 && string(b[257:262]) == "ustar" {
			out = append(out, name)
		}
	}
}

// An image that was built here has the archives of its layers without their
// bytes being on the disk; it can be saved and pushed all the same, whatever
// becomes of the cache and the engine, and nothing of it stays.
func TestArchives(t *testing.T) {
	e := engine(t, "")
	host := e.ServeRegistry(t, "127.0.0.1:5000")
	large := strings.Repeat("0123456789abcde\n", 1<<17)
	dir := files(t, map[string]string{
		"Dockerfile": "FROM busybox\nCOPY large /\nRUN rm /bin/ash && mkdir -p /deep/er && ln /large /deep/er/link && mkfifo /deep/fifo && rm -r /home && mkdir /home && touch /home/new\n",
		"large":      large,
	})
	thin := func() (list []string) {
		entries, err := os.ReadDir(filepath.Join(e.DataRoot(), "content", "thin"))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			list = append(list, entry.Name())
		}
		return list
	}
	wherry(t, e, "build", "-t", "made", dir)
	// Of the second one /home stands for what was there before.
	if list := thin(); len(list) != 2 {
		t.Errorf("kept by their files are %v", list)
	}
	wherry(t, e, "builder", "prune", "-af")
	e.Kill()
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	saved := filepath.Join(t.TempDir(), "saved.tar")
	wherry(t, e, "save", "-o", saved, "made")
	if layers := layersIn(t, saved); len(layers) != 3 {
		t.Errorf("layers %v", layers)
	}
	wherry(t, e, "tag", "made", host+"/made")
	wherry(t, e, "push", host+"/made")
	look := []string{"sh", "-c", "ls -l /deep/er /home | grep -c . && md5sum /large /deep/er/link && ls /bin/ash"}
	want := "x"
	for n, back := range [][]string{nil, {"load", "-i", saved}, {"pull", "-q", host + "/made"}} {
		name := "made"
		if back != nil {
			wherry(t, e, back...)
		}
		if n == 2 {
			name = host + "/made"
		}
		out, _, _, err := e.CLI(append([]string{"run", "--rm", "--network", "none", name}, look...)...)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 && out != want {
			t.Errorf("after %v: %q, want %q", back, out, want)
		}
		want = out
		wherry(t, e, "rmi", "-f", "made", host+"/made")
		if list := thin(); len(list) != 0 {
			t.Errorf("after %v and its removal: %v", back, list)
		}
		if n == 0 && strings.Count(out, "\n") < 3 {
			t.Errorf("the image has %q", out)
		}
	}
}

// A layer of which a file is gone is named by save, before anything of an archive
// is sent, and by push; what they say to do about it helps.
func TestArchiveDamaged(t *testing.T) {
	e := engine(t, "")
	host := e.ServeRegistry(t, "127.0.0.1:5000")
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY some /deep/some\n", "some": "content\n"})
	wherry(t, e, "build", "-q", "-t", "made", dir)
	wherry(t, e, "tag", "made", host+"/made")
	list, err := filepath.Glob(filepath.Join(e.DataRoot(), "layers", "snapshots", "*", "fs", "deep", "some"))
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if err := os.Remove(list[0]); err != nil {
		t.Fatal(err)
	}
	harness.Require(t, "docker28")
	saved := filepath.Join(t.TempDir(), "saved.tar")
	for _, args := range [][]string{{harness.Binary("wherry"), "save", "-o", saved, "made"}, {harness.DockerCLI(), "save", "-o", saved, "made"}, {harness.Binary("wherry"), "push", host + "/made"}} {
		out, code := client(t, e, nil, nil, args...)
		if code == 0 || !strings.Contains(out, "is damaged: ") || !strings.Contains(out, "deep/some") {
			t.Errorf("%v: exit %d\n%s", args, code, out)
		}
		if args[1] == "save" && (!strings.Contains(out, "rmi ") || !strings.Contains(out, "builder prune -a")) {
			t.Errorf("%v: no way out\n%s", args, out)
		}
		if _, err := os.Stat(saved); err == nil {
			t.Errorf("%v left an archive", args)
		}
	}
	wherry(t, e, "rmi", "made", host+"/made")
	wherry(t, e, "builder", "prune", "-af")
	wherry(t, e, "build", "-q", "-t", "made", dir)
	wherry(t, e, "save", "-o", saved, "made")
	if layers := layersIn(t, saved); len(layers) != 2 {
		t.Errorf("layers %v", layers)
	}
}
