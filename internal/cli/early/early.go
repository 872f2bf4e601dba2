//go:build unix

// Package early hands a build over to wherry-build before the other packages of
// wherry are initialised, which takes longer than the rest of it: Go initialises
// a package once those that it imports are, and this one imports next to
// nothing. All else of wherry then begins on one processor, see alone. Only the
// program wherry imports it.
//
// On Linux, on amd64 and arm64, the same is done before even Go's runtime starts, if the
// program was linked with entry as its beginning; that saves another millisecond.
//
// It knows the commonest command line alone, the verb as the first word. All
// others, and a wherry-build that is not beside this program, are left to
// package cli, which does the same and has words for what fails.
package early

import (
	"os"
	"syscall"
)

func init() {
	if len(os.Args) < 2 {
		return
	}
	switch os.Args[1] {
	case "build", "builder", "buildx":
	default:
		return
	}
	if self, err := os.Executable(); err == nil {
		_ = syscall.Exec(self[:directory(self)]+"wherry-build", os.Args, os.Environ()) //nolint:gosec // see the package comment
	}
}

// directory is how much of a path is the directory, with its slash.
func directory(path string) int {
	n := len(path)
	for n > 0 && path[n-1] != '/' {
		n--
	}
	return n
}
