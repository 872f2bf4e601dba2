package session

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/supervise"
)

// AttachOptions are those of POST /containers/{id}/attach.
type AttachOptions struct {
	Stream                bool // connect with what comes; without it only Logs
	Stdin, Stdout, Stderr bool
	Logs                  bool // what was written so far comes first
	DetachKeys            string
	Mux                   bool // frame the output unless the container has a terminal
}

// Attach connects a client with a container's streams; with one that does not
// run, from its next start on. It returns once the connection was handed over.
func (m *Manager) Attach(ctx context.Context, ref string, o AttachOptions, hijack Hijack) error {
	keys, err := detachKeys(o.DetachKeys)
	if err != nil {
		return err
	}
	c, err := m.store.Get(ref)
	if err != nil {
		return err
	}
	r := c.Snapshot()
	switch {
	case r.State.Paused:
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("container %s is paused, unpause the container before attach", ref))
	case r.State.Restarting:
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("container %s is restarting, wait until the container is running", ref))
	}
	conn, readAhead, err := hijack(r.Config.Tty)
	if err != nil {
		return err
	}
	framed := o.Mux && !r.Config.Tty
	if o.Logs && r.LogPath != "" {
		w := newStreams(conn, framed)
		err := logs.Read(ctx, logs.Target{Driver: logs.DriverJSONFile, Path: r.LogPath}, logs.ReadOptions{Tail: -1}, func(e logs.Entry) error {
			if e.Stream == logs.Stdout.String() && o.Stdout || e.Stream == logs.Stderr.String() && o.Stderr {
				return w.write(e.Stream, e.Line)
			}
			return nil
		})
		if err != nil {
			conn.Close()
			return nil // the client sees the end of the stream; it has its 101 already
		}
	}
	if !o.Stream {
		return conn.Close()
	}
	if !r.Config.Tty {
		keys = nil // what is piped in is data, not keys
	}
	socket, err := socketOf(conn)
	if err != nil {
		conn.Close()
		return nil
	}
	a := supervise.Attachment{
		Conn: socket, Stdin: o.Stdin && r.Config.OpenStdin, Stdout: o.Stdout, Stderr: o.Stderr, Framed: framed,
		DetachKeys: keys, ReadAhead: readAhead, Token: id.New(),
	}
	m.publish(c, events.ActionAttach, nil)
	return m.connect(ctx, c, a, r.State.Running)
}

// connect hands a client to the keeper, or keeps it until the start. Op makes
// sure that a start under way has either taken the client or is over.
func (m *Manager) connect(ctx context.Context, c *container.Container, a supervise.Attachment, wasRunning bool) error {
	c.Op.Lock()
	defer c.Op.Unlock()
	c.Lock()
	running, gone := c.State.Running && c.State.Pid != 0, c.Gone()
	c.Unlock()
	switch {
	case running:
		defer a.Conn.Close()
		if err := m.keeper.Attach(ctx, supervise.Key{Container: c.ID}, a); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	case gone || wasRunning:
		a.Conn.Close() // it ended while the client was connecting
	default:
		m.mu.Lock()
		m.waiting[c.ID] = append(m.waiting[c.ID], a)
		m.mu.Unlock()
	}
	return nil
}
