// Package members owns what lies in an image archive, of docker's or OCI's form:
// it puts the blobs into the store and keeps the documents that describe them.
package members

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/archive"
	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/image/manifest"
)

// Bounds on an archive's table of contents. Blobs themselves have none but the disk.
const (
	maxMembers = 100_000
	maxLinks   = 32
)

// List is what an image archive was found to hold. All but the few documents
// that describe it went straight into the content store.
type List struct {
	Docs  map[string][]byte // index.json, manifest.json, oci-layout
	store *content.Store
	blobs map[string]ocispec.Descriptor // path -> digest and size
	links map[string]string             // path -> path
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// Scan reads the whole archive once, from front to back.
func Scan(ctx context.Context, store *content.Store, r io.Reader) (*List, error) {
	plain, _, err := archive.Decompress(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	m := &List{store: store, blobs: map[string]ocispec.Descriptor{}, links: map[string]string{}, Docs: map[string][]byte{}}
	tr := tar.NewReader(plain)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, broken(err)
		}
		if n == maxMembers {
			return nil, invalid("image archive has more than %d members", maxMembers)
		}
		if err := m.member(ctx, h, tr); err != nil {
			return nil, broken(err)
		}
	}
	// Whoever writes the archive may wait until all of it is taken.
	_, err = io.Copy(io.Discard, plain)
	return m, broken(err)
}

// broken gives damage of the archive the kind that it is the client's.
func broken(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("image archive: %v", err)
	}
	return err
}

func (m *List) member(ctx context.Context, h *tar.Header, r io.Reader) error {
	// Names are only keys of maps here, never paths on this host; cleaning
	// them makes "./x" and "x" one.
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	switch h.Typeflag {
	case tar.TypeSymlink:
		m.links[name] = strings.TrimPrefix(path.Join("/", path.Dir(name), h.Linkname), "/") //nolint:gosec // a key, never a path
		return nil
	case tar.TypeLink:
		m.links[name] = strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")
		return nil
	case tar.TypeReg:
	default:
		return nil
	}
	if _, ok := m.blobs[name]; ok || m.Docs[name] != nil {
		return invalid("ambiguous image archive: %s is in it twice", name)
	}
	switch base := path.Base(name); {
	case name == "index.json", name == "manifest.json", name == "oci-layout":
		if h.Size > manifest.MaxSize {
			return invalid("%s has %d bytes, more than %d", name, h.Size, manifest.MaxSize)
		}
		b, err := io.ReadAll(io.LimitReader(r, h.Size))
		m.Docs[name] = b
		return err
	case name == "repositories", base == "VERSION", base == "json":
		return nil // the first image format's, said better by manifest.json
	}
	var want ocispec.Descriptor
	if f := strings.Split(name, "/"); len(f) == 3 && f[0] == "blobs" {
		want = ocispec.Descriptor{Digest: digest.NewDigestFromEncoded(digest.Algorithm(f[1]), f[2]), Size: h.Size}
		if err := want.Digest.Validate(); err != nil {
			return invalid("%s: %v", name, err)
		}
	}
	d, _, err := m.store.Write(ctx, r, want)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	m.blobs[name] = d
	return nil
}

// Blob finds a member by path, following links inside the archive.
func (m *List) Blob(name string) (ocispec.Descriptor, error) {
	at := strings.TrimPrefix(path.Clean("/"+name), "/")
	for range maxLinks {
		if d, ok := m.blobs[at]; ok {
			return d, nil
		}
		next, ok := m.links[at]
		if !ok {
			break
		}
		at = next
	}
	return ocispec.Descriptor{}, invalid("image archive: %s is missing", name)
}
