package registry

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"
)

// inImage is the configuration file that the image's command names.
const inImage = `version: 0.1
log:
  level: info
storage:
  filesystem:
    rootdirectory: /var/lib/registry
http:
  addr: :5000
  headers:
    X-Content-Type-Options: [nosniff]
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
`

// made is the time of everything in the image: the same program always is the
// same image.
var made = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Image writes a docker-archive with the image that runs this very program as
// a registry, laid out as the well-known registry image is.
func Image(w io.Writer, names []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	layer, err := archive([]member{
		{name: "bin/", mode: 0o755}, {name: "bin/registry", mode: 0o755, body: program},
		{name: "etc/", mode: 0o755}, {name: "etc/distribution/", mode: 0o755}, {name: "etc/distribution/config.yml", mode: 0o644, body: []byte(inImage)},
		{name: "etc/passwd", mode: 0o644, body: []byte("root:x:0:0:root:/:/sbin/nologin\n")},
		{name: "tmp/", mode: 0o1777}, {name: "var/", mode: 0o755}, {name: "var/lib/", mode: 0o755}, {name: "var/lib/registry/", mode: 0o755},
	})
	if err != nil {
		return err
	}
	type object = map[string]any
	diff := sha256.Sum256(layer)
	config, err := json.Marshal(object{
		"architecture": runtime.GOARCH, "os": "linux", "created": made,
		"config": object{
			"Entrypoint": []string{"/bin/registry"}, "Cmd": []string{"serve", "/etc/distribution/config.yml"},
			"Env":          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			"ExposedPorts": object{"5000/tcp": object{}}, "Volumes": object{"/var/lib/registry": object{}},
		},
		"rootfs": object{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(diff[:])}},
		"history": []object{
			{"created": made, "created_by": "COPY registry /bin/registry", "comment": "wherry-registry"},
			{"created": made, "created_by": `ENTRYPOINT ["/bin/registry"]`, "empty_layer": true},
		},
	})
	if err != nil {
		return err
	}
	id := sha256.Sum256(config)
	manifest, err := json.Marshal([]object{{"Config": hex.EncodeToString(id[:]) + ".json", "RepoTags": names, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	all, err := archive([]member{
		{name: hex.EncodeToString(id[:]) + ".json", mode: 0o644, body: config}, {name: "layer.tar", mode: 0o644, body: layer}, {name: "manifest.json", mode: 0o644, body: manifest},
	})
	if err != nil {
		return err
	}
	if _, err := w.Write(all); err != nil {
		return fmt.Errorf("write the image: %w", err)
	}
	return nil
}

// member is one file, or with a slash at the end of its name a directory.
type member struct {
	name string
	mode int64
	body []byte
}

func archive(list []member) ([]byte, error) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, m := range list {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: m.name, Mode: m.mode, Size: int64(len(m.body)), ModTime: made}
		if m.name[len(m.name)-1] == '/' {
			h.Typeflag = tar.TypeDir
		}
		if err := tw.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := tw.Write(m.body); err != nil {
			return nil, err
		}
	}
	err := tw.Close()
	return b.Bytes(), err
}
