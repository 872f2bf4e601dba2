// Package conn owns what becomes of the HTTP connections that builders' clients
// turn into sessions and into connections of BuildKit's API.
package conn

import (
	"bufio"
	"bytes"
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
	return &attendedConn{Conn: conn, gone: a.gone}, rw, nil
}

type attendedConn struct {
	net.Conn
	gone func()
	head []byte // of the answer, which is written in small pieces, until it is whole
	said bool   // it was, and is written
}

// Write writes; the head of the answer, which comes first, at once. That is
// written before anybody else knows of the connection.
func (c *attendedConn) Write(p []byte) (int, error) {
	if c.said {
		return c.Conn.Write(p)
	}
	c.head = append(c.head, p...)
	if !bytes.Contains(c.head, []byte("\r\n\r\n")) {
		return len(p), nil
	}
	_, err := c.Conn.Write(c.head)
	c.head, c.said = nil, true
	return len(p), err
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
