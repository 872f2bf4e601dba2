package bootstrap

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/wherry-engine/wherry/internal/archive"
)

// data opens the files of a .deb, which is an ar archive of three members.
func data(deb []byte) (io.ReadCloser, error) {
	const magic, header = "!<arch>\n", 60
	if !bytes.HasPrefix(deb, []byte(magic)) {
		return nil, errors.New("not a Debian package")
	}
	for at := len(magic); at+header <= len(deb); {
		h := deb[at : at+header]
		size, err := strconv.Atoi(strings.TrimSpace(string(h[48:58])))
		if err != nil || size < 0 || at+header+size > len(deb) {
			return nil, errors.New("damaged Debian package")
		}
		body := deb[at+header : at+header+size]
		if strings.HasPrefix(string(h[:16]), "data.tar") {
			plain, _, err := archive.Decompress(bytes.NewReader(body))
			return plain, err
		}
		at += header + size + size%2
	}
	return nil, errors.New("Debian package without data")
}

// merged are the directories that are links into /usr since Debian 12.
var merged = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// root writes the tar of a root file system.
type root struct {
	tw   *tar.Writer
	dirs map[string]bool
}

func newRoot(w io.Writer) *root { return &root{tar.NewWriter(w), map[string]bool{}} }

// links makes the links of a merged /usr.
func (r *root) links() error {
	for _, name := range merged {
		if err := r.directory("usr/" + name); err != nil {
			return err
		}
		if err := r.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: "usr/" + name, Mode: 0o777}); err != nil {
			return err
		}
		r.dirs[name] = true
	}
	return nil
}

// directory makes a directory and those above it, unless they are there.
func (r *root) directory(name string) error {
	if name == "." || name == "/" || r.dirs[name] {
		return nil
	}
	if err := r.directory(path.Dir(name)); err != nil {
		return err
	}
	r.dirs[name] = true
	return r.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755})
}

// file writes one file.
func (r *root) file(name string, mode int64, body []byte) error {
	if err := r.directory(path.Dir(name)); err != nil {
		return err
	}
	if err := r.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(body))}); err != nil {
		return err
	}
	_, err := r.tw.Write(body)
	return err
}

// moved is where a path lies when /usr is merged.
func moved(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	top, rest, below := strings.Cut(name, "/")
	for _, m := range merged {
		if top == m && below {
			return "usr/" + top + "/" + rest
		}
	}
	return name
}

// unpack adds the files of a package, those that keep wants (nil: all).
func (r *root) unpack(deb []byte, keep func(name string) bool) error {
	in, err := data(deb)
	if err != nil {
		return err
	}
	defer in.Close()
	tr := tar.NewReader(in)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := moved(h.Name)
		if name == "" || keep != nil && !keep(name) {
			continue
		}
		switch h.Typeflag {
		case tar.TypeDir:
			if r.dirs[name] {
				continue
			}
			r.dirs[name] = true
			name += "/"
		case tar.TypeSymlink:
			if r.dirs[name] {
				continue // one of ours
			}
		case tar.TypeLink:
			h.Linkname = moved(h.Linkname)
		case tar.TypeReg:
		default:
			return fmt.Errorf("%s is of the unexpected kind %q", h.Name, h.Typeflag)
		}
		h.Name, h.Format = name, tar.FormatUnknown
		if err := r.tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(r.tw, tr); err != nil { //nolint:gosec // packages of a signed archive
			return err
		}
	}
}
