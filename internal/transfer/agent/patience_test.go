package agent

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestIdle: an answer that stops in the middle ends, one whose reader takes its
// time does not.
func TestIdle(t *testing.T) {
	for _, two := range []bool{false, true} { // HTTP/1.1 and HTTP/2
		over := make(chan struct{})
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "some")
			http.NewResponseController(w).Flush()
			if r.URL.Path == "/stops" {
				<-over
			}
		}))
		s.EnableHTTP2 = two
		s.StartTLS()
		t.Cleanup(s.Close)
		t.Cleanup(func() { close(over) })
		set := Set{Idle: time.Second}
		client, err := set.Client(Host{Name: s.Listener.Addr().String(), SkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Get(s.URL + "/stops")
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); !errors.Is(err, ErrIdle) || string(b) != "some" || (resp.ProtoMajor == 2) != two {
			t.Errorf("%s: %q %v", resp.Proto, b, err)
		}
		resp.Body.Close()
		if resp, err = client.Get(s.URL + "/ends"); err != nil {
			t.Fatal(err)
		}
		if resp.Body.(*body).watchdog.Stop() {
			t.Errorf("%s: it is given up although nobody reads", resp.Proto)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "some" {
			t.Errorf("%s: %q %v", resp.Proto, b, err)
		}
		resp.Body.Close()
	}
}

// TestSilent: a server that does not answer is given up, one that was sent
// something and works on it is not.
func TestSilent(t *testing.T) {
	taken, over := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			io.Copy(io.Discard, r.Body)
			close(taken)
		}
		<-over
	}))
	t.Cleanup(s.Close)
	set := Set{Idle: 100 * time.Millisecond}
	client, err := set.Client(Host{Name: s.Listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	put := make(chan error)
	go func() {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL, strings.NewReader("blob"))
		if err == nil {
			var resp *http.Response
			if resp, err = client.Do(req); err == nil {
				resp.Body.Close()
			}
		}
		put <- err
	}()
	<-taken
	resp, err := client.Get(s.URL) // as long as that takes the other waits as well
	if err == nil {
		resp.Body.Close()
	}
	if !errors.Is(err, ErrSilent) {
		t.Errorf("%v", err)
	}
	close(over)
	if err := <-put; err != nil {
		t.Error(err)
	}
}

// TestLongHeader: a header without an end takes no memory without an end.
func TestLongHeader(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Docker-Content-Digest", strings.Repeat("x", 2*maxHeader))
	}))
	t.Cleanup(s.Close)
	var set Set
	client, err := set.Client(Host{Name: s.Listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Get(s.URL)
	if err == nil {
		resp.Body.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "headers exceeded") {
		t.Error(err)
	}
}
