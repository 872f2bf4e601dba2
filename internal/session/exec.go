package session

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/api"
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/supervise"
)

// startWait is how long a resize waits for the command to run: clients send it
// as soon as the connection is theirs.
const startWait = 10 * time.Second

// keepExited is how long an exec that ended can still be inspected.
const keepExited = 5 * time.Minute

// exec is one exec instance; Manager.mu guards it.
type exec struct {
	id, container string
	request       *apicontainer.ExecCreateRequest
	keys          []byte
	hangUp        bool // killed when its client vanishes
	started       bool
	pid           int
	exitCode      *int
	ended         time.Time
	done          chan int      // of Run: gets the exit code
	begun         chan struct{} // closed when the command runs, or could not be started
}

// ExecStartOptions are those of POST /exec/{id}/start. Tty is the form of the
// stream, raw or framed, and the client's to choose, whatever the command runs on.
type ExecStartOptions struct {
	Detach, Tty bool
	ConsoleSize *[2]uint // height, width
}

func noExec(id string) error {
	return errdefs.ErrNotFound.WithMessage("No such exec instance: " + id)
}

// ExecCreate notes a command to be run in a running container.
func (m *Manager) ExecCreate(ctx context.Context, ref string, request *api.ExecRequest) (string, error) {
	r := &request.ExecCreateRequest
	c, err := m.store.Get(ref)
	if err != nil {
		return "", err
	}
	if len(r.Cmd) == 0 {
		return "", errdefs.ErrInvalidArgument.WithMessage("No exec command specified")
	}
	if err := canExec(c, ref); err != nil {
		return "", err
	}
	keys, err := detachKeys(r.DetachKeys, "escape")
	if err != nil {
		return "", err
	}
	for _, e := range r.Env {
		if e == "" || strings.HasPrefix(e, "=") {
			return "", errdefs.ErrInvalidArgument.WithMessage("invalid environment variable: " + e)
		}
	}
	if !r.Tty {
		keys = nil // what is piped in is data, not keys
	}
	x := &exec{id: id.New(), container: c.ID, request: r, keys: keys, hangUp: request.KillOnDisconnect, begun: make(chan struct{})}
	m.mu.Lock()
	m.sweep()
	m.execs[x.id] = x
	m.mu.Unlock()
	m.publish(c, events.Action(string(events.ActionExecCreate)+": "+commandLine(r.Cmd)), map[string]string{"execID": x.id})
	return x.id, nil
}

// sweep drops execs that ended long ago; mu is held.
func (m *Manager) sweep() {
	for k, x := range m.execs {
		if x.exitCode != nil && time.Since(x.ended) > keepExited {
			delete(m.execs, k)
		}
	}
}

func canExec(c *container.Container, ref string) error {
	if err := mustRun(c); err != nil {
		return err
	}
	c.Lock()
	defer c.Unlock()
	switch {
	case c.State.Paused:
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("Container %s is paused, unpause the container before exec", ref))
	case c.State.Restarting:
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("Container %s is restarting, wait until the container is running", ref))
	}
	return nil
}

// claim marks the exec as started, once.
func (m *Manager) claim(execID string) (*exec, *container.Container, error) {
	m.mu.Lock()
	x := m.execs[execID]
	m.mu.Unlock()
	if x == nil {
		return nil, nil, noExec(execID)
	}
	c, err := m.store.Get(x.container)
	if err != nil {
		return nil, nil, noExec(execID)
	}
	if err := canExec(c, x.container); err != nil {
		return nil, nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case x.exitCode != nil:
		return nil, nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("exec command %s has already run", x.id))
	case x.started:
		return nil, nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("exec command %s is already running", x.id))
	}
	x.started = true
	return x, c, nil
}

// ExecStart runs an exec. Unless detached it takes over the connection and
// returns once that was handed to the keeper; a failure to start is then
// written into the stream, as dockerd does.
func (m *Manager) ExecStart(ctx context.Context, execID string, o ExecStartOptions, hijack Hijack) error {
	x, c, err := m.claim(execID)
	if err != nil {
		return err
	}
	req := &supervise.StartRequest{
		Key:   supervise.Key{Container: c.ID, Exec: x.id},
		Stdin: x.request.AttachStdin, StdinOnce: true, KillOnDisconnect: x.hangUp && !o.Detach,
	}
	var fail func(error) error
	if o.Detach {
		req.Stdin = false
		fail = func(err error) error { return err }
	} else {
		conn, readAhead, err := hijack(o.Tty)
		if err != nil {
			m.unclaim(x)
			return err
		}
		socket, err := socketOf(conn)
		if err != nil {
			conn.Close()
			m.ended(x, 126)
			return nil
		}
		defer socket.Close()
		req.Attach = []supervise.Attachment{{
			Conn: socket, Stdin: x.request.AttachStdin, Stdout: x.request.AttachStdout, Stderr: x.request.AttachStderr,
			Framed: !o.Tty, DetachKeys: x.keys, ReadAhead: readAhead, Token: x.id,
		}}
		fail = func(err error) error {
			fmt.Fprintf(newStreams(socket, !o.Tty).stdout, "%v\r\n", err)
			return nil
		}
	}
	m.publish(c, events.Action(string(events.ActionExecStart)+": "+commandLine(x.request.Cmd)), map[string]string{"execID": x.id})
	size := o.ConsoleSize
	if size == nil {
		size = x.request.ConsoleSize
	}
	var rows, cols uint16
	if size != nil && x.request.Tty {
		rows, cols = uint16(size[0]), uint16(size[1])
	}
	started, code, err := m.starter.StartExec(ctx, c, x.request, rows, cols, req)
	if err != nil {
		m.ended(x, code)
		return fail(err)
	}
	m.mu.Lock()
	if x.exitCode == nil { // it may have ended already
		x.pid = started.PID
	}
	x.begin()
	m.mu.Unlock()
	return nil
}

