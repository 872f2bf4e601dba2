package shell

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// dialTLS is a dialer whose connections say why an engine refused them.
func dialTLS(cfg *tls.Config) func(context.Context, string, string) (net.Conn, error) {
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 30 * time.Second}, Config: cfg}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &refusable{Conn: c.(*tls.Conn)}, nil
	}
}

// refusable is a TLS connection that an engine may refuse after the handshake,
// as TLS 1.3 has it. net/http then reads the reason and closes the connection
// while it still writes the request, and tells only that it was closed: so a
// write that fails tells what was read.
type refusable struct {
	*tls.Conn
	reason atomic.Pointer[error]
}

func (c *refusable) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" { // crypto/tls has no type for it
		c.reason.CompareAndSwap(nil, &err)
	}
	return n, err
}

func (c *refusable) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if reason := c.reason.Load(); err != nil && reason != nil {
		err = *reason
	}
	return n, err
}
