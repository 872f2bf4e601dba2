package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/id"
)

// The drivers, by docker's names.
const (
	Overlay2 = "overlay2" // layers as lower directories of an overlay
	VFS      = "vfs"      // each layer and each container a full copy
)

// Driver is a snapshotter that keeps layers in directories, and its name.
type Driver struct {
	Name        string
	Root        string
	Snapshotter snapshots.Snapshotter
}

// OpenDriver opens the layers below root with the driver of that name. With no
// name it takes the one that root was made with, else overlay2. The choice is
// recorded in root; another name later is an error.
func OpenDriver(root, name string) (*Driver, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	record := filepath.Join(root, "driver")
	b, err := os.ReadFile(record)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	had := strings.TrimSpace(string(b))
	if name == "" {
		name = had
	}
	if name == "" {
		name = Overlay2
	}
	if had != "" && had != name {
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
			"%s holds layers of storage driver %q: use --storage-driver=%s, or another data root for %q", root, had, had, name))
	}
	d := &Driver{Name: name, Root: root}
	if err := sweep(root); err != nil {
		return nil, fmt.Errorf("storage driver %s: %w", name, err)
	}
	switch name {
	case Overlay2:
		if c := strings.IndexAny(root, `,:\`); c >= 0 {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
				"storage driver overlay2 does not work in %q: there must be no %q in the name of the data root; use another --data-root, a symbolic link to this one, or --storage-driver=vfs", root, root[c]))
		}
		if err := overlayutils.Supported(root); err != nil {
			return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
				"storage driver overlay2 does not work in %s (%v): --storage-driver=vfs works everywhere, with a full copy of the image for each container", root, err))
		}
		d.Snapshotter, err = overlay.NewSnapshotter(root, overlay.AsynchronousRemove)
	case VFS:
		d.Snapshotter, err = native.NewSnapshotter(root)
	default:
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("unknown storage driver %q: overlay2 and vfs are known", name))
	}
	if err != nil {
		return nil, fmt.Errorf("storage driver %s: %w", name, err)
	}
	if had == "" {
		if err := atomicfile.Write(record, []byte(name+"\n"), 0o600, atomicfile.Synced); err != nil {
			d.Snapshotter.Close()
			return nil, err
		}
	}
	return d, nil
}

// sweep moves directories that the snapshotter does not know, left by a crash,
// to the trash: their numbers will be given out again.
func sweep(root string) error {
	db := filepath.Join(root, "metadata.db")
	if _, err := os.Stat(db); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	meta, err := storage.NewMetaStore(db, func(o *bolt.Options) error {
		o.Timeout = 2 * time.Second // another engine has it: do not wait for its end
		return nil
	})
	if err != nil {
		return err
	}
	known := map[string]string{}
	err = meta.WithTransaction(context.Background(), false, func(ctx context.Context) (err error) {
		known, err = storage.IDMap(ctx)
		return err
	})
	if err2 := meta.Close(); err == nil {
		err = err2
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	dirs, err := os.ReadDir(filepath.Join(root, "snapshots"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, d := range dirs {
		if _, ok := known[d.Name()]; ok {
			continue
		}
		trash := filepath.Join(root, "trash")
		if err := os.MkdirAll(trash, 0o700); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(root, "snapshots", d.Name()), filepath.Join(trash, "layer-"+id.New())); err != nil {
			return err
		}
	}
	return nil
}

// removed reports whether a snapshot is not there.
func removed(ctx context.Context, sn snapshots.Snapshotter, key string) (bool, error) {
	_, err := sn.Stat(ctx, key)
	if errdefs.IsNotFound(err) {
		return true, nil
	}
	return false, err
}
