package agent

import (
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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
	var set Set
	client, err := set.Client(Host{Name: l.Addr().String()})
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

func TestRedirects(t *testing.T) {
	req := func(u string) *http.Request {
		r, err := http.NewRequest(http.MethodGet, u, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer the-token")
		return r
	}
	for _, c := range []struct {
		from, to  string
		ok, keeps bool
	}{
		{"https://r.example/a", "https://r.example/b", true, true},
		{"https://r.example/a", "https://cdn.r.example/b", true, false},
		{"https://r.example/a", "https://r.example:8443/b", true, false},
		{"https://r.example/a", "http://r.example/b", false, false},
		{"http://r.example/a", "https://r.example/b", true, false},
		{"http://r.example/a", "file:///etc/shadow", false, false},
	} {
		to := req(c.to)
		err := Redirect(to, []*http.Request{req(c.from)})
		if (err == nil) != c.ok {
			t.Errorf("%s to %s: %v", c.from, c.to, err)
		}
		if err == nil && (to.Header.Get("Authorization") != "") != c.keeps {
			t.Errorf("%s to %s: Authorization %q", c.from, c.to, to.Header.Get("Authorization"))
		}
	}
}

// TestCertificatesChange: a certificate that is written again counts at once,
// and the client that had the old one is given up.
func TestCertificatesChange(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "reg.lan")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(nil)
	server.Close()
	set := Set{Dirs: []string{root}}
	get := func() *http.Client {
		t.Helper()
		c, err := set.Client(Host{Name: "reg.lan", Listed: "reg.lan"})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	file := filepath.Join(dir, "ca.crt")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	first := get()
	if get() != first {
		t.Error("a new client, and nothing has changed")
	}
	if err := os.WriteFile(file, append(ca, '\n'), 0o600); err != nil { // in place: the directory stays as it is
		t.Fatal(err)
	}
	if get() == first {
		t.Error("the old client, with the old certificate")
	}
	if n := len(set.m); n != 1 {
		t.Errorf("%d clients are kept", n)
	}
}
