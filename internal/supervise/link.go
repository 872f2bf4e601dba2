package supervise

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/supervise/wire"
)

// link is one connection to a keeper.
type link struct {
	conn  *net.UnixConn
	event func(wire.Frame) error

	sending sync.Mutex // a frame is written by one goroutine as a whole

	mu      sync.Mutex
	next    uint32
	waiting map[uint32]*waiter
	err     error // set when the connection is over

	over chan struct{} // closed then
}

type waiter struct {
	then func(wire.Frame) error
	done chan struct{}
	f    wire.Frame
	err  error
}

// newLink begins to read from conn; event is called with what is no answer.
func newLink(conn *net.UnixConn, event func(wire.Frame) error) *link {
	l := &link{conn: conn, event: event, waiting: map[uint32]*waiter{}, over: make(chan struct{})}
	go l.read()
	return l
}

func (l *link) close() { l.conn.Close() }

var errLost = errdefs.ErrUnavailable.WithMessage("the connection to the keeper was lost")

// call sends a request and waits for the answer.
func (l *link) call(typ uint8, m wire.Message, files []*os.File, then func(wire.Frame) error) (wire.Frame, error) {
	w := &waiter{then: then, done: make(chan struct{})}
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return wire.Frame{}, errLost
	}
	l.next++
	id := l.next
	l.waiting[id] = w
	l.mu.Unlock()
	if err := l.send(typ, id, m, files); err != nil {
		l.mu.Lock()
		_, mine := l.waiting[id]
		delete(l.waiting, id)
		l.mu.Unlock()
		if mine {
			return wire.Frame{}, err
		}
	}
	<-w.done
	return w.f, w.err
}

func (l *link) send(typ uint8, id uint32, m wire.Message, files []*os.File) error {
	if len(files) > wire.MaxFiles {
		return errdefs.ErrInvalidArgument.WithMessage("too many files for one process")
	}
	b := wire.AppendFrame(nil, typ, id, len(files), m)
	return withDescriptors(files, nil, func(fds []int) error { return l.write(b, fds) })
}

func (l *link) write(b []byte, fds []int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	l.sending.Lock()
	defer l.sending.Unlock()
	n, _, err := l.conn.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = l.conn.Write(b[n:])
	}
	if err != nil {
		l.conn.Close() // a frame in part would make the rest unreadable
		return errLost
	}
	return nil
}

// withDescriptors calls f with the descriptors of files. File.Fd would make
// them blocking, for everybody who shares them.
func withDescriptors(files []*os.File, fds []int, f func([]int) error) error {
	if len(files) == 0 {
		return f(fds)
	}
	raw, err := files[0].SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = withDescriptors(files[1:], append(fds, int(fd)), f) })
	return errors.Join(err, inner)
}

func (l *link) read() {
	var parser wire.Parser
	buf, oob := make([]byte, 16<<10), make([]byte, wire.ControlLen())
	err := func() error {
		for {
			n, oobn, flags, _, err := l.conn.ReadMsgUnix(buf, oob)
			if err != nil {
				return err
			}
			if n == 0 {
				return io.EOF
			}
			files, err := wire.ParseFiles(oob[:oobn])
			parser.Feed(buf[:n], files)
			if err != nil {
				return err
			}
			if flags&unix.MSG_CTRUNC != 0 {
				return errors.New("descriptors of the keeper were lost: too many open files?")
			}
			for {
				f, ok, err := parser.Next()
				if err != nil {
					return err
				}
				if !ok {
					break
				}
				if err := l.frame(f); err != nil {
					return err
				}
			}
		}
	}()
	parser.Close()
	l.conn.Close()
	l.mu.Lock()
	l.err = err
	waiting := l.waiting
	l.waiting = nil
	l.mu.Unlock()
	for _, w := range waiting {
		w.err = errLost
		close(w.done)
	}
	close(l.over)
}

func (l *link) frame(f wire.Frame) error {
	if f.Type != wire.TypeDone && f.Type != wire.TypeFailed {
		return l.event(f)
	}
	l.mu.Lock()
	w := l.waiting[f.ID]
	delete(l.waiting, f.ID)
	l.mu.Unlock()
	if w == nil {
		wire.CloseAll(f.Files)
		return wire.ErrMalformed
	}
	var err error
	if f.Type == wire.TypeFailed {
		wire.CloseAll(f.Files)
		var failure wire.Failure
		if err = wire.Decode(f.Payload, &failure); err == nil {
			w.err = errorOf(&failure)
		}
	} else {
		f.Payload = append([]byte(nil), f.Payload...)
		w.f = f
		if w.then != nil {
			err = w.then(f)
		} else {
			wire.CloseAll(f.Files)
		}
	}
	if err != nil {
		w.err = err
	}
	close(w.done)
	return err
}
