package snapshot

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	cfs "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/undo"
)

// Limits bound what one layer may unpack to.
type Limits struct {
	Bytes   int64 // of the uncompressed stream, and of the files in it
	Entries int64
}

// DefaultLimits are far above any sane layer and below what fills a machine unnoticed.
var DefaultLimits = Limits{Bytes: 512 << 30, Entries: 20e6}

func (l Limits) orDefault() Limits {
	if l.Bytes == 0 {
		l.Bytes = DefaultLimits.Bytes
	}
	if l.Entries == 0 {
		l.Entries = DefaultLimits.Entries
	}
	return l
}

// MaxDepth is docker's limit on the layers of an image.
const MaxDepth = 127

// Layer is one layer to unpack.
type Layer struct {
	DiffID digest.Digest
	// Open returns the uncompressed tar stream. It is called only if the
	// layer is not there yet.
	Open func() (io.ReadCloser, error)
}

// Unpack makes sure that the chain of the given layers, bottom first, is there
// and matches its digests. The lease in ctx keeps it until something refers to
// it. Chains that several callers want are unpacked once. The files are in the
// kernel's hands when Unpack returns; Sync makes them durable.
func (s *Store) Unpack(ctx context.Context, layers []Layer) (digest.Digest, error) {
	if len(layers) > MaxDepth {
		return "", errdefs.ErrInvalidArgument.WithMessage("max depth exceeded")
	}
	var diffs []digest.Digest
	var parent digest.Digest
	for i, l := range layers {
		if err := l.DiffID.Validate(); err != nil {
			return "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid diffID %q for layer %d", l.DiffID, i))
		}
		diffs = append(diffs, l.DiffID)
		chain := identity.ChainID(diffs)
		if err := s.unpackOnce(ctx, i, l, parent, chain); err != nil {
			return "", err
		}
		parent = chain
	}
	return parent, nil
}

