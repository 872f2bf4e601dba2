// Package conn owns what becomes of the HTTP connections that builders' clients
// turn into sessions and into connections of BuildKit's API.
package conn

import (
	"bufio"
	"net"
	"net/http"
	"sync"
)

// Attend gives an answer whose connection, once taken over, tells by gone that
// its client is gone.
func Attend(w http.ResponseWriter, gone func()) http.ResponseWriter {
	return &attended{ResponseWriter: w, gone: gone}
}

// attended gives a connection that tells when its client is gone.
type attended struct {
	http.ResponseWriter
	gone func()
}

// Hijack takes the connection over.
func (a *attended) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return &attendedConn{conn, a.gone}, rw, nil
}

type attendedConn struct {
	net.Conn
	gone func()
}

func (c *attendedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.gone()
	}
	return n, err
}

// single is a listener of one connection, which ends with it.
type single struct {
	conn  net.Conn
	once  sync.Once
	given bool
	ended chan struct{}
}

// Listener gives a listener that accepts c alone, of which r has read ahead,
// and ends with it.
func Listener(c net.Conn, r *bufio.Reader) net.Listener {
	s := &single{ended: make(chan struct{})}
	s.conn = &counted{Conn: c, r: r, end: func() { s.once.Do(func() { close(s.ended) }) }}
	return s
}

// Accept gives the connection, and after that waits for its end.
func (s *single) Accept() (net.Conn, error) {
	if !s.given {
		s.given = true
		return s.conn, nil
	}
	<-s.ended
	return nil, net.ErrClosed
}

// Close does nothing: the connection closes itself.
func (s *single) Close() error { return nil }

// Addr is the engine's end.
func (s *single) Addr() net.Addr { return s.conn.LocalAddr() }

// counted reads what was read ahead first, and tells of its end.
type counted struct {
	net.Conn
	r   *bufio.Reader
	end func()
}

func (c *counted) Read(p []byte) (int, error) {
	if c.r.Buffered() > 0 {
		return c.r.Read(p)
	}
	return c.Conn.Read(p)
}

func (c *counted) Close() error {
	defer c.end()
	return c.Conn.Close()
}
