package keeper

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/supervise/wire"
)

// maxBehind is how many bytes a client may be behind before the process waits
// for it; dockerd's pipes hold as much.
const maxBehind = 1 << 20

// lingerLimit is how long a client may take to close its side after ours. If
// we closed at once, what it sent and nobody read would make the kernel reset
// the connection, and the client would lose output.
const lingerLimit = 5 * time.Second

// pidfdProcessGroup is PIDFD_SIGNAL_PROCESS_GROUP.
const pidfdProcessGroup = 1 << 2

// Reasons, as in supervise.EndReason.
const (
	endEOF    = "eof"
	endDetach = "detach"
	endError  = "error"
)

// client is an attached client. Its life: it is attached; at its end it is
// finishing until all output is sent; then it lingers until it hangs up.
type client struct {
	k    *Keeper
	p    *process // nil once it is not attached any more
	key  wire.Key
	fd   int
	meta wire.Client

	out       []byte // not taken by the socket yet
	keys      matcher
	typing    bool   // its input was not at its end yet
	finishing string // the reason, once it is not attached any more
	lingering bool
	linger    *timer

	watched bool
	events  uint32
}

// attach connects a client and takes over the descriptor, also with an error.
func (k *Keeper) attach(p *process, meta *wire.Client, fd int) error {
	c := &client{k: k, p: p, key: p.key, fd: fd, meta: *meta, typing: meta.Stdin && p.stdin != nil, keys: matcher{keys: meta.DetachKeys}}
	c.meta.ReadAhead = nil
	if err := k.loop.add(fd, 0, c); err != nil {
		unix.Close(fd)
		return err
	}
	c.watched = true
	p.clients = append(p.clients, c)
	k.clients[c] = struct{}{}
	if len(meta.ReadAhead) > 0 && c.typing {
		c.typed(meta.ReadAhead)
	}
	c.update()
	return nil
}

// update watches for what can be served now.
func (c *client) update() {
	if c.fd < 0 {
		return
	}
	var want uint32
	paused := c.p != nil && c.typing && c.p.stdin.blocked()
	if c.lingering || c.p != nil && c.typing && !paused {
		want |= unix.EPOLLIN
	}
	if len(c.out) > 0 {
		want |= unix.EPOLLOUT
	}
	switch {
	case !c.watched && paused && want == 0: // see ready
	case !c.watched:
		if c.k.loop.add(c.fd, want, c) == nil {
			c.watched, c.events = true, want
		}
	case want != c.events:
		if c.k.loop.mod(c.fd, want) == nil {
			c.events = want
		}
	}
}

func (c *client) ready(events uint32) {
	if events&unix.EPOLLOUT != 0 {
		c.flush()
	}
	gone := events&(unix.EPOLLHUP|unix.EPOLLERR) != 0
	switch {
	case c.fd < 0:
	case c.lingering:
		c.discard()
	case c.p != nil && c.typing && c.p.stdin.blocked():
		if gone {
			// There may be input in the socket that the process will want later;
			// a hang-up cannot be masked, so look away until then.
			c.watched = false
			c.k.loop.del(c.fd)
		}
	case c.p != nil && c.typing:
		if events&unix.EPOLLIN != 0 || gone {
			c.receive(gone)
		}
	case gone:
		c.vanish()
	}
}

// receive reads input once.
func (c *client) receive(gone bool) {
	n, _, err := unix.Recvfrom(c.fd, c.k.buf[:], unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
	case err != nil:
		c.vanish()
	case n == 0:
		c.typingEnded(gone)
	default:
		c.typed(c.k.buf[:n])
		c.update()
	}
}

// typed passes input on to the process.
func (c *client) typed(data []byte) {
	detach := false
	if len(c.meta.DetachKeys) > 0 {
		data, detach = c.keys.filter(data)
	}
	if in := c.p.stdin; in != nil && !in.ending && len(data) > 0 {
		wasBlocked := in.blocked()
		in.write(data)
		if !wasBlocked && in.blocked() {
			c.p.inputReady() // the others have to wait too
		}
	}
	if detach {
		c.finish(endDetach)
	}
}

