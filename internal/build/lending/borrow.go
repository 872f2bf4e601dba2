package lending

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/api/lend"
)

// ErrRefused says that the client does not lend this file.
var ErrRefused = errors.New("the client does not lend this file")

// Borrower is the engine's end. It is not safe for concurrent use.
type Borrower struct{ conn *net.UnixConn }

// Borrow begins to borrow over a connection, which is the borrower's if it
// succeeds.
func Borrow(c *net.UnixConn) (*Borrower, error) {
	b := &Borrower{c}
	f, err := b.take()
	if err != nil {
		return nil, fmt.Errorf("no descriptors come through this connection: %w", err)
	}
	f.Close()
	return b, nil
}

// Open gives the file of a name in a directory that the client has offered,
// open for reading. It is the caller's, and a regular file. After another error
// than ErrRefused nothing more can be borrowed.
func (b *Borrower) Open(dir, name string) (*os.File, error) {
	n := len(dir) + 1 + len(name)
	if n > lend.Longest {
		return nil, ErrRefused
	}
	ask := binary.BigEndian.AppendUint32(make([]byte, 0, 4+n), uint32(n))
	ask = append(append(append(ask, dir...), 0), name...)
	if _, err := b.conn.Write(ask); err != nil {
		return nil, err
	}
	f, err := b.take()
	if err != nil {
		return nil, err
	}
	// A client may hand over anything: what can block, or has no end, is not read.
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, ErrRefused
	}
	return f, nil
}

// take reads an answer.
func (b *Borrower) take() (*os.File, error) {
	var one [1]byte
	rights := make([]byte, unix.CmsgSpace(4))
	n, m, _, _, err := b.conn.ReadMsgUnix(one[:], rights)
	if err != nil {
		return nil, err
	}
	fd, err := descriptor(rights[:m])
	switch {
	case err != nil:
		return nil, err
	case fd >= 0:
		return os.NewFile(uintptr(fd), "borrowed"), nil
	case n == 0:
		return nil, io.ErrUnexpectedEOF
	}
	return nil, ErrRefused
}

// descriptor is the one that a message brought; -1 is none. Others are closed: by
// the kernel, but for one for which alignment leaves room.
func descriptor(rights []byte) (int, error) {
	list, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(list) == 0 {
		return -1, err
	}
	fds, err := unix.ParseUnixRights(&list[0])
	if err != nil || len(fds) == 0 {
		return -1, err
	}
	for _, fd := range fds[1:] {
		unix.Close(fd)
	}
	return fds[0], nil
}

// Close ends the connection.
func (b *Borrower) Close() error { return b.conn.Close() }
