// Package localdir owns the client's end of the directories that a build reads:
// what becomes of a file that cannot be read, and the files that are lent to an
// engine on the same machine (see package lend). The engine could ask for each of
// these anyhow.
package localdir

import (
	"errors"
	"io"
	"os"

	"github.com/tonistiigi/fsutil"
)

// UnreadableError is a file that could not be read.
type UnreadableError struct{ error }

// Error says what may be done.
func (e *UnreadableError) Error() string {
	return e.error.Error() + ": make the file readable, or leave it out in .dockerignore"
}

// Unwrap gives the cause.
func (e *UnreadableError) Unwrap() error { return e.error }

// Open offers a directory. A file that cannot be read fails the build: fail is
// called, for the library would send the file empty, or, if it fails later, wait
// for ever. One that was removed meanwhile is sent empty, as by docker's client:
// nobody wants it.
func Open(path string, fail func(error)) (fsutil.FS, error) {
	fs, err := fsutil.NewFS(path)
	return readable{fs, fail}, err
}

type readable struct {
	fsutil.FS
	fail func(error)
}

// Open opens a file.
func (r readable) Open(name string) (io.ReadCloser, error) {
	f, err := r.FS.Open(name)
	if err == nil {
		return &file{f, r.fail}, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		r.fail(&UnreadableError{err})
	}
	return nil, err
}

type file struct {
	io.ReadCloser
	fail func(error)
}

// Read reads.
func (f *file) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.fail(&UnreadableError{err})
	}
	return n, err
}
