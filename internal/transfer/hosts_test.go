package transfer

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"sync/atomic"
	"testing"
)

// What BuildKit asks a mirror arrives under the mirror's names and with the
// mirror's credentials, and these go nowhere else.
func TestHosts(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("credentials at %s", r.URL)
		}
		w.Write([]byte("blob"))
	}))
	defer elsewhere.Close()
	asked := 0
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, ok := r.BasicAuth()
		switch {
		case !ok:
			asked++
			w.Header().Set("WWW-Authenticate", `Basic realm="m"`)
			w.WriteHeader(http.StatusUnauthorized)
		case user != "u" || password != "p":
			w.WriteHeader(http.StatusForbidden)
		case r.URL.Path == "/prefix/v2/cached/x/blobs/sha256:0":
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		case r.URL.Path != "/prefix/v2/cached/x/manifests/1":
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer mirror.Close()
	c, err := New(Options{}, Config{Mirrors: map[string][]Mirror{"example.com": {{
		URL: mirror.URL + "/prefix", Username: "u", Password: "p", Rewrite: []Rewrite{{Match: regexp.MustCompile("^library/"), To: "cached/"}},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	hosts, err := c.Hosts("example.com")
	if err != nil || len(hosts) != 2 || hosts[1].Host != "example.com" || hosts[1].Scheme != "https" {
		t.Fatalf("%+v %v", hosts, err)
	}
	h := hosts[0]
	for path, want := range map[string]int{"/library/x/manifests/1": 200, "/library/x/blobs/sha256:0": 200, "/library/y/manifests/1": 404} {
		resp, err := h.Client.Get(h.Scheme + "://" + h.Host + h.Path + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times for two repositories", asked)
	}
}

// TestInsatiable: a mirror that refuses each token that it was asked for is not
// asked for ever.
func TestInsatiable(t *testing.T) {
	var s *httptest.Server
	tokens := 0
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			tokens++
			fmt.Fprintf(w, `{"token":"t%d"}`, tokens)
			return
		}
		if tokens > 10 {
			return
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q", s.URL+"/token"))
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer s.Close()
	c, err := New(Options{}, Config{Mirrors: map[string][]Mirror{"example.com": {{URL: s.URL, Username: "u", Password: "p"}}}})
	if err != nil {
		t.Fatal(err)
	}
	hosts, err := c.Hosts("example.com")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := hosts[0].Client.Get(s.URL + "/v2/x/manifests/1")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized || tokens != maxLogins {
		t.Errorf("%s after %d tokens", resp.Status, tokens)
	}
}

// either is a listener whose connections speak TLS from some moment on.
type either struct {
	net.Listener
	secure atomic.Bool
	conf   *tls.Config
}

func (e *either) Accept() (net.Conn, error) {
	c, err := e.Listener.Accept()
	if err == nil && e.secure.Load() {
		c = tls.Server(c, e.conf)
	}
	return c, err
}

// TestTurnsSecure: a registry on this host that spoke plain http, and speaks TLS
// now, is understood all the same; and back.
func TestTurnsSecure(t *testing.T) {
	donor := httptest.NewTLSServer(nil)
	donor.Close()
	f, b := newFake(t), newBench(t, Config{MaxAttempts: 1})
	f.Server = httptest.NewUnstartedServer(f)
	l := &either{Listener: f.Listener, conf: donor.TLS}
	f.Listener = l
	f.Start()
	t.Cleanup(f.Close)
	for i, secure := range []bool{false, true, false} {
		l.secure.Store(secure)
		f.CloseClientConnections()
		f.image("x", fmt.Sprint(i), picture{layers: []int{10 + i}})
		if _, err := b.pull(f.host() + "/x:" + fmt.Sprint(i)); err != nil {
			t.Errorf("TLS %t: %v", secure, err)
		}
	}
}
