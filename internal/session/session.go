// Package session owns the live connections of clients with processes: attach,
// exec and the terminal's size. The data itself never passes through here: a
// client's connection is handed to the keeper as a descriptor, so that a
// session outlives the engine. Only connections that are no plain socket (TLS,
// websocket) are pumped by the engine.
package session

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/term"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/event"
	"github.com/wherry-engine/wherry/internal/supervise"
)

// Hijack takes over the client's connection once all checks have passed: it
// sends the answer's head and returns the bare connection with the bytes that
// were read from it already. tty says which kind of stream will follow.
type Hijack func(tty bool) (conn net.Conn, readAhead []byte, err error)

// Starter starts a command in a running container; lifecycle does it. req has
// the streams and the key and gets its plan there. When the command could not
// be started, code is docker's exit code for the failure.
type Starter interface {
	StartExec(ctx context.Context, c *container.Container, r *apicontainer.ExecCreateRequest, rows, cols uint16, req *supervise.StartRequest) (started *supervise.Started, code int, err error)
}

// Manager keeps the execs and the clients that wait for a start. Use New.
type Manager struct {
	store   *container.Store
	keeper  *supervise.Client
	events  *event.Bus
	starter Starter

	mu      sync.Mutex
	execs   map[string]*exec
	waiting map[string][]supervise.Attachment // by container
}

// New returns a manager without sessions.
func New(store *container.Store, keeper *supervise.Client, bus *event.Bus) *Manager {
	return &Manager{store: store, keeper: keeper, events: bus, execs: map[string]*exec{}, waiting: map[string][]supervise.Attachment{}}
}

// Use sets who starts execs; called once before the first request, because
// lifecycle and session need one another.
func (m *Manager) Use(s Starter) { m.starter = s }

// Take hands over the clients that wait for the container to start. The caller
// closes their connections.
func (m *Manager) Take(containerID string) []supervise.Attachment {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.waiting[containerID]
	delete(m.waiting, containerID)
	return w
}

// Abandon closes the connections of clients whose container is gone.
func (m *Manager) Abandon(containerID string) {
	for _, a := range m.Take(containerID) {
		a.Conn.Close()
	}
}

// AttachEnded takes note that the keeper disconnected a client.
func (m *Manager) AttachEnded(x supervise.AttachEnd) {
	if x.Reason != supervise.EndDetach {
		return
	}
	if c, err := m.store.Get(x.Key.Container); err == nil {
		if x.Key.Exec != "" {
			m.publish(c, events.ActionExecDetach, map[string]string{"execID": x.Key.Exec})
			return
		}
		m.publish(c, events.ActionDetach, nil)
	}
}

func (m *Manager) publish(c *container.Container, action events.Action, extra map[string]string) {
	r := c.Snapshot()
	m.events.Container(action, r.ID, r.Attributes(extra))
}

// detachKeys translates "ctrl-p,ctrl-q"; an empty text is the default. what is
// how dockerd calls them there.
func detachKeys(text, what string) ([]byte, error) {
	if text == "" {
		return []byte{16, 17}, nil
	}
	keys, err := term.ToBytes(text)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("Invalid %s keys (%s) provided", what, text))
	}
	return keys, nil
}

// socketOf returns a descriptor for the connection that another process can
// work on, and closes conn. A connection that is no socket of the kernel's
// alone is joined to one end of a socket pair.
func socketOf(conn net.Conn) (*os.File, error) {
	if c, ok := conn.(interface{ File() (*os.File, error) }); ok {
		f, err := c.File()
		if err != nil {
			return nil, fmt.Errorf("take over the connection: %w", err)
		}
		conn.Close()
		return f, nil
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs, ours := os.NewFile(uintptr(fds[0]), "stream"), os.NewFile(uintptr(fds[1]), "stream")
	local, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, err
	}
	go pump(conn, local.(*net.UnixConn))
	return theirs, nil
}

// pump joins a client's connection with a socket, passing half-closes on.
func pump(client net.Conn, local *net.UnixConn) {
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		_, err := io.Copy(local, client)
		local.CloseWrite()
		if err != nil {
			slog.Debug("client's stream ended", "error", err)
		}
	}()
	io.Copy(client, local)
	if c, ok := client.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
	local.Close()
	client.Close()
	wg.Wait()
}

// Resize sets the size of a container's terminal, in characters.
func (m *Manager) Resize(ref string, height, width uint16) error {
	c, err := m.store.Get(ref)
	if err != nil {
		return err
	}
	if err := mustRun(c); err != nil {
		return err
	}
	if err := m.resize(context.Background(), supervise.Key{Container: c.ID}, height, width); err != nil {
		return err
	}
	m.publish(c, events.ActionResize, map[string]string{"height": fmt.Sprint(height), "width": fmt.Sprint(width)})
	return nil
}

// mustRun refuses a container that does not run, with docker's words.
func mustRun(c *container.Container) error {
	if !c.Runs() || c.Snapshot().State.Pid == 0 {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("container %s is not running", c.ID))
	}
	return nil
}
