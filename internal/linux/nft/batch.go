package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// writer sends what the library encodes, by a socket of its own: the library
// has no way to make a table that its socket owns.
type writer struct {
	fd       int
	c        *nftables.Conn
	captured []netlink.Message
}

func newWriter(ns *os.File) (*writer, error) {
	fd, err := socketIn(ns)
	if err != nil {
		return nil, fmt.Errorf("nftables socket: %w", err)
	}
	w := &writer{fd: fd}
	return w, w.reset()
}

// reset forgets what was collected.
func (w *writer) reset() error {
	w.captured = nil
	c, err := nftables.New(nftables.AsLasting(), nftables.WithTestDial(func(req []netlink.Message) ([]netlink.Message, error) {
		w.captured = append(w.captured, req...)
		return nil, io.EOF // no answers
	}))
	w.c = c
	return err
}

func (w *writer) close() error { return unix.Close(w.fd) }

// flush sends what was collected as one transaction; tables are made with flags.
func (w *writer) flush(flags uint32) error {
	if err := w.c.Flush(); err != nil {
		return err
	}
	msgs := w.captured
	w.captured = nil
	if len(msgs) == 0 {
		return nil
	}
	var out []byte
	last := len(msgs) - 2 // before the end of the batch
	for i, m := range msgs {
		kind := uint16(m.Header.Type)
		if kind == nftSubsystem<<8|unix.NFT_MSG_NEWTABLE && flags != 0 {
			setTableFlags(m.Data, flags)
		}
		// An answer to the last one alone: errors are told of each.
		f := uint16(m.Header.Flags) &^ unix.NLM_F_ACK
		if i == last {
			f |= unix.NLM_F_ACK
		}
		h := make([]byte, unix.NLMSG_HDRLEN)
		binary.NativeEndian.PutUint32(h, uint32(unix.NLMSG_HDRLEN+len(m.Data)))
		binary.NativeEndian.PutUint16(h[4:], kind)
		binary.NativeEndian.PutUint16(h[6:], f)
		binary.NativeEndian.PutUint32(h[8:], uint32(i+1))
		out = append(append(out, h...), m.Data...)
		for len(out)%4 != 0 {
			out = append(out, 0)
		}
	}
	if size, err := unix.GetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_SNDBUF); err == nil && size < 2*len(out) {
		// Without the capability the limit of the host applies, and the send tells.
		_ = unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*len(out))
	}
	if err := unix.Sendto(w.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	return w.answer(uint32(last + 1))
}

// answer reads what the kernel says of a transaction, up to the answer to the
// message with the number last or to the transaction as a whole.
func (w *writer) answer(last uint32) error {
	buf := make([]byte, 64<<10)
	var failed error
	for {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		for b := buf[:n]; len(b) >= unix.NLMSG_HDRLEN+4; {
			l := int(binary.NativeEndian.Uint32(b))
			if l < unix.NLMSG_HDRLEN || l > len(b) {
				return errors.New("nftables: malformed message")
			}
			if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR {
				code := int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:]))
				if code != 0 && failed == nil {
					failed = unix.Errno(-code)
				}
				if seq := binary.NativeEndian.Uint32(b[8:]); seq == last || seq == 1 {
					return failed
				}
			}
			b = b[min((l+3)&^3, len(b)):]
		}
	}
}

// setTableFlags writes into the attribute that the library leaves at 0.
func setTableFlags(payload []byte, flags uint32) {
	const header = 4 // struct nfgenmsg
	for b := payload[min(header, len(payload)):]; len(b) >= 8; {
		l := int(binary.NativeEndian.Uint16(b))
		if l < 4 || l > len(b) {
			return
		}
		if binary.NativeEndian.Uint16(b[2:]) == unix.NFTA_TABLE_FLAGS && l == 8 {
			binary.BigEndian.PutUint32(b[4:], flags)
			return
		}
		b = b[min((l+3)&^3, len(b)):]
	}
}

// socketIn opens a socket in a network namespace, on a thread of its own that
// goes back or ends; never on the process's first one, which the world sees.
func socketIn(ns *os.File) (int, error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			fd, err := socketIn(ns)
			done <- result{fd, err}
			return
		}
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- result{-1, err}
			return
		}
		defer home.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{-1, err}
			return
		}
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		if err == nil {
			if err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
				unix.Close(fd)
			}
		}
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		done <- result{fd, err}
	}()
	r := <-done
	return r.fd, r.err
}
