package session

import (
	"context"
	"fmt"
	"net"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/logs/driver"
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
	keys, err := detachKeys(o.DetachKeys, "detach")
	if err != nil {
		return err
	}
	c, err := m.store.Get(ref)
	if err != nil {
		return err
	}
	if o.Logs {
		return m.attachWithPast(ctx, c, o, keys, hijack)
	}
	// Op is held from the checks until the client is known: it may ask for the
	// start as soon as it sees the answer's head, and must miss no output. Of
	// what runs it misses output in any case: nobody waits while the client is
	// told, which it can draw out.
	locked := !c.Snapshot().State.Running
	if locked {
		c.Op.Lock()
		defer c.Op.Unlock()
	}
	r := c.Snapshot()
	if err := canAttach(&r, ref); err != nil {
		return err
	}
	conn, readAhead, err := hijack(r.Config.Tty)
	if err != nil {
		return err
	}
	if !locked {
		c.Op.Lock()
		defer c.Op.Unlock()
	}
	if !o.Stream {
		return conn.Close()
	}
	return m.connect(ctx, c, &r, o, keys, conn, readAhead)
}

func canAttach(r *container.Record, ref string) error {
	switch {
	case r.State.Paused:
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("container %s is paused, unpause the container before attach", ref))
	case r.State.Restarting:
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("container %s is restarting, wait until the container is running", ref))
	}
	return nil
}

// attachWithPast first replays the log. Op is not held while the client reads
// that: what is written between the replay and the connection is in the log only.
func (m *Manager) attachWithPast(ctx context.Context, c *container.Container, o AttachOptions, keys []byte, hijack Hijack) error {
	r := c.Snapshot()
	if err := canAttach(&r, r.ID); err != nil {
		return err
	}
	cfg := driver.Config{Type: r.HostConfig.LogConfig.Type, Options: r.HostConfig.LogConfig.Config}
	files, err := driver.Files(cfg, c.Dir(), r.ID)
	if err != nil {
		return err
	}
	conn, readAhead, err := hijack(r.Config.Tty)
	if err != nil {
		return err
	}
	if !o.Stream {
		c.FirstWords(ctx)
	}
	if cfg.Readable() {
		w := newStreams(conn, o.Mux && !r.Config.Tty)
		err = logs.Read(ctx, files, logs.ReadOptions{Tail: -1}, func(e logs.Entry) error {
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
	c.Op.Lock()
	defer c.Op.Unlock()
	return m.connect(ctx, c, &r, o, keys, conn, readAhead)
}

// connect hands a client to the keeper, or keeps it until the start. Op is
// held: a start under way has either taken the client or is over. r is how the
// container was when the client was answered.
func (m *Manager) connect(ctx context.Context, c *container.Container, r *container.Record, o AttachOptions, keys []byte, conn net.Conn, readAhead []byte) error {
	if !r.Config.Tty {
		keys = nil // what is piped in is data, not keys
	}
	socket, err := socketOf(conn)
	if err != nil {
		conn.Close()
		return nil
	}
	a := supervise.Attachment{
		Conn: socket, Stdin: o.Stdin && r.Config.OpenStdin, Stdout: o.Stdout, Stderr: o.Stderr, Framed: o.Mux && !r.Config.Tty,
		DetachKeys: keys, ReadAhead: readAhead, Token: id.New(),
	}
	m.publish(c, events.ActionAttach, nil)
	c.Lock()
	running, gone := c.State.Running && c.State.Pid != 0, c.Gone()
	c.Unlock()
	switch {
	case running:
		defer a.Conn.Close()
		if err := m.keeper.Attach(ctx, supervise.Key{Container: c.ID}, a); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	case gone || r.State.Running:
		a.Conn.Close() // it ended while the client was connecting
	default:
		m.mu.Lock()
		m.waiting[c.ID] = append(m.waiting[c.ID], a)
		m.mu.Unlock()
	}
	return nil
}
