package session

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/supervise"
)

// Run runs a command in a container for the engine itself (a health check) and
// returns its exit code and the first limit bytes of what it printed. When ctx
// ends the command is killed.
func (m *Manager) Run(ctx context.Context, c *container.Container, r *apicontainer.ExecCreateRequest, limit int) (int, []byte, error) {
	if err := canExec(c, c.ID); err != nil {
		return -1, nil, err
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs, file := os.NewFile(uintptr(fds[0]), "probe"), os.NewFile(uintptr(fds[1]), "probe")
	defer theirs.Close()
	ours, err := net.FileConn(file)
	file.Close()
	if err != nil {
		return -1, nil, err
	}
	defer ours.Close()

	x := &exec{id: id.New(), container: c.ID, request: r, started: true, done: make(chan int, 1), begun: make(chan struct{})}
	m.mu.Lock()
	m.execs[x.id] = x
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.execs, x.id)
		m.mu.Unlock()
	}()
	command := commandLine(r.Cmd)
	attributes := map[string]string{"execID": x.id}
	m.publish(c, events.Action(string(events.ActionExecCreate)+": "+command), attributes)
	m.publish(c, events.Action(string(events.ActionExecStart)+": "+command), attributes)
	key := supervise.Key{Container: c.ID, Exec: x.id}
	_, code, err := m.starter.StartExec(ctx, c, r, 0, 0, &supervise.StartRequest{
		Key: key, Attach: []supervise.Attachment{{Conn: theirs, Stdout: true, Stderr: true, Token: x.id}},
	})
	if err != nil {
		return code, nil, err
	}
	m.mu.Lock()
	x.begin()
	m.mu.Unlock()
	theirs.Close()
	stop := context.AfterFunc(ctx, func() {
		_ = m.keeper.Signal(context.WithoutCancel(ctx), key, syscall.SIGKILL) // gone already is as good
	})
	defer stop()
	output, err := io.ReadAll(io.LimitReader(ours, int64(limit)))
	if err == nil {
		_, err = io.Copy(io.Discard, ours)
	}
	select {
	case code = <-x.done:
		return code, output, err
	case <-ctx.Done():
		return -1, output, ctx.Err()
	}
}
