package supervise

import (
	"context"
	"syscall"

	"github.com/containerd/errdefs"
)

// Client is the engine's connection to its keeper. Its methods may be called
// by several goroutines.
type Client struct{ events chan Event }

var errNotYet = errdefs.ErrNotImplemented.WithMessage("the keeper is not built yet")

// Connect finds the running keeper, or starts one, and adopts what it
// supervises: see List.
func Connect(ctx context.Context, c Config) (*Client, error) { return nil, errNotYet }

// Start starts a process. When the program could not be started the error is
// a *sandbox.StartError. A key whose process has exited may be used again.
func (c *Client) Start(ctx context.Context, r *StartRequest) (*Started, error) { return nil, errNotYet }

// Release lets a process that was started with Plan.Hold go on; same errors as
// Start.
func (c *Client) Release(ctx context.Context, key Key) error { return errNotYet }

// Attach connects a client with a running process.
func (c *Client) Attach(ctx context.Context, key Key, a Attachment) error { return errNotYet }

// Resize sets the size of the process's terminal.
func (c *Client) Resize(ctx context.Context, key Key, rows, cols uint16) error { return errNotYet }

// Signal sends a signal to the process, never to another one that got its pid.
func (c *Client) Signal(ctx context.Context, key Key, sig syscall.Signal) error { return errNotYet }

// List tells of all processes that were not forgotten.
func (c *Client) List(ctx context.Context) ([]Process, error) { return nil, errNotYet }

// Forget tells the keeper that the exit of a process was recorded.
func (c *Client) Forget(ctx context.Context, key Key) error { return errNotYet }

// Events delivers what happens after Connect, in order. A process that List
// shows as exited may or may not have an Exit here too. It is closed by Close,
// and when another Client has taken over the keeper.
func (c *Client) Events() <-chan Event { return c.events }

// Close disconnects. The processes, their logs and attached clients live on.
func (c *Client) Close() error { return nil }
