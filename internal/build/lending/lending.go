// Package lending owns the engine's end of files that clients on its own machine
// hand over open (see api/lend): it asks a client for a connection, and knows by
// a ticket whose it is.
package lending

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/session"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/wherry-engine/wherry/api/lend"
)

// Desk is where clients hand over the connections that they were asked for. Its
// zero value is ready; it is safe for concurrent use.
type Desk struct {
	mu      sync.Mutex
	waiting map[string]*wanted // by ticket
}

// wanted is a connection that a client was asked for.
type wanted struct{ conn *net.UnixConn }

var method = session.MethodURL(lend.Service, lend.Method)

// Lends tells whether a client offers to lend files.
func Lends(c session.Caller) bool { return c.Supports(method) }

// Open asks a client to lend files. The borrower is the caller's and is closed
// when ctx ends.
func (d *Desk) Open(ctx context.Context, c session.Caller) (*Borrower, error) {
	ticket, w := rand.Text(), &wanted{}
	d.mu.Lock()
	if d.waiting == nil {
		d.waiting = map[string]*wanted{}
	}
	d.waiting[ticket] = w
	d.mu.Unlock()
	err := c.Conn().Invoke(ctx, method, wrapperspb.String(ticket), &emptypb.Empty{})
	d.mu.Lock()
	delete(d.waiting, ticket)
	conn := w.conn
	d.mu.Unlock()
	switch {
	case conn == nil && err == nil:
		return nil, errors.New("the client has not connected")
	case conn == nil:
		return nil, err
	case err != nil:
		conn.Close()
		return nil, err
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	b, err := Borrow(conn)
	if err != nil {
		conn.Close()
	}
	return b, err
}

// Serve takes over the connection of a request for lend.Path. An error came
// before that.
func (d *Desk) Serve(w http.ResponseWriter, r *http.Request) error {
	if proto := r.Header.Get("Upgrade"); !strings.EqualFold(proto, lend.Protocol) {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("this endpoint wants the upgrade to %s, not %q", lend.Protocol, proto))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	want := d.waiting[r.Header.Get(lend.Header)]
	if want == nil || want.conn != nil {
		return errdefs.ErrNotFound.WithMessage("no build waits for files with this ticket")
	}
	h, ok := w.(http.Hijacker)
	if !ok {
		return errdefs.ErrInvalidArgument.WithMessage("this connection cannot be taken over")
	}
	c, _, err := h.Hijack()
	if err != nil {
		return err
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		fmt.Fprint(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") //nolint:errcheck // see below
		c.Close()
		return nil
	}
	// What was read ahead of the client's first byte has lost its descriptor; a
	// client waits for the answer.
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", lend.Protocol); err != nil {
		conn.Close()
		return nil //nolint:nilerr // the client went away
	}
	want.conn = conn
	return nil
}
