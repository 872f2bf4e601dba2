package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/moby/buildkit/executor"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/pidfd"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
)

// process starts what the plan says, moves its streams and waits for its end.
// s is the container whose main process it is, nil for an exec. ready lets a
// held one go on.
func (e *Executor) process(ctx context.Context, s *step, plan *sandbox.Plan, extra []*os.File, p *executor.ProcessInfo, ready func(*sandbox.Process) error, begun func()) error {
	st, err := newStreams(plan.Terminal, p)
	if err != nil {
		return err
	}
	defer st.close()
	proc, err := sandbox.Start(e.init, plan, st.child, extra)
	st.started()
	if err == nil && plan.Hold {
		err = ready(proc)
	}
	if err != nil {
		return startFailure(ctx, p, err)
	}
	defer proc.PIDFD.Close()
	if s != nil {
		s.pid = proc.PID
		s.group.Settle()
	}
	begun()
	st.run(proc.Terminal)

	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { follow(ctx, proc, p, ended) })
	exit, _, err := pidfd.Wait(proc.PIDFD, false)
	close(ended)
	watch.Wait()
	st.drain(ctx)
	if err != nil {
		return err
	}
	return exitError(ctx, s, exit.Status(), p.Meta.ValidExitCodes)
}

// follow hands on signals and sizes, and ends the process with its build.
func follow(ctx context.Context, proc *sandbox.Process, p *executor.ProcessInfo, ended <-chan struct{}) {
	cancelled := ctx.Done()
	signals, sizes := p.Signal, p.Resize
	for {
		select {
		case <-ended:
			return
		case <-cancelled:
			cancelled = nil
			pidfd.Signal(proc.PIDFD, unix.SIGKILL) //nolint:errcheck // it may be gone
		case sig, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			pidfd.Signal(proc.PIDFD, sig) //nolint:errcheck // it may be gone
		case size, ok := <-sizes:
			if !ok {
				sizes = nil
				continue
			}
			if proc.Terminal != nil {
				resize(proc.Terminal, size)
			}
		}
	}
}

func resize(t *os.File, size executor.WinSize) {
	c, err := t.SyscallConn()
	if err != nil {
		return
	}
	c.Control(func(fd uintptr) { //nolint:errcheck // a terminal that is gone has no size
		unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(size.Rows), Col: uint16(size.Cols)}) //nolint:errcheck // it is gone, then
	})
}

// startFailure makes of a program that could not be started what the shell
// makes of it: an exit code, with the reason on standard error.
func startFailure(ctx context.Context, p *executor.ProcessInfo, err error) error {
	var f *sandbox.StartError
	if !errors.As(err, &f) {
		return err
	}
	code := 128
	switch f.Errno {
	case syscall.ENOENT:
		code = 127
	case syscall.EACCES, syscall.EISDIR, syscall.ENOEXEC:
		code = 126
	}
	if f.Step == "lookup" || code != 128 {
		if p.Stderr != nil {
			fmt.Fprintln(p.Stderr, f.Error())
		}
	}
	exit := &gatewayapi.ExitError{ExitCode: uint32(code), Err: err}
	if ctx.Err() != nil {
		exit.Err = context.Cause(ctx)
	}
	return exit
}

// exitError is what the solver learns of an exit code.
func exitError(ctx context.Context, s *step, code int, valid []int) error {
	if code == 0 && valid == nil || slices.Contains(valid, code) {
		return nil
	}
	exit := &gatewayapi.ExitError{ExitCode: uint32(code)}
	if s != nil && code == 128+int(unix.SIGKILL) {
		if n, err := s.group.OOMKills(); err == nil && n > 0 {
			exit.Err = syscall.ENOMEM
		}
	}
	if ctx.Err() != nil {
		exit.Err = fmt.Errorf("%w: %s", context.Cause(ctx), exit.Error())
	}
	return exit
}

// streams are the pipes between a process and its build.
type streams struct {
	child    sandbox.Stdio
	theirs   []*os.File // closed once the child has them
	ours     []*os.File
	copies   []func()
	copying  sync.WaitGroup
	stdin    io.ReadCloser
	stdinTo  io.WriteCloser
	terminal bool
	p        *executor.ProcessInfo
}

func newStreams(terminal bool, p *executor.ProcessInfo) (*streams, error) {
	st := &streams{terminal: terminal, p: p, stdin: p.Stdin}
	if terminal {
		return st, nil
	}
	if p.Stdin != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		st.child.In, st.stdinTo = r, w
		st.theirs, st.ours = append(st.theirs, r), append(st.ours, w)
	}
	for _, one := range []struct {
		to   io.WriteCloser
		file **os.File
	}{{p.Stdout, &st.child.Out}, {p.Stderr, &st.child.Err}} {
		if one.to == nil {
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			st.started()
			st.close()
			return nil, err
		}
		*one.file = w
		st.theirs, st.ours = append(st.theirs, w), append(st.ours, r)
		st.copies = append(st.copies, func() { io.Copy(one.to, r) }) //nolint:errcheck // the reader of a build's log went away
	}
	return st, nil
}

// started gives up the child's ends.
func (st *streams) started() {
	for _, f := range st.theirs {
		f.Close()
	}
	st.theirs = nil
}

// run begins to copy.
func (st *streams) run(terminal *os.File) {
	if terminal != nil {
		st.ours = append(st.ours, terminal)
		st.stdinTo = terminal
		if st.p.Stdout != nil {
			st.copies = append(st.copies, func() { io.Copy(st.p.Stdout, terminal) }) //nolint:errcheck // EIO is a terminal's end
		}
	}
	for _, c := range st.copies {
		st.copying.Go(c)
	}
	if st.stdin != nil && st.stdinTo != nil {
		to := st.stdinTo
		// Not waited for: the sender may keep its end open after the process's.
		go func() {
			io.Copy(to, st.stdin) //nolint:errcheck // the process does not read on
			if !st.terminal {
				to.Close()
			}
		}()
	}
}

// drain waits until everything that was written has been handed on. A process
// that outlived an exec may hold its streams open: the end of the build ends that.
func (st *streams) drain(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		st.copying.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

func (st *streams) close() {
	for _, f := range st.ours {
		f.Close()
	}
}
