// Package archive owns the archives that images are saved to and loaded from: tar
// files of docker's form, of OCI's, or both in one. Blobs pass between them and
// the content store byte for byte.
package archive

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

	compressed "github.com/wherry-engine/wherry/internal/archive"
	"github.com/wherry-engine/wherry/internal/image/manifest"
	"github.com/wherry-engine/wherry/internal/image/tree"
)

// Bounds on an archive's table of contents. Blobs themselves have none but the disk.
const (
	maxMembers = 100_000
	maxLinks   = 32
)

// members is what an archive was found to hold. All but the few documents that
// describe it went straight into the content store.
type members struct {
	tree  *tree.Tree
	docs  map[string][]byte             // index.json, manifest.json, oci-layout
	blobs map[string]ocispec.Descriptor // path -> digest and size
	links map[string]string             // path -> path
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// Read takes an archive (of `docker save`, of any age, or an OCI layout; plain or
// compressed with gzip, zstd, xz or bzip2) into the store, and lists its images,
// each target once. The caller holds a lease.
func Read(ctx context.Context, t *tree.Tree, r io.Reader) ([]*Image, error) {
	m, err := scan(ctx, t, r)
	if err != nil {
		return nil, err
	}
	return m.plan(ctx)
}

// scan reads the whole archive once, from front to back.
func scan(ctx context.Context, t *tree.Tree, r io.Reader) (*members, error) {
	plain, _, err := compressed.Decompress(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	m := &members{tree: t, blobs: map[string]ocispec.Descriptor{}, links: map[string]string{}, docs: map[string][]byte{}}
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

func (m *members) member(ctx context.Context, h *tar.Header, r io.Reader) error {
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
	if _, ok := m.blobs[name]; ok || m.docs[name] != nil {
		return invalid("ambiguous image archive: %s is in it twice", name)
	}
	switch base := path.Base(name); {
	case name == "index.json", name == "manifest.json", name == "oci-layout":
		if h.Size > manifest.MaxSize {
			return invalid("%s has %d bytes, more than %d", name, h.Size, manifest.MaxSize)
		}
		b, err := io.ReadAll(io.LimitReader(r, h.Size))
		m.docs[name] = b
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
	d, _, err := m.tree.Content.Write(ctx, r, want)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	m.blobs[name] = d
	return nil
}

// blob finds a member by path, following links inside the archive.
func (m *members) blob(name string) (ocispec.Descriptor, error) {
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
