package httpapi

import (
	"net"
	"path/filepath"
	"testing"
)

// TestHeadRead: nothing follows the head before docker's Python library has
// read it; nobody else is waited for.
func TestHeadRead(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := server.Write([]byte("head")); err != nil {
		t.Fatal(err)
	}
	headRead(server, "Docker-Client/28.0.0 (linux)")
	done := make(chan struct{})
	go func() {
		headRead(server, "docker-sdk-python/5.0.3")
		server.Write([]byte("body"))
		close(done)
	}()
	buf := make([]byte, 64)
	if n, err := client.Read(buf); err != nil || string(buf[:n]) != "head" {
		t.Errorf("read %q, %v; only the head was expected", buf[:n], err)
	}
	<-done
	if n, err := client.Read(buf); err != nil || string(buf[:n]) != "body" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}
