package harness

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Config is the part of an image's configuration that tests set.
type Config struct {
	Entrypoint, Cmd, Env  []string            `json:",omitempty"`
	OnBuild               []string            `json:",omitempty"`
	User, WorkingDir      string              `json:",omitempty"`
	StopSignal            string              `json:",omitempty"`
	Labels                map[string]string   `json:",omitempty"`
	Volumes, ExposedPorts map[string]struct{} `json:",omitempty"`
}

// File is one entry of a layer.
type File struct {
	Name string
	Mode int64 // permission bits; a name that ends in / is a directory
	Data []byte
	Link string // a symbolic link
	UID  int
}

// Image is an image made of nothing but this program's memory.
type Image struct {
	Names  []string // "name:tag"
	Config Config
	Layers [][]File
	Author string
}

// born is when every image was made: the same input gives the same ids.
var born = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)

// layer packs files as tar.
func layer(files []File) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Mode: f.Mode, Size: int64(len(f.Data)), ModTime: born, Uid: f.UID, Gid: f.UID, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		switch {
		case f.Link != "":
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, f.Link, 0
		case strings.HasSuffix(f.Name, "/"):
			h.Typeflag = tar.TypeDir
		}
		must(w.WriteHeader(h))
		if h.Size > 0 {
			_, err := w.Write(f.Data)
			must(err)
		}
	}
	must(w.Close())
	return buf.Bytes()
}

// must is for writes to memory, which cannot fail.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// config is the image's configuration blob.
func (im *Image) config(diffs []string) []byte {
	type history struct {
		Created   time.Time `json:"created"`
		CreatedBy string    `json:"created_by"`
	}
	var steps []history
	for i := range diffs {
		steps = append(steps, history{born, fmt.Sprintf("layer %d", i+1)})
	}
	b, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": born, "author": im.Author, "config": im.Config,
		"rootfs":  map[string]any{"type": "layers", "diff_ids": diffs},
		"history": steps,
	})
	must(err)
	return b
}

// ID is the image's id as every engine shows it.
func (im *Image) ID() string {
	var diffs []string
	for _, l := range im.Layers {
		diffs = append(diffs, "sha256:"+digest(layer(l)))
	}
	return "sha256:" + digest(im.config(diffs))
}

// DockerArchive is the image as `docker save` writes it.
func (im *Image) DockerArchive() io.Reader {
	var files []File
	var paths, diffs []string
	for _, l := range im.Layers {
		b := layer(l)
		sum := digest(b)
		path := sum + "/layer.tar"
		files = append(files, File{Name: sum + "/", Mode: 0o755}, File{Name: path, Mode: 0o644, Data: b})
		paths, diffs = append(paths, path), append(diffs, "sha256:"+sum)
	}
	config := im.config(diffs)
	name := digest(config) + ".json"
	manifest, err := json.Marshal([]map[string]any{{"Config": name, "RepoTags": im.Names, "Layers": paths}})
	must(err)
	files = append(files, File{Name: name, Mode: 0o644, Data: config}, File{Name: "manifest.json", Mode: 0o644, Data: manifest})
	return bytes.NewReader(layer(files))
}

// OCIArchive is the image as an OCI layout in a tar; compression is "", gzip
// or zstd.
func (im *Image) OCIArchive(compression string) io.Reader {
	files := []File{{Name: "blobs/", Mode: 0o755}, {Name: "blobs/sha256/", Mode: 0o755}}
	blob := func(mediaType string, b []byte) map[string]any {
		sum := digest(b)
		files = append(files, File{Name: "blobs/sha256/" + sum, Mode: 0o644, Data: b})
		return map[string]any{"mediaType": mediaType, "digest": "sha256:" + sum, "size": len(b)}
	}
	kind := "application/vnd.oci.image.layer.v1.tar"
	if compression != "" {
		kind += "+" + compression
	}
	var layers []map[string]any
	var diffs []string
	for _, l := range im.Layers {
		b := layer(l)
		diffs = append(diffs, "sha256:"+digest(b))
		layers = append(layers, blob(kind, compress(b, compression)))
	}
	marshal := func(v any) []byte {
		b, err := json.Marshal(v)
		must(err)
		return b
	}
	manifest := marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": blob("application/vnd.oci.image.config.v1+json", im.config(diffs)), "layers": layers,
	})
	var heads []map[string]any
	for _, name := range im.Names {
		d := blob("application/vnd.oci.image.manifest.v1+json", manifest)
		d["platform"] = map[string]string{"os": "linux", "architecture": runtime.GOARCH}
		d["annotations"] = map[string]string{"io.containerd.image.name": "docker.io/library/" + name, "org.opencontainers.image.ref.name": name[strings.LastIndexByte(name, ':')+1:]}
		heads = append(heads, d)
	}
	files = append(files,
		File{Name: "oci-layout", Mode: 0o644, Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		File{Name: "index.json", Mode: 0o644, Data: marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": heads})})
	return bytes.NewReader(layer(files))
}

func compress(b []byte, how string) []byte {
	var buf bytes.Buffer
	var w io.WriteCloser
	switch how {
	case "gzip":
		w = gzip.NewWriter(&buf)
	case "zstd":
		z, err := zstd.NewWriter(&buf)
		must(err)
		w = z
	default:
		return b
	}
	_, err := w.Write(b)
	must(err)
	must(w.Close())
	return buf.Bytes()
}

// RootTar is the image's files as one tar, for `import`.
func (im *Image) RootTar() io.Reader {
	var all []File
	for _, l := range im.Layers {
		all = append(all, l...)
	}
	return bytes.NewReader(layer(all))
}

// busybox is read once; the list of applets comes from the program itself.
var busybox = sync.OnceValues(func() ([]File, error) {
	const path = "/bin/busybox"
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("busybox-static is not installed: %w", err)
	}
	list, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox applets: %w", err)
	}
	files := []File{
		{Name: "bin/", Mode: 0o755}, {Name: "bin/busybox", Mode: 0o755, Data: program},
		{Name: "etc/", Mode: 0o755},
		{Name: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n")},
		{Name: "etc/group", Mode: 0o644, Data: []byte("root:x:0:\ndaemon:x:1:\ntty:x:5:\nstaff:x:50:www-data\nwww-data:x:33:\nextra:x:77:www-data\nnogroup:x:65534:\n")},
		{Name: "home/", Mode: 0o755}, {Name: "root/", Mode: 0o700}, {Name: "tmp/", Mode: 0o1777},
		{Name: "usr/", Mode: 0o755}, {Name: "usr/sbin/", Mode: 0o755}, {Name: "var/", Mode: 0o755}, {Name: "var/www/", Mode: 0o755, UID: 33},
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			files = append(files, File{Name: "bin/" + applet, Mode: 0o777, Link: "busybox"})
		}
	}
	return files, nil
})

// Busybox is busybox:latest, made from Debian's static busybox.
func Busybox() (*Image, error) {
	files, err := busybox()
	if err != nil {
		return nil, err
	}
	return &Image{
		Names:  []string{"busybox:latest"},
		Config: Config{Cmd: []string{"sh"}, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
		Layers: [][]File{files},
	}, nil
}

// LoadBusybox gives busybox:latest to the engine.
func (c Client) LoadBusybox() error {
	im, err := Busybox()
	if err != nil {
		return err
	}
	return c.Load(im.DockerArchive())
}

// Program builds a Go main package as a static program and returns its path.
// The go command's cache makes the second time cheap.
func Program(dir, pkg string) (string, error) {
	out := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Dir = Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, text)
	}
	return out, nil
}