func (m *Manager) unclaim(x *exec) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x.started = false
}

func (m *Manager) ended(x *exec, code int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x.exitCode, x.ended, x.pid = &code, time.Now(), 0
	x.begin()
}

// begin lets go on who waits for the command to run; Manager.mu is held.
func (x *exec) begin() {
	select {
	case <-x.begun:
	default:
		close(x.begun)
	}
}

// Exited takes note of the end of an exec.
func (m *Manager) Exited(e supervise.Exit) {
	m.mu.Lock()
	x := m.execs[e.Key.Exec]
	m.mu.Unlock()
	if x != nil {
		m.ended(x, e.Code)
		if x.done != nil {
			x.done <- e.Code
		}
		if c, err := m.store.Get(e.Key.Container); err == nil {
			m.publish(c, events.ActionExecDie, map[string]string{"execID": x.id, "exitCode": strconv.Itoa(e.Code)})
		}
	}
	if err := m.keeper.Forget(context.Background(), e.Key); err != nil {
		slog.Warn("forget exec", "exec", e.Key.Exec, "error", err)
	}
}

// Adopt takes over an exec that was started by an earlier engine. What was
// asked for is not known any more, only that it runs, or how it ended while no
// engine was there.
func (m *Manager) Adopt(p supervise.Process) {
	m.mu.Lock()
	m.execs[p.Key.Exec] = &exec{id: p.Key.Exec, container: p.Key.Container, request: &apicontainer.ExecCreateRequest{}, started: true, pid: p.PID, begun: make(chan struct{})}
	m.execs[p.Key.Exec].begin()
	m.mu.Unlock()
	if p.Exited != nil {
		m.Exited(*p.Exited)
	}
}

// ContainerGone drops the execs of a removed container.
func (m *Manager) ContainerGone(containerID string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, x := range m.execs {
		if x.container == containerID {
			delete(m.execs, k)
		}
	}
}

// ExecIDs lists the execs of a container that have not ended, for inspect.
func (m *Manager) ExecIDs(containerID string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []string
	for k, x := range m.execs {
		if x.container == containerID && x.exitCode == nil {
			ids = append(ids, k)
		}
	}
	return ids
}

// settle records the end of an exec that the keeper knows of already. A client
// that saw its stream end asks for the exit code at once, and the keeper's
// report may still be on its way to here.
func (m *Manager) settle(ctx context.Context, execID string) error {
	m.mu.Lock()
	x := m.execs[execID]
	running := x != nil && x.started && x.exitCode == nil
	m.mu.Unlock()
	if !running {
		return nil
	}
	all, err := m.keeper.List(ctx)
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.Key.Exec == execID && p.Exited != nil {
			m.ended(x, p.Exited.Code)
		}
	}
	return nil
}

// ExecInspect tells of one exec.
func (m *Manager) ExecInspect(ctx context.Context, execID string) (*apicontainer.ExecInspectResponse, error) {
	if err := m.settle(ctx, execID); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.execs[execID]
	if x == nil {
		return nil, noExec(execID)
	}
	if _, err := m.store.Get(x.container); err != nil {
		return nil, noExec(execID)
	}
	r := x.request
	resp := &apicontainer.ExecInspectResponse{
		ID: x.id, Running: x.started && x.exitCode == nil, ExitCode: x.exitCode, OpenStdin: r.AttachStdin, OpenStdout: r.AttachStdout, OpenStderr: r.AttachStderr,
		ContainerID: x.container, DetachKeys: x.keys, Pid: x.pid, CanRemove: x.exitCode != nil,
		ProcessConfig: &apicontainer.ExecProcessConfig{Tty: r.Tty, Privileged: &r.Privileged, User: r.User},
	}
	if len(r.Cmd) > 0 {
		resp.ProcessConfig.Entrypoint, resp.ProcessConfig.Arguments = r.Cmd[0], append([]string{}, r.Cmd[1:]...)
	}
	return resp, nil
}

// ExecResize sets the size of an exec's terminal, in characters.
func (m *Manager) ExecResize(ctx context.Context, execID string, height, width uint16) error {
	m.mu.Lock()
	x := m.execs[execID]
	m.mu.Unlock()
	if x == nil {
		return noExec(execID)
	}
	late := time.NewTimer(startWait)
	defer late.Stop()
	select {
	case <-x.begun:
	case <-late.C:
		return errdefs.ErrInternal.WithMessage("timeout waiting for exec session ready")
	case <-ctx.Done():
		return ctx.Err()
	}
	return m.resize(ctx, supervise.Key{Container: x.container, Exec: x.id}, height, width)
}

func (m *Manager) resize(ctx context.Context, k supervise.Key, height, width uint16) error {
	return m.keeper.Resize(ctx, k, height, width)
}

// commandLine is how events show a command: dockerd puts a space behind the
// program also when it has no arguments.
func commandLine(cmd []string) string { return cmd[0] + " " + strings.Join(cmd[1:], " ") }
