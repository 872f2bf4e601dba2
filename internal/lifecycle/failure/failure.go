// Package failure owns what a process that could not be started is to clients:
// docker's exit code, the kind of the error, and its words.
package failure

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
)

// Steps of init whose failures tell all by themselves.
const (
	stepUser  = "user"  // looks USER up
	stepMkdir = "mkdir" // makes WORKDIR
)

// ExitCode is docker's exit code for a process that could not be started:
// 127 when the program was not found, 126 when it cannot be executed, 128 else.
func ExitCode(err error) int {
	var f *sandbox.StartError
	if !errors.As(err, &f) {
		return 128
	}
	text := f.Error()
	switch {
	case strings.Contains(text, "not found in $PATH"), strings.Contains(text, "no such file or directory"):
		return 127
	case f.Errno == syscall.EACCES, f.Errno == syscall.EISDIR, f.Errno == syscall.ENOEXEC, strings.Contains(text, "permission denied"), strings.Contains(text, "is a directory"):
		return 126
	}
	return 128
}

// Of gives a failure to start the kind that clients expect: what the user asked
// for cannot be executed, which is a bad request.
func Of(err error) error {
	var f *sandbox.StartError
	if errors.As(err, &f) && (f.Step == stepUser || ExitCode(err) != 128) {
		return errdefs.ErrInvalidArgument.WithMessage(f.Error())
	}
	return err
}

// OfMain is Of for the main process of a container, in docker's words.
func OfMain(err error) error {
	if f := (*sandbox.StartError)(nil); errors.As(err, &f) && f.Step != stepUser && f.Step != stepMkdir {
		return fmt.Errorf("failed to create task for container: %w", Of(err))
	}
	return err
}
