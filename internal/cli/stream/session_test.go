package stream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// connected returns both ends of a stream socket.
func connected(t *testing.T) (near, far *net.UnixConn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") //nolint:usetesting // t.TempDir is too long for a socket path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	far, err = l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// TestHalfClose shows that the end of stdin reaches the program while its
// output is still read.
func TestHalfClose(t *testing.T) {
	near, far := connected(t)
	go func() {
		in, _ := io.ReadAll(far) // ends only by the half-close
		far.Write(append([]byte{1, 0, 0, 0, 0, 0, 0, byte(len(in))}, in...))
		far.Write(append([]byte{2, 0, 0, 0, 0, 0, 0, 2}, "e\n"...))
		far.Close()
	}()
	var out, errOut bytes.Buffer
	s := &Session{In: shell.NewIn(strings.NewReader("typed")), Out: &out, Err: &errOut, Conn: client.NewHijackedResponse(near, "")}
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out.String() != "typed" || errOut.String() != "e\n" {
		t.Errorf("stdout %q, stderr %q", out.String(), errOut.String())
	}
}

func TestDetachRestoresTerminal(t *testing.T) {
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer tty.Close()
	mode := func() uint32 {
		m, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return m.Lflag
	}
	before := mode()
	near, far := connected(t)
	far.Write([]byte("prompt"))
	var out bytes.Buffer
	s := &Session{In: shell.NewIn(tty), Out: &out, Err: &out, Conn: client.NewHijackedResponse(near, ""), TTY: true, DetachKeys: "ctrl-x,q"}
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	deadline := time.Now().Add(5 * time.Second)
	for mode() == before { // the change of a terminal's mode cannot be waited for
		if time.Now().After(deadline) {
			t.Fatal("never raw")
		}
		time.Sleep(time.Millisecond)
	}
	master.Write([]byte("ls\x18q"))
	got := make([]byte, 2)
	if _, err := io.ReadFull(far, got); err != nil || string(got) != "ls" {
		t.Errorf("program read %q, %v", got, err)
	}
	if err := <-done; !Detached(err) {
		t.Errorf("ended with %v", err)
	}
	if mode() != before {
		t.Error("terminal was left raw")
	}
}

func TestCancelEndsSession(t *testing.T) {
	near, _ := connected(t)
	ctx, cancel := context.WithCancel(t.Context())
	a := Go(ctx, &Session{Out: io.Discard, Conn: client.NewHijackedResponse(near, "")})
	cancel()
	if err := <-a.Done(); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

func TestDetachKeys(t *testing.T) {
	for keys, ok := range map[string]bool{"": true, "ctrl-p,ctrl-q": true, "a": true, "ctrl-@": true, "foo": false, "ctrl-": false} {
		if err := CheckDetachKeys(keys); (err == nil) != ok {
			t.Errorf("%q: %v", keys, err)
		}
	}
}
