package listen

import (
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// How long and how much a client that was refused may still send.
const (
	lingerTime  = 2 * time.Second
	lingerBytes = 1 << 20
)

// tlsListener is tls.NewListener, but for clients that are refused: they learn
// why. With TLS 1.3 a client sends its request before the engine has looked at
// its certificate; a socket that is closed with that unread resets the
// connection, and the client sees a broken pipe in the place of the alert.
type tlsListener struct {
	net.Listener
	config *tls.Config
}

func newTLSListener(l net.Listener, base *tls.Config) net.Listener {
	c := base.Clone()
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		mine := base.Clone()
		mine.VerifyConnection = func(tls.ConnectionState) error {
			hello.Conn.(*guest).welcome.Store(true)
			return nil
		}
		return mine, nil
	}
	return &tlsListener{l, c}
}

func (l *tlsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(&guest{Conn: c}, l.config), nil
}

// guest is a connection below TLS.
type guest struct {
	net.Conn
	welcome, gone atomic.Bool // its certificate was accepted; it was closed
}

// Close closes at once, unless the client was never let in: then it closes when
// the client has gone, or has had its time.
func (g *guest) Close() error {
	c, ok := g.Conn.(interface{ CloseWrite() error })
	if g.welcome.Load() || !ok {
		return g.Conn.Close()
	}
	if g.gone.Swap(true) {
		return net.ErrClosed
	}
	if c.CloseWrite() != nil || g.Conn.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return g.Conn.Close()
	}
	go func() {
		io.CopyN(io.Discard, g.Conn, lingerBytes)
		g.Conn.Close()
	}()
	return nil
}
