package conn

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// pieces counts how an answer is written.
type pieces struct {
	net.Conn
	n int
}

func (p *pieces) Write(b []byte) (int, error) {
	p.n++
	return p.Conn.Write(b)
}

// taken is a request whose connection can be taken over.
type taken struct {
	http.ResponseWriter
	conn net.Conn
}

func (t taken) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t.conn, bufio.NewReadWriter(bufio.NewReader(t.conn), bufio.NewWriter(t.conn)), nil
}

func TestAttend(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	count, gone := &pieces{Conn: ours}, make(chan struct{})
	c, _, err := Attend(taken{httptest.NewRecorder(), count}, func() { close(gone) }).(http.Hijacker).Hijack()
	if err != nil {
		t.Fatal(err)
	}
	want := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\nPRI and more"
	got := make(chan string, 1)
	go func() {
		b := make([]byte, len(want))
		n, err := io.ReadFull(theirs, b)
		got <- fmt.Sprint(string(b[:n]), err)
		theirs.Close()
	}()
	for _, piece := range []string{"", "HTTP/1.1 101 Switching Protocols\r\n", "Connection", ": ", "Upgrade", "\r\n", "\r\n", "PRI", " and more"} {
		if n, err := io.WriteString(c, piece); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
	}
	if text := <-got; text != want+"<nil>" {
		t.Errorf("it became %q", text)
	}
	if count.n != 3 {
		t.Errorf("%d writes", count.n)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("there is something to read")
	}
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Error("nobody hears that the client is gone")
	}
}
