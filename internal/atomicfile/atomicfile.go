// Package atomicfile replaces files so that a reader, also one after a crash,
// sees the old content or the new one and never a part of either.
package atomicfile

import (
	"fmt"
	"os"
	"path/filepath"
)

// Durability says what a write waits for.
type Durability int

const (
	// Cached returns when the kernel has the data: it survives the death of
	// this process, not a power failure (then the old content may come back).
	Cached Durability = iota
	// Synced returns when the data and the name are on the disk.
	Synced
)

// Write replaces path with data. The temporary file lies in the same directory
// and is named ".<base>.tmp"; a crash can leave it there, the next Write of the
// same path takes it over. Two writers of one path must be kept apart by the caller.
func Write(path string, data []byte, mode os.FileMode, d Durability) error {
	dir, base := filepath.Split(path)
	tmp := dir + "." + base + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && d == Synced {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("write %s: %w", path, err)
	}
	if d == Synced {
		return SyncDir(dir)
	}
	return nil
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	if dir == "" {
		dir = "."
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
