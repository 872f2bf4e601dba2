package main

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/runtime/initproto"
)

// lookPath finds the program as a shell would, with docker's words when it
// cannot.
func lookPath(file string, env []string) (string, *initproto.Failure) {
	quoted := "exec: " + strconv.Quote(file) + ": "
	if strings.Contains(file, "/") {
		switch err := executable(file); {
		case err == nil:
			return file, nil
		case errors.Is(err, unix.EISDIR):
			return "", notFound(quoted+"is a directory: permission denied", unix.EACCES)
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			return "", notFound(quoted+"permission denied", unix.EACCES)
		default:
			return "", notFound(quoted+"stat "+file+": "+err.Error(), err)
		}
	}
	path := ""
	for _, v := range env {
		if rest, ok := strings.CutPrefix(v, "PATH="); ok {
			path = rest
			break
		}
	}
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" || dir[0] != '/' {
			// Relative entries depend on the working directory; docker refuses what they find.
			continue
		}
		candidate := dir + "/" + file
		if executable(candidate) == nil {
			return candidate, nil
		}
	}
	return "", notFound(quoted+"executable file not found in $PATH", unix.ENOENT)
}

func notFound(message string, err error) *initproto.Failure {
	return failText("exec", message, err)
}

// executable tells whether this process may execute path: nil, EISDIR, EACCES
// or what stat said.
func executable(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EISDIR
	}
	if st.Mode&0o111 == 0 {
		return unix.EACCES
	}
	return unix.Faccessat2(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
}
