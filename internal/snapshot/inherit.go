package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/continuity/sysx"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	cfs "github.com/containerd/continuity/fs"
)

// filled is a layer that was unpacked into a directory.
type filled struct {
	dir      string
	size     int64
	implicit []string // directories that the layer needs and does not describe
}

// inherit gives directories that a layer does not describe what the layers
// below say of them: owner, mode, times and attributes.
func (s *Store) inherit(ctx context.Context, f filled, parent digest.Digest) error {
	if len(f.implicit) == 0 {
		return nil
	}
	lower, err := s.Layers(ctx, parent)
	if err != nil {
		return err
	}
	for _, name := range f.implicit {
		for _, below := range lower.Dirs {
			// Each part of name was made here as a directory, so only the lower
			// side can have links on the way, and those hide nothing to copy.
			from, err := cfs.RootPath(below, name)
			if err != nil {
				return err
			}
			info, err := os.Lstat(from)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
				continue
			}
			if err != nil {
				return err
			}
			if info.IsDir() {
				if err := copyMeta(from, filepath.Join(f.dir, name), info); err != nil {
					return err
				}
			}
			break
		}
	}
	return nil
}

// copyMeta gives a directory the owner, mode, attributes and times of another.
func copyMeta(from, to string, info os.FileInfo) error {
	names, err := sysx.LListxattr(from)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil // there is no other kind on Linux
	}
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		value, err := sysx.LGetxattr(from, name)
		if err == nil {
			err = sysx.LSetxattr(to, name, value, 0)
		}
		if err != nil && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	if err := syscall.Chmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	return os.Chtimes(to, info.ModTime(), info.ModTime())
}
