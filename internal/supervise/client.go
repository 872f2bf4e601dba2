package supervise

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/supervise/wire"
)

// Client is the engine's connection to its keeper. Its methods may be called
// by several goroutines. While a keeper that died is being replaced they wait.
// A Start or Release that was under way then fails with errdefs.ErrUnavailable,
// and its process may or may not run, without anybody to supervise it.
type Client struct {
	cfg       Config
	keeperSum string
	initSum   string
	queue     *eventQueue

	mu     sync.Mutex
	link   *link         // nil while there is none
	linked chan struct{} // closed when link is not nil, or over is set
	over   error         // set for good by Close, or by another engine
	held   map[Key]*held

	upgrading sync.RWMutex // requests hold it for reading
}

// held is what is needed to hand a process over to another keeper.
type held struct {
	rec    wire.Process
	files  []int // as rec.Has says; none once it has exited
	tokens map[string]int
}

// Start starts a process. When the program could not be started the error is
// a *sandbox.StartError. A key whose process has exited may be used again.
// Once the request is sent, the end of ctx does not stop it. The Exit of a
// short process can be in Events before Start has returned.
func (c *Client) Start(ctx context.Context, r *StartRequest) (*Started, error) {
	m := &wire.Start{
		Key: r.Key, Plan: *r.Plan, Extra: len(r.Extra), Stdin: r.Stdin, StdinOnce: r.StdinOnce,
		KillOnDisconnect: r.KillOnDisconnect, Log: r.Log,
	}
	if r.Plan.Joins() && len(r.Witnesses) == 0 {
		return nil, errors.New("a plan that names processes by number, without witnesses")
	}
	m.Plan.Witnesses = len(r.Witnesses)
	m.Extra += len(r.Witnesses)
	files := append(append([]*os.File(nil), r.Extra...), r.Witnesses...)
	for i := range r.Attach {
		m.Attach = append(m.Attach, clientOf(&r.Attach[i]))
		files = append(files, r.Attach[i].Conn)
	}
	var started wire.Process
	_, err := c.call(ctx, wire.TypeStart, m, files, func(f wire.Frame) error {
		if err := wire.Decode(f.Payload, &started); err != nil {
			return err
		}
		h := c.hold(&started, f.Files)
		for _, a := range m.Attach {
			h.tokens[a.Token]++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &Started{PID: started.PID, At: wire.Time(started.At)}, nil
}

// Witness gives the pidfd of the running process key, whose number is pid; the
// caller closes it. What was found under that number in /proc is the process's if
// afterwards pidfd.Signal can reach it with signal 0. It is errdefs.ErrNotFound when
// the process has exited.
func (c *Client) Witness(key Key, pid int) (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.held[key]
	if h == nil || h.rec.PID != pid || h.rec.Has&wire.HasPIDFD == 0 {
		return nil, errdefs.ErrNotFound.WithMessage("no running process " + key.String())
	}
	fd, err := unix.FcntlInt(uintptr(h.files[0]), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// Release lets a process that was started with Plan.Hold go on; same errors as
// Start.
func (c *Client) Release(ctx context.Context, key Key) error {
	return c.target(ctx, wire.TypeRelease, &wire.Target{Key: key})
}

// Attach connects a client with a running process. Events will tell of its end.
func (c *Client) Attach(ctx context.Context, key Key, a Attachment) error {
	m := clientOf(&a)
	_, err := c.call(ctx, wire.TypeAttach, &wire.Target{Key: key, Client: &m}, []*os.File{a.Conn}, func(wire.Frame) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if h := c.held[key]; h != nil {
			h.tokens[a.Token]++
		}
		return nil
	})
	return err
}

// Resize sets the size of the process's terminal.
func (c *Client) Resize(ctx context.Context, key Key, rows, cols uint16) error {
	return c.target(ctx, wire.TypeResize, &wire.Target{Key: key, Rows: rows, Cols: cols})
}

// Signal sends a signal to the process, never to another one that got its pid.
// It is errdefs.ErrNotFound when the process has exited.
func (c *Client) Signal(ctx context.Context, key Key, sig syscall.Signal) error {
	return c.target(ctx, wire.TypeSignal, &wire.Target{Key: key, Signal: int(sig)})
}

// List tells of all processes that were not forgotten.
func (c *Client) List(ctx context.Context) ([]Process, error) {
	var m wire.Processes
	_, err := c.call(ctx, wire.TypeList, nil, nil, func(f wire.Frame) error { return wire.Decode(f.Payload, &m) })
	if err != nil {
		return nil, err
	}
	list := make([]Process, len(m.List))
	for i, p := range m.List {
		list[i] = Process{Key: p.Key, PID: p.PID, StartedAt: wire.Time(p.At)}
		if p.Exited != nil {
			e := exitOf(p.Exited)
			list[i].Exited = &e
		}
	}
	return list, nil
}

// Forget tells the keeper that the exit of a process was recorded. It is
// errdefs.ErrConflict while the process runs.
func (c *Client) Forget(ctx context.Context, key Key) error {
	err := c.target(ctx, wire.TypeForget, &wire.Target{Key: key})
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if h := c.held[key]; h != nil && h.rec.Exited != nil {
			delete(c.held, key)
		}
	}
	return err
}

// Events delivers what happens after Connect, in order. A process that List
// shows as exited may or may not have an Exit here too. The channel is closed
// by Close, and when another engine has taken over the keeper.
func (c *Client) Events() <-chan Event { return c.queue.out }

// Close disconnects. The processes, their logs and attached clients live on.
func (c *Client) Close() error {
	c.finish(errdefs.ErrUnavailable.WithMessage("the connection to the keeper is closed"))
	return nil
}

// finish makes the client useless for good.
func (c *Client) finish(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over != nil {
		return
	}
	c.over = why
	if c.link != nil {
		c.link.close()
		c.link = nil
	} else {
		close(c.linked)
	}
	for _, h := range c.held {
		wire.CloseAll(h.files)
	}
	c.held = nil
	c.queue.close()
}

func (c *Client) target(ctx context.Context, typ uint8, t *wire.Target) error {
	_, err := c.call(ctx, typ, t, nil, nil)
	return err
}

// current waits for a connection.
func (c *Client) current(ctx context.Context) (*link, error) {
	for {
		c.mu.Lock()
		l, linked, over := c.link, c.linked, c.over
		c.mu.Unlock()
		if over != nil {
			return nil, over
		}
		if l != nil {
			return l, nil
		}
		select {
		case <-linked:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// call sends a request and waits for its answer; then is called with it by
// the reader, before anything that came after it is looked at.
func (c *Client) call(ctx context.Context, typ uint8, m wire.Message, files []*os.File, then func(wire.Frame) error) (wire.Frame, error) {
	c.upgrading.RLock()
	defer c.upgrading.RUnlock()
	for try := 0; ; try++ {
		l, err := c.current(ctx)
		if err != nil {
			return wire.Frame{}, err
		}
		f, err := l.call(typ, m, files, then)
		if !errors.Is(err, errLost) || try == 3 || typ == wire.TypeStart || typ == wire.TypeRelease {
			return f, err
		}
		<-l.over // then guard replaces it
		c.unlink(l)
	}
}

// unlink makes requests wait for the successor of a link that is over.
func (c *Client) unlink(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == l && c.over == nil {
		c.link, c.linked = nil, make(chan struct{})
	}
}

// hold notes a process and takes over its descriptors.
func (c *Client) hold(p *wire.Process, files []int) *held {
	h := &held{rec: *p, files: files, tokens: map[string]int{}}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over != nil {
		wire.CloseAll(files)
		return h
	}
	if old := c.held[p.Key]; old != nil {
		wire.CloseAll(old.files)
		if p.Exited == nil && old.rec.PID == p.PID {
			h.tokens = old.tokens
		}
	}
	c.held[p.Key] = h
	return h
}

// event handles a frame that is no answer.
func (c *Client) event(f wire.Frame) error {
	var err error
	switch f.Type {
	case wire.TypeHeld:
		var p wire.Process
		if err := wire.Decode(f.Payload, &p); err != nil {
			wire.CloseAll(f.Files)
			return err
		}
		c.hold(&p, f.Files)
		return nil
	case wire.TypeExit:
		var e wire.Exit
		if err = wire.Decode(f.Payload, &e); err == nil {
			c.exited(&e)
		}
	case wire.TypeEnd:
		var e wire.End
		if err = wire.Decode(f.Payload, &e); err == nil {
			c.mu.Lock()
			if h := c.held[e.Key]; h != nil {
				if h.tokens[e.Token]--; h.tokens[e.Token] <= 0 {
					delete(h.tokens, e.Token)
				}
			}
			c.mu.Unlock()
			c.queue.put(AttachEnd{Key: e.Key, Token: e.Token, Reason: EndReason(e.Reason)})
		}
	case wire.TypeLogError:
		var e wire.LogError
		if err = wire.Decode(f.Payload, &e); err == nil {
			c.queue.put(LogError{Key: e.Key, Message: e.Message, Dropped: uint64(e.Dropped)})
		}
	case wire.TypeStdinClosed:
		var t wire.Target
		if err = wire.Decode(f.Payload, &t); err == nil {
			c.dropStdin(t.Key)
		}
	case wire.TypeReplaced:
		err = errReplaced
	default:
		err = wire.ErrMalformed
	}
	wire.CloseAll(f.Files)
	return err
}

var errReplaced = errdefs.ErrUnavailable.WithMessage("another engine has taken over the keeper")

func (c *Client) exited(e *wire.Exit) {
	c.mu.Lock()
	if h := c.held[e.Key]; h != nil {
		h.rec.Exited, h.rec.Has = e, 0
		wire.CloseAll(h.files)
		h.files = nil
	}
	c.mu.Unlock()
	c.queue.put(exitOf(e))
}

func (c *Client) dropStdin(key Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.held[key]
	if h == nil || h.rec.Has&wire.HasStdin == 0 {
		return
	}
	i := 0
	if h.rec.Has&wire.HasPIDFD != 0 {
		i = 1
	}
	syscall.Close(h.files[i])
	h.files = append(h.files[:i:i], h.files[i+1:]...)
	h.rec.Has &^= wire.HasStdin
}

func exitOf(e *wire.Exit) Exit {
	return Exit{Key: e.Key, Code: e.Code, Signal: syscall.Signal(e.Signal), At: wire.Time(e.At), Unknown: e.Unknown}
}

func clientOf(a *Attachment) wire.Client {
	return wire.Client{
		Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr, Framed: a.Framed,
		DetachKeys: a.DetachKeys, ReadAhead: a.ReadAhead, Token: a.Token,
	}
}

// errorOf is the inverse of wire.FailureOf.
func errorOf(f *wire.Failure) error {
	switch f.Kind {
	case wire.FailNotFound:
		return errdefs.ErrNotFound.WithMessage(f.Message)
	case wire.FailConflict:
		return errdefs.ErrConflict.WithMessage(f.Message)
	case wire.FailUnavailable:
		return errdefs.ErrUnavailable.WithMessage(f.Message)
	case wire.FailStart:
		return &sandbox.StartError{Step: f.Step, Message: f.Message, Errno: syscall.Errno(f.Errno)}
	}
	if f.Errno != 0 {
		return syscall.Errno(f.Errno)
	}
	return errors.New(f.Message)
}
