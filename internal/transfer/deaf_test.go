package transfer

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A server that takes a connection and then nothing of what is sent does not
// keep an upload for ever.
func TestDeafServer(t *testing.T) {
	old := deaf
	deaf = time.Second
	t.Cleanup(func() { deaf = old })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close() // open, and never read from
		}
	}()
	b := newBench(t, Config{})
	client, err := b.set.Load().agent(l.Addr().String(), Mirror{}, false)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+l.Addr().String(), strings.NewReader(strings.Repeat("x", 64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err == nil {
		resp.Body.Close()
	}
	if !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("%v", err)
	}
}