// typingEnded handles the end of the client's input.
func (c *client) typingEnded(gone bool) {
	c.typing = false
	p := c.p
	if rest := c.keys.rest(); len(rest) > 0 && p.stdin != nil && !p.stdin.ending {
		p.stdin.write(rest)
	}
	switch {
	case p.stdinOnce && !p.terminal:
		if p.stdin != nil {
			p.stdin.end()
		}
		c.update()
	case gone:
		c.vanish()
	default:
		c.finish(endEOF)
	}
}

// deliver sends output to the client, or keeps it until the client takes it.
func (c *client) deliver(s logs.Stream, data []byte) {
	if s == logs.Stdout && !c.meta.Stdout || s == logs.Stderr && !c.meta.Stderr {
		return
	}
	var header []byte
	if c.meta.Framed {
		var h [8]byte
		h[0] = byte(s)
		binary.BigEndian.PutUint32(h[4:], uint32(len(data)))
		header = h[:]
	}
	if len(c.out) == 0 {
		n, err := unix.SendmsgBuffers(c.fd, [][]byte{header, data}, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
			n = 0
		case err != nil:
			c.vanish()
			return
		}
		sent := min(n, len(header))
		header, data = header[sent:], data[n-sent:]
	}
	if len(header)+len(data) > 0 {
		c.out = append(append(c.out, header...), data...)
		c.update()
	}
}

func (c *client) flush() {
	for len(c.out) > 0 {
		n, err := unix.SendmsgN(c.fd, c.out, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			c.vanish()
			return
		}
		c.out = c.out[n:]
	}
	if len(c.out) == 0 {
		c.out = nil
		if c.finishing != "" && !c.lingering {
			c.hangUp()
			return
		}
	}
	if len(c.out) <= maxBehind/2 {
		c.p.relieved()
	}
	c.update()
}

// leave takes the client away from the process.
func (c *client) leave() {
	if p := c.p; p != nil {
		c.p = nil
		p.clients = slices.DeleteFunc(p.clients, func(o *client) bool { return o == c })
		p.relieved()
	}
}

// finish ends the attachment once all output is sent.
func (c *client) finish(reason string) {
	c.leave()
	c.finishing = reason
	if !c.watched { // parked with a hang-up
		c.hangUp()
		return
	}
	if len(c.out) == 0 {
		c.hangUp()
		return
	}
	c.update()
}

// hangUp ends our side and lingers.
func (c *client) hangUp() {
	c.end(c.finishing)
	c.out = nil
	c.lingering = true
	if err := unix.Shutdown(c.fd, unix.SHUT_WR); err != nil {
		c.close()
		return
	}
	c.linger = c.k.loop.after(lingerLimit, func() { c.linger = nil; c.close() })
	c.update()
	c.discard()
}

// discard reads what nobody wants, and closes at its end.
func (c *client) discard() {
	for c.fd >= 0 {
		n, _, err := unix.Recvfrom(c.fd, c.k.buf[:], unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			c.close()
		}
	}
}

// vanish handles a client whose connection has broken.
func (c *client) vanish() {
	p, reason := c.p, c.finishing
	c.leave()
	if reason == "" {
		reason = endError
	}
	c.end(reason)
	c.close()
	if p != nil && p.killOnDisconnect && len(p.clients) == 0 && p.pidfd >= 0 {
		// It leads a group of its own; kernels before 6.9 know only the process.
		err := unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, pidfdProcessGroup)
		if errors.Is(err, unix.EINVAL) {
			err = unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			logf("kill ", p.key.String(), ": ", err.Error())
		}
	}
}

// end tells the engine, once.
func (c *client) end(reason string) {
	if !c.lingering {
		c.k.engine.send(wire.TypeEnd, 0, &wire.End{Key: c.key, Token: c.meta.Token, Reason: reason})
	}
}

func (c *client) close() {
	if c.fd < 0 {
		return
	}
	c.k.loop.cancel(c.linger)
	c.k.loop.del(c.fd)
	_ = unix.Shutdown(c.fd, unix.SHUT_RDWR) // others may hold duplicates
	unix.Close(c.fd)
	c.fd, c.watched, c.out = -1, false, nil
	delete(c.k.clients, c)
	if c.k.engine == nil {
		c.k.mayEnd()
	}
}
