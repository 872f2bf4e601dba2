// Package flatten makes one layer of several that lie on each other, for
// --squash: what upper ones replace or remove is gone, and what they remove of
// the layers further down is still removed.
package flatten

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// Layer is an uncompressed tar that can be read at any place, as content
// stores give it.
type Layer interface {
	io.ReaderAt
	Size() int64
}

// item is an entry of a layer and where its data begins.
type item struct {
	*tar.Header
	layer  Layer
	n      int // of the layer
	offset int64
}

func (i *item) data() io.Reader { return io.NewSectionReader(i.layer, i.offset, i.Size) }

// merger collects from the uppermost layer downwards.
type merger struct {
	have   map[string]*item
	white  map[string]*item // removed from what is further down
	opaque map[string]*item // directories that hide what is further down
	self   map[string]bool  // in a lower layer the path and all below it is hidden
	below  map[string]bool  // only what is below it
	files  []map[string]*item
}

// Merge writes the layers, the lowest first, as one tar.
func Merge(w io.Writer, layers []Layer) error {
	m := merger{
		have: map[string]*item{}, white: map[string]*item{}, opaque: map[string]*item{},
		self: map[string]bool{}, below: map[string]bool{}, files: make([]map[string]*item, len(layers)),
	}
	for n := len(layers) - 1; n >= 0; n-- {
		if err := m.add(n, layers[n]); err != nil {
			return fmt.Errorf("layer %d: %w", n, err)
		}
	}
	return m.write(w)
}

func clean(name string) string { return strings.Trim(path.Clean("/"+name), "/") }

// hidden tells whether a layer above hides a path.
func (m *merger) hidden(name string) bool {
	if m.self[name] {
		return true
	}
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		if dir == "." {
			dir = ""
		}
		if m.self[dir] || m.below[dir] {
			return true
		}
		if dir == "" {
			return false
		}
	}
}

// add takes from a layer what those above leave of it.
func (m *merger) add(n int, l Layer) error {
	m.files[n] = map[string]*item{}
	var self, below []string // hide in the next layers, not in this one
	src := io.NewSectionReader(l, 0, l.Size())
	for r := tar.NewReader(src); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		at, err := src.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		i := &item{Header: h, layer: l, n: n, offset: at}
		name := clean(h.Name)
		dir, base := path.Split(name)
		dir = strings.TrimSuffix(dir, "/")
		if base == opaque {
			below = append(below, dir)
			if !m.hidden(name) {
				m.opaque[dir] = i
			}
			continue
		}
		if gone, ok := strings.CutPrefix(base, whiteout); ok {
			name = path.Join(dir, gone)
			self = append(self, name)
			if !m.hidden(name) && m.white[name] == nil {
				m.white[name] = i
			}
			continue
		}
		if h.Typeflag == tar.TypeReg {
			m.files[n][name] = i
		}
		if h.Typeflag != tar.TypeDir {
			below = append(below, name)
		}
		if above := m.have[name]; m.hidden(name) || above != nil && above.n != n {
			continue
		}
		m.have[name] = i
	}
	for _, p := range self {
		m.self[p] = true
	}
	for _, p := range below {
		m.below[p] = true
	}
	return nil
}

func (m *merger) write(w io.Writer) error {
	for name, i := range m.white {
		// What is removed further down and made again here need not be removed,
		// unless it is a directory that would be merged with the old one.
		if is := m.have[name]; is != nil {
			delete(m.white, name)
			if is.Typeflag == tar.TypeDir {
				m.opaque[name] = i
			}
		}
	}
	tw := tar.NewWriter(w)
	var links []string
	for _, name := range slices.Sorted(maps.Keys(m.have)) {
		i := m.have[name]
		if i.Typeflag == tar.TypeLink {
			links = append(links, name)
			continue
		}
		if err := put(tw, i.Header, i); err != nil {
			return err
		}
	}
	if err := m.links(tw, links); err != nil {
		return err
	}
	for _, dir := range slices.Sorted(maps.Keys(m.opaque)) {
		if err := mark(tw, m.opaque[dir], path.Join(dir, opaque)); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.white)) {
		if err := mark(tw, m.white[name], path.Join(path.Dir(name), whiteout+path.Base(name))); err != nil {
			return err
		}
	}
	return tw.Close()
}

// links writes hard links. One whose target is gone becomes the file itself,
// and the others of it links to that.
func (m *merger) links(tw *tar.Writer, names []string) error {
	first := map[*item]string{}
	for _, name := range names {
		i := m.have[name]
		target := clean(i.Linkname)
		file := m.files[i.n][target]
		if file == nil {
			return fmt.Errorf("%s is a link to %s, which is not in its layer", name, i.Linkname)
		}
		h := *i.Header
		if m.have[target] == file {
			if err := tw.WriteHeader(&h); err != nil {
				return err
			}
			continue
		}
		if to := first[file]; to != "" {
			h.Linkname = to
			if err := tw.WriteHeader(&h); err != nil {
				return err
			}
			continue
		}
		first[file] = i.Name
		h = *file.Header
		h.Name = i.Name
		if err := put(tw, &h, file); err != nil {
			return err
		}
	}
	return nil
}

func put(tw *tar.Writer, h *tar.Header, i *item) error {
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	_, err := io.Copy(tw, i.data())
	return err
}

// mark writes an empty file that says what is removed.
func mark(tw *tar.Writer, i *item, name string) error {
	return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: i.ModTime, Format: tar.FormatPAX})
}
