package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
)

// StatusError ends the program with Code after printing Message, if any. It
// is also how the exit status of a container becomes the program's own.
type StatusError struct {
	Code    int
	Message string
	Cause   error
}

func (e *StatusError) Error() string {
	switch {
	case e.Message != "":
		return e.Message
	case e.Cause != nil:
		return e.Cause.Error()
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

func (e *StatusError) Unwrap() error { return e.Cause }

// Interrupted is the cause with which the program's context is cancelled when
// a signal asks it to end.
type Interrupted struct{ Signal syscall.Signal }

func (e Interrupted) Error() string { return "interrupted by " + e.Signal.String() }

// ExitCode decides every exit status of the program: a container's own status
// (0-255, 125 engine or usage, 126 not executable, 127 not found) travels in a
// StatusError; a signal that ended us is 128+n; anything else is 1.
func ExitCode(err error) int {
	var status *StatusError
	var sig Interrupted
	switch {
	case err == nil:
		return 0
	case errors.As(err, &sig):
		return 128 + int(sig.Signal)
	case errors.As(err, &status):
		if status.Code == 0 {
			return 1
		}
		return status.Code
	}
	return 1
}

// StartCode tells a program that could not be started (126, 127) from every
// other refusal (125), by the words that the engine uses for it.
func StartCode(err error) int {
	msg := err.Error()
	switch {
	case strings.Contains(msg, "executable file not found"),
		strings.Contains(msg, "no such file or directory"):
		return 127
	case strings.Contains(msg, syscall.EACCES.Error()),
		strings.Contains(msg, syscall.EISDIR.Error()):
		return 126
	}
	return 125
}

// Print writes err for the user; errors that only carry a status, and a
// cancel by the user's own signal, are silent.
func Print(w io.Writer, err error) {
	var status *StatusError
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.As(err, new(Interrupted)):
		return
	case errors.As(err, &status) && status.Message == "" && status.Cause == nil:
		return
	}
	fmt.Fprintln(w, err)
}

// Each runs do for every name and returns all errors, one per line, as
// docker's verbs with many arguments report them.
func Each(names []string, do func(string) error) error {
	var errs []error
	for _, n := range names {
		if err := do(n); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// WithHelp gives the message form of run and create: prefixed with the
// program and followed by where to read more.
func (s *Shell) WithHelp(err error, verb string, code int) error {
	return &StatusError{
		Code:    code,
		Message: fmt.Sprintf("%s: %s\n\nRun '%s %s --help' for more information", s.Name, err, s.Name, verb),
		Cause:   err,
	}
}
