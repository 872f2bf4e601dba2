// Package rtnl owns the engine's rtnetlink sockets: links, addresses and
// routes, sent as batches of messages in one system call each.
//
// A Conn speaks to the network namespace in which it was dialled, whatever
// thread uses it later. Everything that depends on the calling thread's
// namespace (dialling, /proc/sys/net) is done inside Spawn or Enter, which
// take a thread of their own and never give it back to the scheduler in a
// foreign namespace.
package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

const receiveBuffer = 64 << 10

// Conn is one rtnetlink socket. It is safe for concurrent use; a batch is one
// exchange. The kernel answers rtnetlink while it handles the send, so no call
// here waits for anything but the rtnl lock.
type Conn struct {
	mu  sync.Mutex
	fd  int
	seq uint32
	in  []byte
}

// Dial opens a socket in the network namespace of the calling thread.
func Dial() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("rtnetlink socket: %w", err)
	}
	// Both only improve what is told about an error.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("rtnetlink bind: %w", err)
	}
	return &Conn{fd: fd}, nil
}

// Close closes the socket. The Conn is not used afterwards.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	return unix.Close(fd)
}

// Error is a message that the kernel refused.
type Error struct {
	Op     string // what the message was to do: "add link veth1234567"
	Errno  unix.Errno
	Detail string // the kernel's own words, when it gave any
}

func (e *Error) Error() string {
	if e.Detail != "" {
		return fmt.Sprintf("%s: %v (%s)", e.Op, e.Errno, e.Detail)
	}
	return fmt.Sprintf("%s: %v", e.Op, e.Errno)
}

// Unwrap returns the errno, so that errors.Is(err, unix.EEXIST) works.
func (e *Error) Unwrap() error { return e.Errno }

// Do sends the batch in one system call. The kernel handles the messages in
// order and goes on after one that failed; Do returns the first error. A batch
// is used once.
func (c *Conn) Do(b *Batch) error {
	if len(b.ops) == 0 {
		return b.err
	}
	if b.err != nil {
		return b.err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.seq + 1
	for i, op := range b.ops {
		c.seq++
		binary.NativeEndian.PutUint32(b.enc.buf[op.at+8:], first+uint32(i))
	}
	if err := unix.Sendto(c.fd, b.enc.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("%s: rtnetlink send: %w", b.ops[0].name, err)
	}
	var failed error
	for got := 0; got < len(b.ops); {
		msgs, err := c.receive()
		if err != nil {
			return fmt.Errorf("%s: rtnetlink receive: %w", b.ops[0].name, err)
		}
		for _, m := range msgs {
			i := int(m.seq - first)
			if m.kind != unix.NLMSG_ERROR || i < 0 || i >= len(b.ops) {
				continue // left over from an exchange that was broken off
			}
			got++
			if errno, detail := m.status(); errno != 0 && failed == nil {
				failed = &Error{Op: b.ops[i].name, Errno: errno, Detail: detail}
			}
		}
	}
	return failed
}

// dump asks for all objects of a kind and hands each one's payload to fn.
func (c *Conn) dump(kind uint16, header []byte, fn func(data []byte)) error {
	for range 5 {
		again, err := c.dumpOnce(kind, header, fn)
		if err != nil || !again {
			return err
		}
	}
	return errors.New("rtnetlink dump: the tables keep changing")
}

func (c *Conn) dumpOnce(kind uint16, header []byte, fn func(data []byte)) (again bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	e := encoder{}
	at := e.message(kind, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	e.raw(header)
	e.end(at)
	binary.NativeEndian.PutUint32(e.buf[at+8:], c.seq)
	if err := unix.Sendto(c.fd, e.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, fmt.Errorf("rtnetlink send: %w", err)
	}
	var found [][]byte
	for {
		msgs, err := c.receive()
		if err != nil {
			return false, fmt.Errorf("rtnetlink receive: %w", err)
		}
		for _, m := range msgs {
			if m.seq != c.seq {
				continue
			}
			again = again || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.kind {
			case unix.NLMSG_DONE:
				if again {
					return true, nil
				}
				for _, d := range found {
					fn(d)
				}
				return false, nil
			case unix.NLMSG_ERROR:
				errno, detail := m.status()
				return false, &Error{Op: "dump", Errno: errno, Detail: detail}
			default:
				found = append(found, append([]byte(nil), m.data...))
			}
		}
	}
}

type message struct {
	kind, flags uint16
	seq         uint32
	data        []byte
}

// receive reads one datagram. The messages lie in the connection's buffer
// until the next call.
func (c *Conn) receive() ([]message, error) {
	if c.in == nil {
		c.in = make([]byte, receiveBuffer)
	}
	var n int
	for {
		var err error
		n, _, err = unix.Recvfrom(c.fd, c.in, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		break
	}
	var out []message
	for b := c.in[:n]; len(b) >= unix.NLMSG_HDRLEN; {
		l := int(binary.NativeEndian.Uint32(b))
		if l < unix.NLMSG_HDRLEN || l > len(b) {
			return nil, errors.New("rtnetlink: malformed message")
		}
		out = append(out, message{
			kind:  binary.NativeEndian.Uint16(b[4:]),
			flags: binary.NativeEndian.Uint16(b[6:]),
			seq:   binary.NativeEndian.Uint32(b[8:]),
			data:  b[unix.NLMSG_HDRLEN:l],
		})
		b = b[min(align(l), len(b)):]
	}
	return out, nil
}

// status reads an acknowledgement.
func (m message) status() (unix.Errno, string) {
	if len(m.data) < 4 {
		return unix.EBADMSG, ""
	}
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(m.data)))
	if m.flags&unix.NLM_F_ACK_TLVS == 0 {
		return errno, ""
	}
	// The header of the refused message follows (NETLINK_CAP_ACK: without its
	// payload), then attributes.
	skip := 4 + unix.NLMSG_HDRLEN
	if m.flags&unix.NLM_F_CAPPED == 0 && len(m.data) >= 8 {
		skip = 4 + align(int(binary.NativeEndian.Uint32(m.data[4:])))
	}
	detail := ""
	if skip < len(m.data) {
		attributes(m.data[skip:], func(kind uint16, v []byte) {
			if kind == unix.NLMSGERR_ATTR_MSG {
				detail = text(v)
			}
		})
	}
	return errno, detail
}
