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
	"slices"
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
	"golang.org/x/sync/errgroup"
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
	// Ready, if there is one, returns when Open can be called: the layer may
	// still be on its way. It is called only if the layer is not there yet.
	Ready func(context.Context) error
	// Open returns the uncompressed tar stream. It is called only if the
	// layer is not there yet.
	Open func() (io.ReadCloser, error)
	// Done, if there is one, is told when the layer is in place.
	Done func()
}

// Unpack makes sure that the chain of the given layers, bottom first, is there
// and matches its digests. The lease in ctx keeps it until something refers to
// it. Chains that several callers want are unpacked once, and layers of one
// chain beside each other. The files are in the kernel's hands when Unpack
// returns; Sync makes them durable.
func (s *Store) Unpack(ctx context.Context, layers []Layer) (digest.Digest, error) {
	if len(layers) > MaxDepth {
		return "", errdefs.ErrInvalidArgument.WithMessage("max depth exceeded")
	}
	var list []*unpacking
	var diffs []digest.Digest
	var below *unpacking
	for i, l := range layers {
		if err := l.DiffID.Validate(); err != nil {
			return "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid diffID %q for layer %d", l.DiffID, i))
		}
		diffs = append(diffs, l.DiffID)
		u := &unpacking{Layer: l, n: i, chain: identity.ChainID(diffs), below: below, placed: make(chan struct{})}
		list, below = append(list, u), u
	}
	if below == nil {
		return "", nil
	}
	if s.driver == VFS || len(list) == 1 {
		for _, u := range list {
			if err := s.unpackOnce(ctx, u); err != nil {
				return "", err
			}
		}
		return below.chain, nil
	}
	// Often all of it is there: the top one keeps those below. Hold first, look
	// then: a collection in between cannot take it away.
	if err := s.hold(ctx, below.chain); err != nil {
		return "", err
	}
	if gone, err := removed(ctx, s.sn, below.chain.String()); err != nil {
		return "", err
	} else if !gone {
		for _, u := range list {
			if u.Done != nil {
				u.Done()
			}
		}
		return below.chain, nil
	}
	// A layer waits only for layers below it, here and in other callers' chains,
	// so nobody waits in a circle.
	g, ctx := errgroup.WithContext(ctx)
	for _, u := range list {
		g.Go(func() error { return s.unpackOnce(ctx, u) })
	}
	return below.chain, g.Wait()
}

// unpacking is one layer of a chain on its way.
type unpacking struct {
	Layer
	n      int
	chain  digest.Digest
	below  *unpacking    // nil for the bottom layer
	placed chan struct{} // closed when the chain up to here is there
}

