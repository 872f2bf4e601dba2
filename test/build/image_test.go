package build

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

// made is an image as a builder left it.
type made struct {
	tree    map[string]string // path -> what is there
	config  string
	history string
}

// readArchive reads an image from what `save` writes, in docker's form.
func readArchive(b []byte) (*made, error) {
	files := map[string][]byte{}
	links := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("archive: %w", err)
		}
		if h.Typeflag == tar.TypeSymlink || h.Typeflag == tar.TypeLink {
			links[h.Name] = path.Join(path.Dir(h.Name), h.Linkname)
			continue
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
	var manifest []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	if len(manifest) != 1 {
		return nil, fmt.Errorf("%d images in the archive", len(manifest))
	}
	m := &made{tree: map[string]string{}}
	for _, l := range manifest[0].Layers {
		if to, ok := links[l]; ok {
			l = to
		}
		if err := m.apply(files[l]); err != nil {
			return nil, fmt.Errorf("layer %s: %w", l, err)
		}
	}
	return m, m.describe(files[manifest[0].Config])
}

// apply puts a layer on top.
func (m *made) apply(b []byte) error {
	raw, err := plain(b)
	if err != nil {
		return err
	}
	added := map[string]bool{}
	for r := tar.NewReader(raw); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.Trim(path.Clean("/"+h.Name), "/")
		dir, base := path.Split(name)
		if base == ".wh..wh..opq" {
			m.remove(strings.TrimSuffix(dir, "/"), added, false)
			continue
		}
		if gone, ok := strings.CutPrefix(base, ".wh."); ok {
			m.remove(dir+gone, added, true)
			continue
		}
		if name == "" {
			continue // the root directory is not part of what is compared
		}
		if h.Typeflag != tar.TypeDir {
			m.remove(name, added, false)
		}
		added[name] = true
		if h.Typeflag == tar.TypeLink {
			m.tree[name] = m.tree[strings.Trim(path.Clean("/"+h.Linkname), "/")]
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		m.tree[name] = entry(h, data)
	}
}

// entry is one line about a file: kind and mode, owner, and what is in it.
func entry(h *tar.Header, data []byte) string {
	mode := h.FileInfo().Mode()
	text := fmt.Sprintf("%v %d:%d", mode, h.Uid, h.Gid)
	switch h.Typeflag {
	case tar.TypeReg:
		const short = 300
		if len(data) <= short {
			text += fmt.Sprintf(" %q", data)
		} else {
			text += fmt.Sprintf(" %d bytes %x", len(data), sha256.Sum256(data))[:40]
		}
	case tar.TypeSymlink:
		text += " -> " + h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		text += fmt.Sprintf(" %d,%d", h.Devmajor, h.Devminor)
	}
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			text += fmt.Sprintf(" %s=%q", name, h.PAXRecords[k])
		}
	}
	return text
}

// remove takes away what lower layers have at name and below.
func (m *made) remove(name string, added map[string]bool, self bool) {
	if self && !added[name] {
		delete(m.tree, name)
	}
	for p := range m.tree {
		if strings.HasPrefix(p, name+"/") && !added[p] {
			delete(m.tree, p)
		}
	}
}

// than is the tree as lines, without what base has as well.
func (m *made) than(base *made) string {
	var b strings.Builder
	all := maps.Clone(m.tree)
	if base != nil {
		maps.Copy(all, base.tree)
	}
	for _, p := range slices.Sorted(maps.Keys(all)) {
		was := ""
		if base != nil {
			was = base.tree[p]
		}
		switch is := m.tree[p]; is {
		case was:
		case "":
			fmt.Fprintf(&b, "/%s gone\n", p)
		default:
			fmt.Fprintf(&b, "/%s %s\n", p, is)
		}
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}

// describe reads the configuration. What only says how or when it was made is
// left out.
func (m *made) describe(b []byte) error {
	var c struct {
		Author       string
		Architecture string
		OS           string
		Config       map[string]any
		History      []struct {
			CreatedBy  string `json:"created_by"`
			EmptyLayer bool   `json:"empty_layer"`
			Comment    string
		}
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return fmt.Errorf("image configuration: %w", err)
	}
	for _, k := range []string{"Hostname", "Domainname", "AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce", "Image", "ArgsEscaped"} {
		delete(c.Config, k)
	}
	if l, ok := c.Config["Labels"].(map[string]any); ok {
		delete(l, "io.buildah.version")
	}
	var out strings.Builder
	line := func(k string, v any) error {
		if empty(v) {
			return nil
		}
		b, err := json.Marshal(v)
		fmt.Fprintf(&out, "%s %s\n", k, b)
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(c.Config)) {
		if err := line(k, c.Config[k]); err != nil {
			return err
		}
	}
	if err := errors.Join(line("author", c.Author), line("platform", c.OS+"/"+c.Architecture)); err != nil {
		return err
	}
	m.config = out.String()
	var steps strings.Builder
	for _, h := range c.History {
		kind := "layer"
		if h.EmptyLayer {
			kind = "empty"
		}
		fmt.Fprintf(&steps, "%s %s\n", kind, strings.ReplaceAll(h.CreatedBy, "\n", `\n`))
	}
	m.history = steps.String()
	return nil
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case bool:
		return !v
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}
