package keeper

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/supervise/wire"
)

// control is a connection with an engine.
type control struct {
	k      *Keeper
	fd     int
	parser wire.Parser
	out    []outgoing // what the socket did not take yet
}

type outgoing struct {
	b     []byte
	files []int // duplicates, owned
}

func (k *Keeper) newControl(fd int) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	c := &control{k: k, fd: fd}
	k.controls[c] = struct{}{}
	return k.loop.add(fd, unix.EPOLLIN, c)
}

// listener accepts engines.
type listener struct{ k *Keeper }

func (l listener) ready(uint32) {
	for {
		fd, _, err := unix.Accept4(l.k.listen, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != nil {
			return // none, or it is gone already
		}
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil || cred.Uid != 0 && int(cred.Uid) != unix.Geteuid() {
			unix.Close(fd)
			continue
		}
		if err := l.k.newControl(fd); err != nil {
			logf("connection: ", err.Error())
			unix.Close(fd)
		}
	}
}

func (c *control) ready(events uint32) {
	if events&unix.EPOLLOUT != 0 {
		c.flush()
	}
	for c.fd >= 0 {
		n, oobn, flags, _, err := unix.Recvmsg(c.fd, c.k.buf[:], c.k.oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			c.close()
			return
		}
		files, err := wire.ParseFiles(c.k.oob[:oobn])
		c.parser.Feed(c.k.buf[:n], files)
		if err != nil || flags&unix.MSG_CTRUNC != 0 {
			logf("descriptors of the engine were lost: too many open files?")
			c.close()
			return
		}
		c.frames()
		if n < len(c.k.buf) && len(files) == 0 {
			return
		}
	}
}

func (c *control) frames() {
	for c.fd >= 0 {
		f, ok, err := c.parser.Next()
		if err == nil && ok {
			err = c.k.handle(c, f)
		}
		if err != nil {
			logf("engine: ", err.Error())
			c.close()
			return
		}
		if !ok {
			return
		}
	}
}

// close ends the connection; what is supervised goes on.
func (c *control) close() {
	if c.fd < 0 {
		return
	}
	c.k.loop.del(c.fd)
	unix.Close(c.fd)
	c.fd = -1
	c.parser.Close()
	for _, o := range c.out {
		wire.CloseAll(o.files)
	}
	c.out = nil
	delete(c.k.controls, c)
	if c.k.engine == c {
		c.k.engine = nil
		c.k.engineLost()
	}
}

// send queues a frame. The descriptors stay the caller's.
func (c *control) send(typ uint8, id uint32, m wire.Message, files ...int) {
	if c == nil || c.fd < 0 {
		return
	}
	b := wire.AppendFrame(c.k.frame[:0], typ, id, len(files), m)
	if cap(b) <= 1<<16 {
		c.k.frame = b[:0]
	}
	if len(c.out) == 0 {
		n := c.write(b, files)
		if n < 0 || n == len(b) {
			return
		}
		if n > 0 {
			b, files = b[n:], nil // the descriptors went with the first byte
		}
	}
	o := outgoing{b: append([]byte(nil), b...)}
	for _, fd := range files {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			logf("duplicate for the engine: ", err.Error())
			wire.CloseAll(o.files)
			c.close()
			return
		}
		o.files = append(o.files, dup)
	}
	c.out = append(c.out, o)
	_ = c.k.loop.mod(c.fd, unix.EPOLLIN|unix.EPOLLOUT)
}

// write returns how much was sent: 0 if nothing can be now, -1 if the
// connection is over; its end is noticed by reading from it.
func (c *control) write(b []byte, files []int) int {
	var oob []byte
	if len(files) > 0 {
		oob = unix.UnixRights(files...)
	}
	for {
		n, err := unix.SendmsgN(c.fd, b, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			return n
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return 0
		default:
			return -1
		}
	}
}

func (c *control) flush() {
	for len(c.out) > 0 {
		o := &c.out[0]
		n := c.write(o.b, o.files)
		if n == 0 {
			return
		}
		wire.CloseAll(o.files)
		o.files = nil
		if n > 0 && n < len(o.b) {
			o.b = o.b[n:]
			continue
		}
		c.out = c.out[1:]
	}
	c.out = nil
	_ = c.k.loop.mod(c.fd, unix.EPOLLIN)
	c.k.mayUpgrade()
}

func (c *control) done(id uint32, m wire.Message, files ...int) {
	c.send(wire.TypeDone, id, m, files...)
}

func (c *control) fail(id uint32, err error) {
	c.send(wire.TypeFailed, id, wire.FailureOf(err))
}
