package daemon

import (
	"context"
	"net"
	"net/http"
	"sync"

	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client"

	"github.com/wherry-engine/wherry/internal/bootstrap"
)

// bootstrapper makes base images by the engine's own API.
type bootstrapper struct {
	serve func(net.Listener) error
}

// Bootstrap is bootstrap.Run.
func (b bootstrapper) Bootstrap(ctx context.Context, name, mirror string, include []string, progress func(jsonstream.Message)) (string, error) {
	l := &inside{conns: make(chan net.Conn), closed: make(chan struct{})}
	var served sync.WaitGroup
	served.Go(func() { b.serve(l) }) //nolint:errcheck // it ends with l
	defer served.Wait()
	defer l.Close()
	t := &http.Transport{}
	defer t.CloseIdleConnections()
	api, err := client.New(client.WithHTTPClient(&http.Client{Transport: t}), client.WithHost("tcp://engine:80"), client.WithScheme("http"), client.WithDialContext(l.dial))
	if err != nil {
		return "", err
	}
	return bootstrap.Run(ctx, api, bootstrap.Options{Name: name, Mirror: mirror, Include: include}, progress)
}

// inside is a listener for this process alone.
type inside struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *inside) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Accept waits for a dial.
func (l *inside) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *inside) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr is a name only.
func (l *inside) Addr() net.Addr { return &net.UnixAddr{Name: "inside", Net: "unix"} }
