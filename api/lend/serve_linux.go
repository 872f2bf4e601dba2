package lend

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Serve lends, as the client, what open gives, until the engine ends the
// connection. A file for which open fails is not lent. The connection stays the
// caller's.
func Serve(c *net.UnixConn, open func(dir, name string) (*os.File, error)) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	err = answer(c, null)
	null.Close()
	if err != nil {
		return err
	}
	var head [4]byte
	for {
		if _, err := io.ReadFull(c, head[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > Longest {
			return fmt.Errorf("the engine asks for a name of %d bytes", n)
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		dir, name, _ := bytes.Cut(b, []byte{0})
		f, err := open(string(dir), string(name))
		if err != nil {
			f = nil // as far as the engine is concerned
		}
		if err := answer(c, f); err != nil {
			return err
		}
	}
}

// answer sends a byte with an open file, which it closes; nil is none.
func answer(c *net.UnixConn, f *os.File) error {
	var rights []byte
	if f != nil {
		defer f.Close()
		rights = unix.UnixRights(int(f.Fd()))
	}
	_, _, err := c.WriteMsgUnix([]byte{0}, rights, nil)
	return err
}
