package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
)

// Populate copies what an image has at destination into an empty volume, with
// owners, modes, times and extended attributes; the volume's root becomes like
// the image's directory. layers are the image's directories, top first. A
// volume that holds anything, and an image that has no directory there, is
// left as it is.
func (s *Store) Populate(ctx context.Context, name string, layers []string, destination string) error {
	v, err := s.Get(name)
	if err != nil {
		return err
	}
	v.mounting.Lock()
	defer v.mounting.Unlock()
	if !v.needsMount() && !v.remote() {
		if empty, err := isEmpty(unix.AT_FDCWD, v.Path()); err != nil || !empty {
			return err
		}
	}
	if len(layers) == 0 {
		return nil
	}
	image, err := -1, error(nil)
	if err = apart(func() error { image, err = merged(layers); return err }); err != nil {
		return err
	}
	defer unix.Close(image)
	source, err := mount.OpenIn(image, destination, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(source)
	if err := s.fill(ctx, v, source); err != nil {
		return fmt.Errorf("failed to populate volume: %w", err)
	}
	return nil
}

// fill copies the directory source into a volume; v.mounting is held.
func (s *Store) fill(ctx context.Context, v *Volume, source int) error {
	if v.remote() {
		return plugged(s).fill(ctx, v, source)
	}
	if v.needsMount() {
		if err := s.mount(ctx, v); err != nil {
			return err
		}
		defer s.unmountUnused(v)
	}
	if v.needsMount() || len(v.runs) > 0 {
		// It is a file system, or in somebody's hands: filled in place.
		root, err := s.open(v)
		if err != nil {
			return err
		}
		defer unix.Close(root)
		if empty, err := isEmpty(root, "."); err != nil || !empty {
			return err
		}
		if err := copyInto(ctx, source, root); err != nil || v.needsMount() {
			return err
		}
		r, err := rootOf(v.Options)
		if err != nil {
			return err
		}
		return r.apply(v.Path(), false)
	}
	part := filepath.Join(v.path, "_fill")
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := os.Mkdir(part, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(part)
	root, err := unix.Open(part, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	if err := copyInto(ctx, source, root); err != nil {
		return err
	}
	r, err := rootOf(v.Options)
	if err != nil {
		return err
	}
	if err := r.apply(part, false); err != nil {
		return err
	}
	// Takes the place of the empty directory, or fails when it is not empty any more.
	err = unix.Rename(part, v.Path()) // os.Rename takes no directory's place
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return &mount.Error{Op: "rename", Path: part, Err: err}
	}
	return nil
}

// merged opens the root of an image: its only layer, or an overlay of all that
// lives as long as the descriptor. It is called apart.
func merged(layers []string) (int, error) {
	switch len(layers) {
	case 0:
		return -1, errdefs.ErrInvalidArgument.WithMessage("the image has no layers")
	case 1:
		return unix.Open(layers[0], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	o := mount.PackOverlay(layers, "", "", nil)
	return o.Mount()
}

func isEmpty(dir int, path string) (bool, error) {
	fd, err := unix.Openat(dir, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}
