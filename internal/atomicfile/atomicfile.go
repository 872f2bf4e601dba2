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
	s, err := Stage(path, data, mode, d)
	if err != nil {
		return err
	}
	return s.Commit()
}

// Staged is the new content of a file that has the old one still. One of Commit
// and Discard must be called.
type Staged struct {
	path, tmp string
	d         Durability
}

// Stage is the part of Write that needs room on the disk.
func Stage(path string, data []byte, mode os.FileMode, d Durability) (*Staged, error) {
	dir, base := filepath.Split(path)
	s := &Staged{path: path, tmp: dir + "." + base + ".tmp", d: d}
	f, err := os.OpenFile(s.tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(data)
	if err == nil && d == Synced {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		s.Discard()
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return s, nil
}

// Commit puts the content in its place.
func (s *Staged) Commit() error {
	if err := os.Rename(s.tmp, s.path); err != nil {
		s.Discard()
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	if s.d == Synced {
		return SyncDir(filepath.Dir(s.path))
	}
	return nil
}

// Discard gives the content up.
func (s *Staged) Discard() { os.Remove(s.tmp) }

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
