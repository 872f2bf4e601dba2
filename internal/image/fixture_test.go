package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"

	"github.com/wherry-engine/wherry/internal/image/archive"
	"github.com/wherry-engine/wherry/test/promise"
)

// needRoot skips without root, or fails where root was promised.
func needRoot(t testing.TB) {
	t.Helper()
	promise.Root(t)
}

// fixture is a store in a fresh directory.
type fixture struct {
	*Store
	t      testing.TB
	root   string
	config Config
	events []string
}

func open(t testing.TB, driver string) *fixture {
	needRoot(t)
	f := &fixture{t: t, root: t.TempDir()}
	f.config = Config{Root: f.root, Driver: driver, Builtin: map[string]func() []byte{"hello-world": func() []byte { return []byte("\x7fELF hello") }},
		Events: func(m events.Message) {
			f.events = append(f.events, string(m.Action)+" "+m.Actor.Attributes["name"])
		}}
	f.reopen()
	t.Cleanup(func() { f.Store.Close() })
	return f
}

func (f *fixture) reopen() {
	f.t.Helper()
	s, err := Open(context.Background(), f.config)
	if err != nil {
		f.t.Fatal(err)
	}
	f.Store = s
}

// restart closes the store and opens it again.
func (f *fixture) restart() {
	f.t.Helper()
	if err := f.Close(); err != nil {
		f.t.Fatal(err)
	}
	f.reopen()
}

// load loads an archive and returns the messages of kind stream.
func (f *fixture) load(archive []byte) (string, error) {
	var b strings.Builder
	err := f.Load(context.Background(), bytes.NewReader(archive), false, nil, func(m jsonstream.Message) { b.WriteString(m.Stream) })
	return b.String(), err
}

func (f *fixture) mustLoad(archive []byte) string {
	f.t.Helper()
	out, err := f.load(archive)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

func (f *fixture) image(ref string) *Image {
	f.t.Helper()
	img, err := f.Resolve(context.Background(), ref)
	if err != nil {
		f.t.Fatal(err)
	}
	return img
}

// leftovers lists what the data root holds besides its frame.
func (f *fixture) leftovers() []string {
	f.t.Helper()
	f.snapshots.Settle()
	var left []string
	for _, pattern := range []string{"content/blobs/*/*", "content/ingest/*", "layers/snapshots/*", "layers/rw/*/*", "layers/trash/*"} {
		m, err := filepath.Glob(filepath.Join(f.root, pattern))
		if err != nil {
			f.t.Fatal(err)
		}
		left = append(left, m...)
	}
	return left
}

func (f *fixture) wantEmpty() {
	f.t.Helper()
	if left := f.leftovers(); len(left) > 0 {
		f.t.Errorf("left behind: %v", left)
	}
}

// file is a member of a tar made by tarOf.
type file struct {
	name, body string
	h          tar.Header
}

func tarOf(files ...file) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := f.h
		h.Name = f.name
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(f.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1700000000, 0)
		}
		h.Size = int64(len(f.body))
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
		if _, err := io.WriteString(w, f.body); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func gz(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

// dockerArchive makes what `docker save` made before it knew OCI layouts.
func dockerArchive(tags []string, labels map[string]string, layers ...[]byte) []byte {
	var diffs []digest.Digest
	var files []file
	var names []string
	for i, l := range layers {
		plain := l
		if bytes.HasPrefix(l, []byte{0x1f, 0x8b}) {
			r, _ := gzip.NewReader(bytes.NewReader(l))
			plain, _ = io.ReadAll(r)
		}
		diffs = append(diffs, digest.FromBytes(plain))
		dir := fmt.Sprintf("%064x", i+1)
		names = append(names, dir+"/layer.tar")
		files = append(files, file{name: dir + "/"}, file{name: dir + "/VERSION", body: "1.0"}, file{name: dir + "/json", body: "{}"}, file{name: dir + "/layer.tar", body: string(l)})
	}
	config := must(json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "created": "2026-02-03T04:05:06.7Z",
		"config":  map[string]any{"Cmd": []string{"sh"}, "Env": []string{"PATH=/bin"}, "Labels": labels},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": diffs},
		"history": []map[string]any{{"created": "2026-02-03T04:05:06Z", "created_by": "/bin/sh -c #(nop) ADD file"}, {"created_by": "CMD [\"sh\"]", "empty_layer": true}},
	}))
	cname := digest.FromBytes(config).Encoded() + ".json"
	files = append(files, file{name: cname, body: string(config)},
		file{name: "manifest.json", body: string(must(json.Marshal([]archive.Entry{{Config: cname, RepoTags: tags, Layers: names}})))})
	return tarOf(files...)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// busybox is a root file system of the host's static busybox, or of a stand-in.
func busybox() []byte {
	body, err := os.ReadFile("/bin/busybox")
	if err != nil {
		body = []byte("#!/bin/true\n")
	}
	return tarOf(file{name: "bin/"}, file{name: "bin/busybox", body: string(body)},
		file{name: "bin/sh", h: tar.Header{Typeflag: tar.TypeSymlink, Linkname: "busybox"}},
		file{name: "etc/"}, file{name: "etc/passwd", body: "root:x:0:0:root:/root:/bin/sh\n"}, file{name: "tmp/", h: tar.Header{Mode: 0o1777}})
}

// tool runs a program that the host may not have.
func tool(t testing.TB, name string, args ...string) {
	t.Helper()
	promise.Program(t, name)
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func linkTo(name string) tar.Header { return tar.Header{Typeflag: tar.TypeSymlink, Linkname: name} }
