package build

import (
	"context"
	"os"
	"path/filepath"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	enginecontent "github.com/wherry-engine/wherry/internal/content"
)

// mark is there while the builder is open; it holds the id of the boot.
func mark(root string) string { return filepath.Join(root, "open") }

func bootID() []byte {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return []byte("unknown\n")
	}
	return id
}

// databases are written without a sync while the builder is open.
var databases = []string{"metadata_v2.db", "cache.db", "history.db", "history-meta.db"}

// end takes the mark away when everything is on the disk.
func end(root string) error {
	for _, name := range databases {
		f, err := os.Open(filepath.Join(root, name))
		if err != nil {
			return err
		}
		err = f.Sync()
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	return os.Remove(mark(root))
}

// begin marks the builder as open. After a crash of the machine, in which the
// databases may have been torn, it begins with an empty cache: they go, and the
// leases by which their records held layers.
func begin(ctx context.Context, root string, store *enginecontent.Store) error {
	was, err := os.ReadFile(mark(root))
	if err == nil && string(was) == string(bootID()) {
		return nil // a killed engine's: the kernel has all that it wrote
	}
	if err == nil {
		for _, name := range append([]string{"history"}, databases...) {
			if err := os.RemoveAll(filepath.Join(root, name)); err != nil {
				return err
			}
		}
		ctx = enginecontent.With(ctx)
		list, err := store.Leases().List(ctx, `labels."containerd.io/gc.flat"`)
		if err != nil {
			return err
		}
		for _, l := range list {
			if err := store.Leases().Delete(ctx, l); err != nil {
				return err
			}
		}
	}
	// Before anything is written that may be torn.
	return atomicfile.Write(mark(root), bootID(), 0o600, atomicfile.Synced)
}
