package ship

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/logs/driver"
)

// sendLimit bounds one line on its way, so that a receiver that takes nothing
// is noticed.
const sendLimit = 10 * time.Second

// link is a connection that is made when it is needed.
type link struct {
	sink *driver.Sink
	conn net.Conn
}

func (l *link) dial(ctx context.Context, network, address string) error {
	if l.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	var err error
	if l.sink.TLS != nil {
		l.conn, err = (&tls.Dialer{Config: l.sink.TLS}).DialContext(ctx, network, address)
	} else {
		l.conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
	}
	if err != nil {
		l.conn = nil // not a nil *tls.Conn
	}
	return err
}

// write sends one message and drops the connection when that fails. A stream
// whose receiver has hung up is noticed before the message is lost in it.
func (l *link) write(ctx context.Context, b []byte, limit time.Duration) error {
	conn := l.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	if limit == 0 {
		limit = sendLimit
	}
	err := conn.SetDeadline(time.Now().Add(limit))
	if err == nil {
		err = hungUp(conn)
	}
	if err == nil {
		_, err = conn.Write(b)
	}
	if err != nil {
		l.close()
	}
	return err
}

// hungUp reports whether the other side of a stream has ended it: the kernel
// would take a message all the same, and throw it away.
func hungUp(conn net.Conn) error {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, ok := conn.(syscall.Conn)
	if !ok || conn.LocalAddr().Network() == "udp" || conn.LocalAddr().Network() == "unixgram" {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var ended error
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if n == 0 && err == nil {
			ended = io.EOF
		} else if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			ended = err
		}
	})
	return errors.Join(err, ended)
}

func (l *link) close() {
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
}

func severity(e *logs.Entry) int {
	if e.Stream == logs.Stderr.String() {
		return 3 // error
	}
	return 6 // informational
}
