package build

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
)

// imageID is the id under which the engine knows the result, or the digest of
// one that went elsewhere.
func imageID(res map[string]string) string {
	if id := res[exptypes.ExporterImageConfigDigestKey]; id != "" {
		return id
	}
	return res[exptypes.ExporterImageDigestKey]
}

// places looks, before anything is built, whether the files that the user asked
// for can be where he wants them.
func (o *options) places() error {
	for _, f := range [][2]string{{"--iidfile", o.iidFile}, {"--metadata-file", o.metadataFile}} {
		flag, file := f[0], f[1]
		if file == "" {
			continue
		}
		in, err := os.Stat(filepath.Dir(file))
		if err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
		if !in.IsDir() {
			return fmt.Errorf("%s: %s is not a directory", flag, filepath.Dir(file))
		}
		if is, err := os.Stat(file); err == nil && is.IsDir() {
			return fmt.Errorf("%s: %s is a directory", flag, file)
		}
	}
	return nil
}

// forget removes an id from before: no build that fails leaves an old one. What is
// no file, a terminal or a pipe, stays.
func (o *options) forget() error {
	if is, err := os.Lstat(o.iidFile); o.iidFile == "" || err != nil || !is.Mode().IsRegular() {
		return nil
	}
	if err := os.Remove(o.iidFile); err != nil {
		return fmt.Errorf("removing image ID file: %w", err)
	}
	return nil
}

// writeMetadata writes what the exporters answered as one JSON object; values
// that are JSON in base64 are unfolded.
func writeMetadata(path, ref string, res map[string]string, warnings []client.VertexWarning) error {
	out := map[string]any{"buildx.build.ref": "default/default/" + ref}
	for k, v := range res {
		b, err := base64.StdEncoding.DecodeString(v)
		var object map[string]any
		if err != nil || json.Unmarshal(b, &object) != nil {
			out[k] = v
			continue
		}
		out[k] = json.RawMessage(b)
	}
	if len(warnings) > 0 {
		out["buildx.build.warnings"] = warnings
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("writing metadata file: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(b, '\n'))
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chmod(tmp.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	return err
}
