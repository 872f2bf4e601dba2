package supervise

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// demux takes docker's frames apart.
func demux(t *testing.T, r io.Reader) (stdout, stderr string) {
	t.Helper()
	var out [3]bytes.Buffer
	for {
		var h [8]byte
		if _, err := io.ReadFull(r, h[:]); err == io.EOF {
			return out[1].String(), out[2].String()
		} else if err != nil {
			t.Fatal(err)
		}
		if h[0] != 1 && h[0] != 2 || h[1]|h[2]|h[3] != 0 {
			t.Fatalf("bad header %v", h)
		}
		if _, err := io.CopyN(&out[h[0]], r, int64(binary.BigEndian.Uint32(h[4:]))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFramedOutputAndLog(t *testing.T) {
	e := newEngine(t)
	key, target := Key{Container: "c"}, e.logTarget()
	conn, theirs := socket(t)
	raw, theirsRaw := socket(t)
	e.start(&StartRequest{
		Key: key, Plan: sh("echo out; echo err >&2; printf tail"), Log: target,
		Attach: []Attachment{
			{Conn: theirs, Stdout: true, Stderr: true, Framed: true, Token: "a"},
			{Conn: theirsRaw, Stderr: true, Token: "b"},
		},
	})
	theirs.Close()
	theirsRaw.Close()
	stdout, stderr := demux(t, conn)
	if stdout != "out\ntail" || stderr != "err\n" {
		t.Errorf("got %q and %q", stdout, stderr)
	}
	if s := readAll(t, raw); s != "err\n" {
		t.Errorf("the second client got %q", s)
	}
	wait[Exit](e, key)
	if got := wait[AttachEnd](e, key); got.Reason != EndEOF || got.Token != "a" {
		t.Errorf("%+v", got)
	}
	if s := readLog(t, target); len(s) != len("out\nerr\ntail") || !strings.Contains(s, "err\n") {
		t.Errorf("log: %q", s)
	}
}

func TestStdinOnce(t *testing.T) {
	e := newEngine(t)
	key := Key{Container: "c"}
	conn, theirs := socket(t)
	e.start(&StartRequest{
		Key: key, Plan: sh("cat; echo end"), Stdin: true, StdinOnce: true,
		Attach: []Attachment{{Conn: theirs, Stdin: true, Stdout: true, ReadAhead: []byte("early ")}},
	})
	theirs.Close()
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB: much more than fits a pipe
	go func() {
		io.WriteString(conn, big)
		conn.CloseWrite()
	}()
	if s := readAll(t, conn); s != "early "+big+"end\n" {
		t.Errorf("%d bytes, ends in %q", len(s), s[max(0, len(s)-20):])
	}
	if x := wait[Exit](e, key); x.Code != 0 {
		t.Errorf("%+v", x)
	}
}

// TestInputOfOneThatLeft: everything typed before the connection was closed
// arrives, although nobody reads when it is closed.
func TestInputOfOneThatLeft(t *testing.T) {
	e := newEngine(t)
	key, target := Key{Container: "c"}, e.logTarget()
	conn, theirs := socket(t)
	e.start(&StartRequest{
		Key: key, Plan: sh("sleep 0.3; wc -c"), Stdin: true, StdinOnce: true, Log: target,
		Attach: []Attachment{{Conn: theirs, Stdin: true}},
	})
	theirs.Close()
	if _, err := conn.Write(make([]byte, 150000)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	wait[Exit](e, key)
	if s := strings.TrimSpace(readLog(t, target)); s != "150000" {
		t.Errorf("%s bytes arrived", s)
	}
}

// TestStdinStaysOpen: without StdinOnce the end of one client's input ends its
// attachment, and the next one can go on.
func TestStdinStaysOpen(t *testing.T) {
	e := newEngine(t)
	key := Key{Container: "c"}
	e.start(&StartRequest{Key: key, Plan: argv("/bin/cat"), Stdin: true})
	for _, word := range []string{"first\n", "second\n"} {
		conn, theirs := socket(t)
		if err := e.Attach(t.Context(), key, Attachment{Conn: theirs, Stdin: true, Stdout: true, Token: word}); err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		io.WriteString(conn, word)
		got := make([]byte, len(word))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != word {
			t.Fatalf("%q, %v", got, err)
		}
		conn.CloseWrite()
		if s := readAll(t, conn); s != "" {
			t.Errorf("then %q", s)
		}
		if end := wait[AttachEnd](e, key); end.Reason != EndEOF || end.Token != word {
			t.Errorf("%+v", end)
		}
	}
	if err := e.Signal(t.Context(), key, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	wait[Exit](e, key)
}

func TestTerminal(t *testing.T) {
	e := newEngine(t)
	key, target := Key{Container: "c"}, e.logTarget()
	conn, theirs := socket(t)
	plan := sh("stty -echo; echo ready; read x; stty size; echo got $x")
	plan.Terminal = true
	e.start(&StartRequest{
		Key: key, Plan: plan, Log: target,
		Attach: []Attachment{{Conn: theirs, Stdin: true, Stdout: true, Stderr: true, DetachKeys: []byte{16, 17}}},
	})
	theirs.Close()
	expect(t, conn, "ready\r\n")
	if err := e.Resize(t.Context(), key, 33, 99); err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "hi\x10there\n")
	if s := readAll(t, conn); s != "33 99\r\ngot hi\x10there\r\n" {
		t.Errorf("%q", s)
	}
	wait[Exit](e, key)
	if s := readLog(t, target); !strings.Contains(s, "ready\r\n33 99\r\n") {
		t.Errorf("log: %q", s)
	}
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("%q, %v; want %q", got, err, want)
	}
}

func TestDetachAndReattach(t *testing.T) {
	e := newEngine(t)
	key := Key{Container: "c"}
	plan := argv("/bin/cat")
	plan.Terminal = true
	e.start(&StartRequest{Key: key, Plan: plan})
	for range 2 {
		conn, theirs := socket(t)
		a := Attachment{Conn: theirs, Stdin: true, Stdout: true, DetachKeys: []byte{16, 17}, Token: "x"}
		if err := e.Attach(t.Context(), key, a); err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		io.WriteString(conn, "hi\n\x10")
		expect(t, conn, "hi\r\nhi\r\n")
		io.WriteString(conn, "\x10\x11dropped\n") // the first of the two is typed
		s := readAll(t, conn)
		if strings.Contains(s, "dropped") {
			t.Errorf("%q", s)
		}
		if end := wait[AttachEnd](e, key); end.Reason != EndDetach {
			t.Errorf("%+v", end)
		}
		// Finish the line, so that the next round begins with none.
		c2, theirs2 := socket(t)
		if err := e.Attach(t.Context(), key, Attachment{Conn: theirs2, Stdin: true, Token: "y"}); err != nil {
			t.Fatal(err)
		}
		theirs2.Close()
		io.WriteString(c2, "\n")
		c2.CloseWrite()
		wait[AttachEnd](e, key)
		time.Sleep(50 * time.Millisecond) // for the echo, which nobody is to see
	}
	if err := e.Signal(t.Context(), key, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	wait[Exit](e, key)
}

// TestSlowClient: the process waits for a client that does not read, the log
// has all that was read, and nothing is lost in the end.
func TestSlowClient(t *testing.T) {
	e := newEngine(t)
	key, target := Key{Container: "c"}, e.logTarget()
	conn, theirs := socket(t)
	const size = 8 << 20
	e.start(&StartRequest{
		Key: key, Plan: sh(fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x; echo; echo done >&2", size)), Log: target,
		Attach: []Attachment{{Conn: theirs, Stdout: true}},
	})
	theirs.Close()
	time.Sleep(300 * time.Millisecond)
	select {
	case ev := <-e.Events():
		t.Fatalf("%+v although nobody read", ev)
	default:
	}
	if s := readAll(t, conn); len(s) != size+1 {
		t.Errorf("%d bytes", len(s))
	}
	wait[Exit](e, key)
	if s := readLog(t, target); len(s) != size+6 {
		t.Errorf("%d bytes in the log", len(s))
	}
}

// TestStuckClientAtExit: a client that never reads delays neither the exit nor
// the log.
func TestStuckClientAtExit(t *testing.T) {
	e := newEngine(t)
	key, target := Key{Container: "c"}, e.logTarget()
	conn, theirs := socket(t)
	e.start(&StartRequest{
		Key: key, Plan: sh("head -c 1000000 /dev/zero | tr '\\0' x"), Log: target,
		Attach: []Attachment{{Conn: theirs, Stdout: true}},
	})
	theirs.Close()
	start := time.Now()
	wait[Exit](e, key)
	if d := time.Since(start); d > drainTooLong {
		t.Errorf("the exit came after %s", d)
	}
	if s := readLog(t, target); len(s) != 1000000 {
		t.Errorf("%d bytes in the log", len(s))
	}
	if s := readAll(t, conn); len(s) != 1000000 {
		t.Errorf("%d bytes for the client", len(s))
	}
}

const drainTooLong = 1500 * time.Millisecond

// TestGrandchildHoldsOutput: the exit is told in bounded time, what comes later
// is logged.
func TestGrandchildHoldsOutput(t *testing.T) {
	e := newEngine(t)
	key, target := Key{Container: "c"}, e.logTarget()
	conn, theirs := socket(t)
	e.start(&StartRequest{
		Key: key, Plan: sh("echo first; (sleep 1; echo second; sleep 2; echo third) & exit 4"), Log: target,
		Attach: []Attachment{{Conn: theirs, Stdout: true}},
	})
	theirs.Close()
	start := time.Now()
	x := wait[Exit](e, key)
	if d := time.Since(start); x.Code != 4 || d < 1500*time.Millisecond || d > 2900*time.Millisecond {
		t.Errorf("%+v after %s", x, d)
	}
	if s := readAll(t, conn); s != "first\nsecond\n" {
		t.Errorf("%q", s)
	}
	for range 100 {
		if strings.Contains(readLog(t, target), "third") {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("log: %q", readLog(t, target))
}

func TestKillOnDisconnect(t *testing.T) {
	e := newEngine(t)
	key := Key{Container: "c", Exec: "e"}
	conn, theirs := socket(t)
	e.start(&StartRequest{
		Key: key, Plan: argv("/bin/sleep", "1000"), KillOnDisconnect: true,
		Attach: []Attachment{{Conn: theirs, Stdout: true}},
	})
	theirs.Close()
	conn.Close()
	if x := wait[Exit](e, key); x.Signal != syscall.SIGKILL {
		t.Errorf("%+v", x)
	}
}

func TestTCPClient(t *testing.T) {
	e := newEngine(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	file, err := theirs.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	key := Key{Container: "c"}
	// The input that nobody reads must not make the connection be reset.
	io.WriteString(conn, strings.Repeat("y", 100000))
	e.start(&StartRequest{
		Key: key, Plan: sh("head -c 300000 /dev/zero"), Stdin: true, StdinOnce: true,
		Attach: []Attachment{{Conn: file, Stdin: true, Stdout: true}},
	})
	file.Close()
	theirs.Close()
	if s := readAll(t, conn); len(s) != 300000 {
		t.Errorf("%d bytes", len(s))
	}
	wait[Exit](e, key)
}

func TestLogError(t *testing.T) {
	e := newEngine(t)
	key, target := Key{Container: "c"}, e.logTarget()
	target.Path = "/dev/full"
	conn, theirs := socket(t)
	e.start(&StartRequest{
		Key: key, Plan: sh("echo hi"), Log: target, Attach: []Attachment{{Conn: theirs, Stdout: true}},
	})
	theirs.Close()
	if s := readAll(t, conn); s != "hi\n" {
		t.Errorf("%q", s)
	}
	if ev := wait[LogError](e, key); ev.Dropped != 1 || !strings.Contains(ev.Message, "no space left") {
		t.Errorf("%+v", ev)
	}
	wait[Exit](e, key)
}
