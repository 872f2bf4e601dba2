package plugin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/plugin/plugintest"
)

func newSet(t *testing.T) (*Set, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "plug") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return New([]string{dir}, []string{filepath.Join(dir, "etc")}), dir
}

func echo() *plugintest.Server {
	return &plugintest.Server{Implements: []string{"Echo"}, Handlers: map[string]plugintest.Handler{
		"Echo.Say":  func(body []byte) (any, error) { return map[string]string{"Said": string(body)}, nil },
		"Echo.Fail": func([]byte) (any, error) { return nil, errors.New("it hurts") },
	}}
}

func listen(t *testing.T, s *plugintest.Server, socket string) {
	t.Helper()
	if err := s.Listen(socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
}

func TestFind(t *testing.T) {
	s, dir := newSet(t)
	listen(t, echo(), filepath.Join(dir, "flat.sock"))
	listen(t, echo(), filepath.Join(dir, "nested", "nested.sock"))
	web := httptest.NewServer(echo())
	defer web.Close()
	tls := httptest.NewTLSServer(echo())
	defer tls.Close()
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"spec.spec":     "unix://" + filepath.Join(dir, "flat.sock") + "\n",
		"tcp.spec":      strings.Replace(web.URL, "http://", "tcp://", 1),
		"json.json":     `{"Name": "json", "Addr": "` + tls.URL + `", "TLSConfig": {"InsecureSkipVerify": true}}`,
		"strict.json":   `{"Name": "strict", "Addr": "` + tls.URL + `"}`,
		"odd.spec":      "ftp://x",
		"relative.spec": "unix://x/y",
		"broken.json":   "{",
		"noport.spec":   "tcp://localhost",
		"nocert.json":   `{"Addr": "https://127.0.0.1:1", "TLSConfig": {"CAFile": "/nope"}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"flat": "", "nested": "", "spec": "", "tcp": "", "json": "",
		"strict":   "certificate",
		"odd":      "neither unix://",
		"relative": "is no absolute path",
		"broken":   "unexpected end of JSON input",
		"noport":   "has no host and port",
		"nocert":   "/nope: no such file",
		"nothere":  `plugin "nothere" not found`,
		"../flat":  `plugin "../flat" not found`,
	} {
		p, err := s.Get(t.Context(), name, "Echo")
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(want, "not found") != errdefs.IsNotFound(err) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
			continue
		}
		var out struct{ Said string }
		if err == nil {
			err = p.Call(t.Context(), "Echo.Say", map[string]int{"n": 1}, &out)
		}
		if err != nil || out.Said != `{"n":1}` {
			t.Errorf("%s: %q %v", name, out.Said, err)
		}
	}
	if got := s.Known("Echo"); !slices.Equal(got, []string{"flat", "json", "nested", "spec", "tcp"}) {
		t.Errorf("known: %q", got)
	}
	if got := s.Names(); !slices.Contains(got, "nested") || !slices.Contains(got, "strict") || slices.Contains(got, "flat.sock") {
		t.Errorf("names: %q", got)
	}
	if _, err := s.Get(t.Context(), "flat", "VolumeDriver"); !errdefs.IsNotFound(err) || err.Error() != "plugin flat does not implement VolumeDriver (it implements Echo)" {
		t.Error(err)
	}
}

func TestCall(t *testing.T) {
	s, dir := newSet(t)
	listen(t, echo(), filepath.Join(dir, "echo.sock"))
	p, err := s.Get(t.Context(), "echo", "Echo")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Call(t.Context(), "Echo.Fail", nil, nil); err == nil || err.Error() != "Echo.Fail: it hurts" || !errors.As(err, new(*Error)) {
		t.Error(err)
	}
	if err := p.Call(t.Context(), "Echo.Nothing", nil, nil); !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
}

// TestRestart: a plugin that was replaced is asked again what it is, one that
// is restarting is waited for, and one that is gone is said to be.
func TestRestart(t *testing.T) {
	s, dir := newSet(t)
	socket := filepath.Join(dir, "echo.sock")
	first := echo()
	if err := first.Listen(socket); err != nil {
		t.Fatal(err)
	}
	p, err := s.Get(t.Context(), "echo", "Echo")
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	ended := make(chan error)
	go func() { ended <- p.Call(t.Context(), "Echo.Say", nil, nil) }()
	second := echo()
	second.Implements = []string{"Echo", "More"}
	listen(t, second, socket)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := s.Get(t.Context(), "echo", "More"); err != nil {
		t.Error(err)
	}
	second.Close()
	if _, err := s.Get(t.Context(), "echo", "Echo"); !errdefs.IsNotFound(err) {
		t.Errorf("after its socket is gone: %v", err)
	}
	// A socket that nobody listens at any more.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errors.New("within 300ms"))
	defer cancel()
	for range 2 { // the second time at once
		if _, err := s.Get(ctx, "echo", "Echo"); err == nil || !strings.Contains(err.Error(), "nobody listens") {
			t.Error(err)
		}
		ctx = t.Context()
	}
}

// TestHostile: whatever a plugin answers, the engine gets an error that names it.
func TestHostile(t *testing.T) {
	s, dir := newSet(t)
	release := make(chan struct{})
	defer close(release)
	answers := map[string]http.HandlerFunc{
		"slow":    func(http.ResponseWriter, *http.Request) { <-release },
		"endless": func(w http.ResponseWriter, _ *http.Request) { flood(w) },
		"nojson":  func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) },
		"list":    func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`[1]`)) },
		"nothing": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{}`)) },
		"wrong":   func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"Implements": "x"}`)) },
		"moved": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
		"error": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "broken inside", http.StatusInternalServerError)
		},
		"hangup": func(w http.ResponseWriter, _ *http.Request) { c, _, _ := w.(http.Hijacker).Hijack(); c.Close() },
		"spoken": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"Err": "not today"}`, http.StatusInternalServerError)
		},
	}
	for name, h := range answers {
		l, err := net.Listen("unix", filepath.Join(dir, name+".sock"))
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: h}
		go srv.Serve(l)
		defer srv.Close()
	}
	for name, want := range map[string]string{
		"slow":    "plugin slow: Plugin.Activate: it does not answer: within 200ms",
		"endless": "plugin endless: Plugin.Activate: its answer is larger than",
		"nojson":  "plugin nojson: Plugin.Activate: its answer is no JSON",
		"list":    "plugin list: Plugin.Activate: its answer is no JSON",
		"nothing": "plugin nothing: Plugin.Activate: it says that it implements nothing",
		"wrong":   "its answer is not what the protocol says",
		"moved":   "it answers with a redirect",
		"error":   "500 Internal Server Error: broken inside",
		"hangup":  "EOF",
		"spoken":  "Plugin.Activate: not today",
	} {
		ctx := t.Context()
		if name == "slow" {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, 200*time.Millisecond, errors.New("within 200ms"))
			defer cancel()
		}
		if _, err := s.Get(ctx, name, "Echo"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if got := s.Known("Echo"); len(got) > 0 {
		t.Errorf("known: %q", got)
	}
}

func flood(w http.ResponseWriter) {
	b := make([]byte, 1<<16)
	for i := range b {
		b[i] = ' '
	}
	for {
		if _, err := w.Write(b); err != nil {
			return
		}
	}
}