// parent returns the chain below, once it is there.
func (u *unpacking) parent(ctx context.Context) (digest.Digest, error) {
	if u.below == nil {
		return "", nil
	}
	select {
	case <-u.below.placed:
		return u.below.chain, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func (s *Store) unpackOnce(ctx context.Context, u *unpacking) error {
	for {
		s.busyMu.Lock()
		other := s.busy[u.chain]
		if other == nil {
			s.busy[u.chain] = make(chan struct{})
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
		close(s.busy[u.chain])
		delete(s.busy, u.chain)
		s.busyMu.Unlock()
	}()
	// Hold first, look then: a collection in between cannot take it away.
	if err := s.hold(ctx, u.chain); err != nil {
		return err
	}
	gone, err := removed(ctx, s.sn, u.chain.String())
	if err != nil {
		return err
	}
	if gone {
		if err := s.unpack(ctx, u); err != nil {
			return err
		}
	}
	close(u.placed)
	if u.Done != nil {
		u.Done()
	}
	return nil
}

// unpack fills a snapshot that stands on nothing yet, so that layers need not
// wait for each other, and puts it on its parent when that is there. VFS copies
// the parent first, so there layers come one by one.
func (s *Store) unpack(ctx context.Context, u *unpacking) error {
	if u.Ready != nil {
		if err := u.Ready(ctx); err != nil {
			return err
		}
	}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	var parent digest.Digest
	var err error
	if s.driver == VFS {
		if parent, err = u.parent(ctx); err != nil {
			<-s.slots
			return err
		}
	}
	key := "unpack-" + id.New()
	// The two databases would not agree after a cancellation between them, and
	// the directory would stay until some layer is removed.
	whole := context.WithoutCancel(ctx)
	if s.driver == VFS {
		whole = ctx // it copies the parent
	}
	mounts, err := s.sn.Prepare(whole, key, parent.String())
	if err != nil {
		<-s.slots
		return fmt.Errorf("unpack layer %s: %w", u.DiffID, err)
	}
	var back undo.Stack
	defer back.Run()
	back.Add(func() {
		if err := s.sn.Remove(context.WithoutCancel(ctx), key); err == nil {
			if c, ok := s.sn.(snapshots.Cleaner); ok {
				c.Cleanup(context.WithoutCancel(ctx)) //nolint:errcheck // the next collection cleans what is left
			}
		}
	})
	filled, err := s.fill(ctx, u.n, u.Layer, mounts)
	<-s.slots
	if err != nil {
		return err
	}
	if parent, err = u.parent(ctx); err != nil {
		return err
	}
	opts := []snapshots.Opt{}
	if parent != "" && s.driver != VFS {
		if err := s.inherit(ctx, filled, parent); err != nil {
			return fmt.Errorf("unpack layer %s: %w", u.DiffID, err)
		}
		opts = append(opts, snapshots.WithParent(parent.String()))
	}
	rel, err := filepath.Rel(s.base, filled.dir)
	if err != nil {
		return err
	}
	s.placed.Add(1)
	err = s.sn.Commit(whole, u.chain.String(), key, append(opts, snapshots.WithLabels(map[string]string{
		labelDir: rel, labelSize: strconv.FormatInt(filled.size, 10)}))...)
	if errdefs.IsAlreadyExists(err) {
		return nil // made by a build at the same time; ours is undone
	}
	if err != nil {
		return fmt.Errorf("unpack layer %s: %w", u.DiffID, err)
	}
	back.Keep()
	return nil
}

// fill unpacks the layer into the prepared snapshot and checks its digest.
func (s *Store) fill(ctx context.Context, n int, l Layer, mounts []mount.Mount) (f filled, err error) {
	dir, parents, overlaid, err := directories(mounts)
	if err != nil {
		return f, err
	}
	in, err := l.Open()
	if err != nil {
		return f, err
	}
	defer in.Close()
	hash := digest.Canonical.Digester()
	r := io.TeeReader(&boundedReader{r: in, left: s.limits.Bytes}, hash.Hash())
	f, err = s.apply(ctx, dir, bufio.NewReaderSize(r, 256<<10), parents, overlaid)
	if err != nil {
		if err2 := context.Cause(ctx); err2 != nil {
			err = err2
		}
		return f, fmt.Errorf("unpack layer %s: %w", l.DiffID, err)
	}
	if got := hash.Digest(); got != l.DiffID {
		return f, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid diffID for layer %d: expected %q, got %q", n, l.DiffID, got))
	}
	return f, nil
}

func (s *Store) apply(ctx context.Context, dir string, r io.Reader, parents []string, overlaid bool) (f filled, err error) {
	g := &guard{root: dir, limits: s.limits}
	opts := []archive.ApplyOpt{archive.WithFilter(g.entry)}
	if overlaid {
		opts = append(opts, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(parents))
	} else if s.driver == Overlay2 {
		// The bottom layer: its whiteouts hide nothing, and must not become
		// files either.
		opts = append(opts, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
	}
	f.dir = dir
	if f.size, err = archive.Apply(ctx, dir, r, opts...); err != nil {
		return f, clearer(err, dir)
	}
	if err := g.finish(); err != nil {
		return f, err
	}
	f.implicit = g.missing()
	// What follows the end mark belongs to the digest all the same.
	_, err = io.Copy(io.Discard, r)
	return f, err
}

// clearer gives the errors that hostile or damaged layers cause a kind, for
// they are the client's and not the engine's, and names paths as the layer does.
func clearer(err error, dir string) error {
	var link *os.LinkError
	if errors.As(err, &link) && errors.Is(err, unix.ENOENT) {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("layer contains the hard link %q to %q, which is not there",
			strings.TrimPrefix(link.New, dir), strings.TrimPrefix(link.Old, dir)))
	}
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
	dirs    map[string]bool   // directory -> whether the layer describes it
}

// note remembers the directories above an entry, and the entry if it is one.
func (g *guard) note(h *tar.Header) {
	if g.dirs == nil {
		g.dirs = map[string]bool{}
	}
	name := filepath.Clean("/" + h.Name)
	if h.Typeflag == tar.TypeDir {
		g.dirs[name] = true
	}
	for name = filepath.Dir(name); name != "/"; name = filepath.Dir(name) {
		if _, known := g.dirs[name]; known {
			return
		}
		g.dirs[name] = false
	}
}

// missing lists the directories that the layer does not describe, outer first.
func (g *guard) missing() (list []string) {
	for name, described := range g.dirs {
		if !described {
			list = append(list, name)
		}
	}
	if g.top == nil {
		list = append(list, "/")
	}
	slices.Sort(list)
	return list
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
	if leadsOut(h.Name) {
		return false, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("layer contains the path %.200q, which leads out of it", h.Name))
	}
	if h.Typeflag == tar.TypeLink && leadsOut(h.Linkname) {
		return false, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("layer contains the hard link %.200q to %.200q, which leads out of it", h.Name, h.Linkname))
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
	g.note(h)
	return true, nil
}

// leadsOut tells whether a path goes above the directory that it begins in. An
// absolute one begins in the layer's root.
func leadsOut(name string) bool {
	name = filepath.Clean(name)
	return name == ".." || strings.HasPrefix(name, "../")
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

// Sync makes the files of all unpacked layers durable. It costs nothing when
// all of them are: others' data may be waiting for the disk, too.
func (s *Store) Sync() error {
	placed := s.placed.Load()
	if s.synced.Load() > placed {
		return nil
	}
	f, err := os.Open(s.root)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return err
	}
	for old := s.synced.Load(); old <= placed; old = s.synced.Load() {
		if s.synced.CompareAndSwap(old, placed+1) {
			break
		}
	}
	return nil
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
