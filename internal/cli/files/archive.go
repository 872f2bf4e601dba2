package files

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// pack writes the local file or directory src as a tar stream; the plan and
// src.rename say under which names.
func pack(w io.Writer, src place, p plan) error {
	t := tar.NewWriter(w)
	dir, base := split(src.path)
	name := base
	if src.rename != "" {
		name = src.rename
	}
	links := map[[2]uint64]string{}
	root := filepath.Join(dir, base)
	err := filepath.WalkDir(root, func(file string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		entry := name
		if rel != "." {
			entry = name + "/" + filepath.ToSlash(rel)
		}
		return packOne(t, file, p.name(entry), links)
	})
	if err != nil {
		return err
	}
	return t.Close()
}

func packOne(t *tar.Writer, file, name string, links map[[2]uint64]string) error {
	st, err := os.Lstat(file)
	if err != nil {
		return err
	}
	if st.Mode()&os.ModeSocket != 0 {
		return nil
	}
	h := &tar.Header{Name: name, ModTime: st.ModTime().Truncate(time.Second), Format: tar.FormatPAX}
	inode, err := describe(h, file, st)
	if err != nil {
		return err
	}
	switch st.Mode().Type() {
	case 0:
		h.Typeflag, h.Size = tar.TypeReg, st.Size()
	case os.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case os.ModeSymlink:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(file); err != nil {
			return err
		}
	case os.ModeNamedPipe:
		h.Typeflag = tar.TypeFifo
	default:
		h.Typeflag = tar.TypeBlock
		if st.Mode()&os.ModeCharDevice != 0 {
			h.Typeflag = tar.TypeChar
		}
	}
	if inode != [2]uint64{} {
		if first, ok := links[inode]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return t.WriteHeader(h)
		}
		links[inode] = name
	}
	if h.Typeflag != tar.TypeReg {
		return t.WriteHeader(h)
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.CopyN(t, f, h.Size)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s became shorter while it was read", file)
	}
	return err
}

// unpack writes a tar stream below the plan's directory. The stream comes from
// a container, so nothing in it can reach out of that directory: every path is
// resolved below it, and links that lead away are made but not followed.
func unpack(r io.Reader, p plan) error {
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	type stamp struct {
		name string
		at   time.Time
	}
	var dirs []stamp
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name := path.Clean(strings.TrimPrefix(p.name(h.Name), "/"))
		if name == ".." || strings.HasPrefix(name, "../") {
			return fmt.Errorf("%q is outside of %q", h.Name, p.dir)
		}
		if name == "." || name == "" {
			continue
		}
		h.Linkname = linkName(p, h)
		if err := unpackOne(root, p.dir, name, h, t); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			dirs = append(dirs, stamp{name, h.ModTime})
		}
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := root.Chtimes(dirs[i].name, dirs[i].at, dirs[i].at); err != nil {
			return err
		}
	}
	return nil
}

func linkName(p plan, h *tar.Header) string {
	if h.Typeflag != tar.TypeLink {
		return h.Linkname
	}
	return path.Clean(strings.TrimPrefix(p.name(h.Linkname), "/"))
}

func unpackOne(root *os.Root, dest, name string, h *tar.Header, r io.Reader) error {
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if st, err := root.Lstat(name); err == nil {
		full := filepath.Join(dest, name)
		switch dir := h.Typeflag == tar.TypeDir; {
		case st.IsDir() && dir:
			return root.Chmod(name, h.FileInfo().Mode())
		case st.IsDir():
			return fmt.Errorf("cannot overwrite directory %q with non-directory %q", full, dest)
		case dir:
			return fmt.Errorf("cannot overwrite non-directory %q with directory %q", full, dest)
		}
		if err := root.Remove(name); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(name, 0o700); err != nil {
			return err
		}
	case tar.TypeReg, '\x00':
		return unpackFile(root, name, h, r)
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return root.Link(h.Linkname, name)
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		if err := makeNode(root, name, h); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unhandled tar header type %d", h.Typeflag)
	}
	return finish(root, name, h)
}

func unpackFile(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return finish(root, name, h)
}

// finish sets mode and time. The owner is who copies.
func finish(root *os.Root, name string, h *tar.Header) error {
	if err := root.Chmod(name, h.FileInfo().Mode()&(os.ModePerm|os.ModeSetuid|os.ModeSetgid|os.ModeSticky)); err != nil {
		return err
	}
	return root.Chtimes(name, h.ModTime, h.ModTime)
}
