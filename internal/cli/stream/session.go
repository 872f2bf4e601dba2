// Package stream owns a live connection to a program in a container: copying
// the standard streams over it, raw terminals, detaching, terminal sizes and
// forwarded signals.
package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
	"github.com/moby/term"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// Session is one attached connection. In is nil when nothing is typed to the
// program, Out and Err when that stream is not shown.
type Session struct {
	In         *shell.In
	Out, Err   io.Writer
	Conn       client.HijackedResponse
	TTY        bool
	DetachKeys string // "" means ctrl-p,ctrl-q
}

// CheckDetachKeys validates a --detach-keys value.
func CheckDetachKeys(keys string) error {
	if keys == "" {
		return nil
	}
	if _, err := term.ToBytes(keys); err != nil {
		return fmt.Errorf("invalid detach keys (%s): %w", keys, err)
	}
	return nil
}

// Detached reports whether err means that the user left on purpose.
func Detached(err error) bool {
	var escape term.EscapeError
	return errors.As(err, &escape)
}

// Run copies until the program's output ends, the user detaches, or ctx ends.
// The terminal is in raw mode meanwhile if the program has a terminal, and
// restored when Run returns. End of input is passed on as a half-close.
func (s *Session) Run(ctx context.Context) error {
	in := io.Reader(s.In)
	if s.In != nil && s.TTY {
		keys := []byte{16, 17}
		if s.DetachKeys != "" {
			k, err := term.ToBytes(s.DetachKeys)
			if err != nil {
				return fmt.Errorf("invalid detach keys (%s): %w", s.DetachKeys, err)
			}
			keys = k
		}
		if err := s.In.SetRaw(); err != nil {
			return fmt.Errorf("unable to set IO streams as raw terminal: %w", err)
		}
		defer s.In.Restore()
		in = term.NewEscapeProxy(s.In, keys)
	}
	output := make(chan error, 1)
	if s.Out != nil || s.Err != nil {
		go func() { output <- s.copyOut() }()
	}
	input := make(chan error, 1)
	go func() { input <- s.copyIn(in) }()

	select {
	case err := <-output:
		return err
	case err := <-input:
		if err != nil {
			return err
		}
		if s.Out == nil && s.Err == nil {
			return nil
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-output:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Session) copyOut() error {
	var err error
	if s.TTY {
		_, err = io.Copy(s.Out, s.Conn.Reader)
		if s.In != nil {
			s.In.Restore() // before anything else is printed
		}
	} else {
		out, errOut := s.Out, s.Err
		if out == nil {
			out = io.Discard
		}
		if errOut == nil {
			errOut = io.Discard
		}
		_, err = stdcopy.StdCopy(out, errOut, s.Conn.Reader)
	}
	return err
}

// copyIn returns an error only for detaching: a program that stopped reading,
// or a closed terminal, is not the user's failure.
func (s *Session) copyIn(in io.Reader) error {
	if s.In != nil {
		if _, err := io.Copy(s.Conn.Conn, in); Detached(err) {
			s.In.Restore()
			return err
		}
	}
	_ = s.Conn.CloseWrite() // the other side may be gone already
	return nil
}

// Attachment runs a Session in the background so that the program can be
// started meanwhile.
type Attachment struct {
	done   chan error
	cancel context.CancelFunc
	once   sync.Once
	err    error
}

// Go starts s.
func Go(ctx context.Context, s *Session) *Attachment {
	ctx, cancel := context.WithCancelCause(ctx)
	a := &Attachment{done: make(chan error, 1), cancel: func() { cancel(nil) }}
	go func() { a.done <- s.Run(ctx) }()
	return a
}

// Done delivers the session's end once.
func (a *Attachment) Done() <-chan error { return a.done }

// Stop ends the session and waits until the terminal is restored.
func (a *Attachment) Stop() {
	a.cancel()
	a.once.Do(func() { a.err = <-a.done })
}
