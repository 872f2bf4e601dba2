package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/containerd/continuity/sysx"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	cfs "github.com/containerd/continuity/fs"

	"github.com/wherry-engine/wherry/internal/linux/mount"
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
	root, err := unix.Open(f.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", f.dir, err)
	}
	defer unix.Close(root)
	for _, name := range f.implicit {
		for _, below := range lower.Dirs {
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
				if err := inheritOne(root, name, from, info); err != nil {
					return err
				}
			}
			break
		}
	}
	return nil
}

// inheritOne opens the layer's directory without following links: the layer may
// have put one, to anywhere on the host, where it needed a directory before.
func inheritOne(root int, name, from string, info os.FileInfo) error {
	fd, err := mount.OpenBelow(root, strings.TrimPrefix(name, "/"), unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENOENT) {
		return nil // it is no directory any more
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return copyMeta(from, fd, info)
}

// copyMeta gives an open directory the owner, mode, attributes and times of another.
func copyMeta(from string, to int, info os.FileInfo) error {
	names, err := sysx.LListxattr(from)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil // there is no other kind on Linux
	}
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		value, err := sysx.LGetxattr(from, name)
		if err == nil {
			err = unix.Fsetxattr(to, name, value, 0)
		}
		if err != nil && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	return os.Chtimes(fmt.Sprintf("/proc/self/fd/%d", to), info.ModTime(), info.ModTime())
}