func (s *Store) unpackOnce(ctx context.Context, n int, l Layer, parent, chain digest.Digest) error {
	for {
		s.busyMu.Lock()
		other := s.busy[chain]
		if other == nil {
			s.busy[chain] = make(chan struct{})
		}
		s.busyMu.Unlock()
		if other == nil {
			break
		}
		select {
		case <-other:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer func() {
		s.busyMu.Lock()
		close(s.busy[chain])
		delete(s.busy, chain)
		s.busyMu.Unlock()
	}()
	// Hold first, look then: a collection in between cannot take it away.
	if err := s.hold(ctx, chain); err != nil {
		return err
	}
	gone, err := removed(ctx, s.sn, chain.String())
	if err != nil || !gone {
		return err
	}
	return s.unpack(ctx, n, l, parent, chain)
}

func (s *Store) unpack(ctx context.Context, n int, l Layer, parent, chain digest.Digest) error {
	key := "unpack-" + id.New()
	mounts, err := s.sn.Prepare(ctx, key, parent.String())
	if err != nil {
		return fmt.Errorf("unpack layer %s: %w", l.DiffID, err)
	}
	var u undo.Stack
	defer u.Run()
	u.Add(func() {
		if err := s.sn.Remove(context.WithoutCancel(ctx), key); err == nil {
			if c, ok := s.sn.(snapshots.Cleaner); ok {
				c.Cleanup(context.WithoutCancel(ctx)) //nolint:errcheck // the next collection cleans what is left
			}
		}
	})
	dir, size, err := s.fill(ctx, n, l, mounts)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(s.base, dir)
	if err != nil {
		return err
	}
	err = s.sn.Commit(ctx, chain.String(), key, snapshots.WithLabels(map[string]string{
		labelDir: rel, labelSize: strconv.FormatInt(size, 10)}))
	if errdefs.IsAlreadyExists(err) {
		return nil // made by a build at the same time; ours is undone
	}
	if err != nil {
		return fmt.Errorf("unpack layer %s: %w", l.DiffID, err)
	}
	u.Keep()
	return nil
}

// fill unpacks the layer into the prepared snapshot and checks its digest.
func (s *Store) fill(ctx context.Context, n int, l Layer, mounts []mount.Mount) (string, int64, error) {
	dir, parents, overlaid, err := directories(mounts)
	if err != nil {
		return "", 0, err
	}
	in, err := l.Open()
	if err != nil {
		return "", 0, err
	}
	defer in.Close()
	hash := digest.Canonical.Digester()
	r := io.TeeReader(&boundedReader{r: in, left: s.limits.Bytes}, hash.Hash())
	size, err := s.apply(ctx, dir, bufio.NewReaderSize(r, 256<<10), parents, overlaid)
	if err != nil {
		if err2 := context.Cause(ctx); err2 != nil {
			err = err2
		}
		return "", 0, fmt.Errorf("unpack layer %s: %w", l.DiffID, err)
	}
	if got := hash.Digest(); got != l.DiffID {
		return "", 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid diffID for layer %d: expected %q, got %q", n, l.DiffID, got))
	}
	return dir, size, nil
}

func (s *Store) apply(ctx context.Context, dir string, r io.Reader, parents []string, overlaid bool) (int64, error) {
	g := &guard{root: dir, limits: s.limits}
	opts := []archive.ApplyOpt{archive.WithFilter(g.entry)}
	if overlaid {
		opts = append(opts, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(parents))
	} else if s.driver == Overlay2 {
		// The bottom layer: its whiteouts hide nothing, and must not become
		// files either.
		opts = append(opts, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
	}
	size, err := archive.Apply(ctx, dir, r, opts...)
	if err != nil {
		return 0, clearer(err, dir)
	}
	if err := g.finish(); err != nil {
		return 0, err
	}
	// What follows the end mark belongs to the digest all the same.
	_, err = io.Copy(io.Discard, r)
	return size, err
}

// clearer gives the errors that hostile or damaged layers cause a kind, for
// they are the client's and not the engine's, and names paths as the layer does.
func clearer(err error, dir string) error {
	for _, e := range []error{tar.ErrHeader, tar.ErrFieldTooLong, tar.ErrInsecurePath, io.ErrUnexpectedEOF, unix.ENAMETOOLONG, unix.EXDEV, unix.ENOTDIR, unix.ELOOP, unix.EEXIST, unix.ENOENT} {
		if errors.Is(err, e) {
			return errdefs.ErrInvalidArgument.WithMessage(strings.ReplaceAll(err.Error(), dir, ""))
		}
	}
	return err
}

// guard looks at each entry before it is written.
type guard struct {
	root    string
	limits  Limits
	entries int64
	bytes   int64
	top     *tar.Header       // the layer's own "./", which archive.Apply passes over
	caps    map[string]string // path -> security.capability of a regular file
}

func (g *guard) entry(h *tar.Header) (bool, error) {
	g.entries++
	g.bytes += h.Size // a sparse file counts as what it unpacks to
	if g.entries > g.limits.Entries || g.bytes > g.limits.Bytes || g.bytes < 0 {
		return false, errdefs.ErrResourceExhausted.WithMessage("layer is too large: more than " +
			strconv.FormatInt(g.limits.Entries, 10) + " entries or " + strconv.FormatInt(g.limits.Bytes, 10) + " bytes")
	}
	// Overlay's own attributes would let a layer speak to the kernel about
	// directories that are not its own.
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "SCHILY.xattr.trusted.overlay.") || strings.HasPrefix(k, "SCHILY.xattr.user.overlay.") {
			delete(h.PAXRecords, k)
		}
	}
	if len(h.Name) >= unix.PathMax || len(h.Linkname) >= unix.PathMax {
		return false, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("layer contains a path of %d characters: %.60q...", max(len(h.Name), len(h.Linkname)), h.Name))
	}
	g.keepCapability(h)
	switch strings.TrimSuffix(filepath.Clean("/"+h.Name), "/") {
	case "":
		if h.Typeflag == tar.TypeDir {
			g.top = h
		}
		return false, nil
	case "/.wh.", "/.wh..", "/.wh...":
		return false, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("layer contains the invalid whiteout %q", h.Name))
	}
	if base := filepath.Base(h.Name); base == ".wh." || base == ".wh.." || base == ".wh..." {
		return false, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("layer contains the invalid whiteout %q", h.Name))
	}
	return true, nil
}

// capability is where tar keeps a file's capabilities.
const capability = "SCHILY.xattr.security.capability"

// keepCapability repeats a file's capabilities on its hard links, whose
// headers leave them out: giving the link its owner would take them away.
func (g *guard) keepCapability(h *tar.Header) {
	switch h.Typeflag {
	case tar.TypeReg:
		if v, ok := h.PAXRecords[capability]; ok {
			if g.caps == nil {
				g.caps = map[string]string{}
			}
			g.caps[filepath.Clean("/"+h.Name)] = v
		}
	case tar.TypeLink:
		if v, ok := g.caps[filepath.Clean("/"+h.Linkname)]; ok {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[capability] = v
		}
	}
}

// finish gives the layer's root directory the owner, mode and time of "./".
func (g *guard) finish() error {
	h := g.top
	if h == nil {
		return nil
	}
	if err := os.Lchown(g.root, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := syscall.Chmod(g.root, uint32(h.Mode)&0o7777); err != nil {
		return err
	}
	return os.Chtimes(g.root, h.ModTime, h.ModTime)
}

// boundedReader fails, other than io.LimitedReader, when more than left bytes come.
type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errdefs.ErrResourceExhausted.WithMessage("layer is too large")
	}
	return n, err
}

// Sync makes the files of all unpacked layers durable.
func (s *Store) Sync() error {
	f, err := os.Open(s.root)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// copyRoot is vfs: the container's root is a copy of the image's.
func (s *Store) copyRoot(to string, lower Lower) error {
	if err := makeUpper(to, lower); err != nil {
		return err
	}
	if len(lower.Dirs) == 0 {
		return nil
	}
	if err := cfs.CopyDir(to, lower.Dirs[0]); err != nil {
		return fmt.Errorf("copy the image's files: %w", err)
	}
	return nil
}
