package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/config"
	"github.com/wherry-engine/wherry/internal/httpapi/listen"
	"github.com/wherry-engine/wherry/internal/query"
	"github.com/wherry-engine/wherry/internal/session"
)

// serve runs s on a unix socket until the test ends.
func serve(t *testing.T, s *Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	c := config.New(func(string) string { return "" })
	c.Hosts = []string{"unix://" + path}
	ls, err := listen.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Serve(ls[0]) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

func dial(t *testing.T, path string) (*net.UnixConn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn), bufio.NewReader(c)
}

// echo answers what the client said, early and late, and ends with it.
func echo(tty bool) func(string, session.AttachOptions, session.Hijack) error {
	return func(ref string, o session.AttachOptions, hijack session.Hijack) error {
		if ref == "none" {
			return errdefs.ErrNotFound.WithMessage("No such container: none")
		}
		conn, early, err := hijack(tty)
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			late, err := io.ReadAll(conn)
			fmt.Fprintf(conn, "early %q late %q %v stdin %v keys %q", early, late, err, o.Stdin, o.DetachKeys)
		}()
		return nil
	}
}

func TestAttachHijack(t *testing.T) {
	tests := []struct {
		name, path, headers string
		tty                 bool
		head, kind          string
	}{
		{"upgrade", "/v1.51/containers/a/attach?stdin=1&stream=1&detachKeys=ctrl-x", "Connection: Upgrade\r\nUpgrade: tcp\r\n", false, "101 UPGRADED", "application/vnd.docker.multiplexed-stream"},
		{"tty", "/v1.51/containers/a/attach?stdin=1&detachKeys=ctrl-x", "Connection: Upgrade\r\nUpgrade: tcp\r\n", true, "101 UPGRADED", "application/vnd.docker.raw-stream"},
		{"old", "/v1.41/containers/a/attach?stdin=1&detachKeys=ctrl-x", "Connection: Upgrade\r\nUpgrade: tcp\r\n", false, "101 UPGRADED", "application/vnd.docker.raw-stream"},
		{"options said twice", "/v1.51/containers/a/attach?stdin=1&detachKeys=ctrl-x", "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: 14\r\n", true, "101 UPGRADED", "application/vnd.docker.raw-stream"},
		{"plain", "/v1.51/containers/a/attach?stdin=1&detachKeys=ctrl-x", "", false, "200 OK", "application/vnd.docker.raw-stream"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := newServer(t, Backends{Sessions: fakeSessions{attach: echo(tt.tty)}})
			c, r := dial(t, serve(t, s))
			body := ""
			if strings.Contains(tt.headers, "Content-Length: 14") { // as dockerode does
				body = `{"stdin":true}`
			}
			fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n%sbefore", tt.path, tt.headers, body)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.Status != tt.head || resp.Header.Get("Content-Type") != tt.kind || (tt.headers != "") != (resp.Header.Get("Upgrade") == "tcp") {
				t.Errorf("%s %v", resp.Status, resp.Header)
			}
			fmt.Fprint(c, " after")
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			// Where the split falls is the kernel's business.
			got, err := io.ReadAll(r)
			joined := strings.ReplaceAll(string(got), `" late "`, "")
			if want := `early "before after" <nil> stdin true keys "ctrl-x"`; joined != want || err != nil {
				t.Errorf("%q %v", got, err)
			}
		})
	}
}

func TestAttachToNothing(t *testing.T) {
	s, _ := newServer(t, Backends{Sessions: fakeSessions{attach: echo(false)}})
	c, r := dial(t, serve(t, s))
	fmt.Fprint(c, "POST /containers/none/attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != 404 || string(body) != "No such container: none\r\n" || err != nil {
		t.Errorf("%s %q %v", resp.Status, body, err)
	}
}

func TestExecStart(t *testing.T) {
	var got session.ExecStartOptions
	s, _ := newServer(t, Backends{Sessions: fakeSessions{exec: func(_ string, o session.ExecStartOptions, hijack session.Hijack) error {
		if got = o; o.Detach {
			return nil
		}
		if _, _, err := hijack(o.Tty); err != nil {
			return err
		}
		return errors.New("no such program")
	}}})
	path := serve(t, s)
	c, r := dial(t, path)
	body := `{"Detach":false,"Tty":false,"ConsoleSize":[5,6]}`
	fmt.Fprintf(c, "POST /exec/e/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, r); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 101 || resp.Header.Get("Api-Version") == "" || out.String() != "no such program\r\n" || got.ConsoleSize != nil {
		t.Errorf("%s %v %q %+v", resp.Status, resp.Header, out.String(), got)
	}
	if w := do(s, "POST", "/exec/e/start", `{"Detach":true}`); w.Code != 200 || !got.Detach {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAttachSocket(t *testing.T) {
	s, _ := newServer(t, Backends{Sessions: fakeSessions{attach: func(ref string, o session.AttachOptions, hijack session.Hijack) error {
		if ref == "none" {
			return errdefs.ErrNotFound.WithMessage("No such container: none")
		}
		conn, _, err := hijack(false)
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			buf := make([]byte, 100)
			for range 2 {
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				fmt.Fprintf(conn, "got %s", buf[:n])
			}
		}()
		return nil
	}}})
	path := serve(t, s)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	o := &websocket.DialOptions{HTTPClient: &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", path)
	}}}}
	ws, _, err := websocket.Dial(ctx, "ws://x/containers/a/attach/ws?stdin=1", o)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []websocket.MessageType{websocket.MessageText, websocket.MessageBinary} {
		if err := ws.Write(ctx, kind, []byte("hi")); err != nil {
			t.Fatal(err)
		}
		if k, data, err := ws.Read(ctx); string(data) != "got hi" || k != websocket.MessageBinary || err != nil {
			t.Errorf("%v %q %v", k, data, err)
		}
	}
	if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("end: %v", err)
	}
	_, resp, err := websocket.Dial(ctx, "ws://x/containers/none/attach/ws", o)
	if err == nil || resp.StatusCode != 404 {
		t.Errorf("%v %v", resp, err)
	}
}

func TestWaitAnswersItsHeadersAtOnce(t *testing.T) {
	exit := make(chan container.WaitResponse, 1)
	var cond container.WaitCondition
	s, _ := newServer(t, Backends{Lifecycle: fakeLifecycle{wait: func(_ string, c container.WaitCondition) (<-chan container.WaitResponse, error) {
		cond = c
		return exit, nil
	}}})
	c, r := dial(t, serve(t, s))
	fmt.Fprint(c, "POST /v1.51/containers/a/wait?condition=removed HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(r, nil) // hangs when the headers wait for the exit
	if err != nil {
		t.Fatal(err)
	}
	exit <- container.WaitResponse{StatusCode: 7}
	body, err := io.ReadAll(resp.Body)
	if string(body) != `{"StatusCode":7}`+"\n" || cond != container.WaitConditionRemoved || err != nil {
		t.Errorf("%q %s %v", body, cond, err)
	}
	if w := do(s, "POST", "/containers/a/wait?condition=soon", ""); w.Code != 400 || !strings.Contains(w.Body.String(), `invalid condition: \"soon\"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestLogs(t *testing.T) {
	var tty, fail bool
	s, _ := newServer(t, Backends{Views: fakeViews{logs: func(_ context.Context, o query.LogsOptions, open func(bool) (io.Writer, io.Writer)) error {
		if o.Tail == "bad" {
			return errdefs.ErrNotFound.WithMessage("No such container: a")
		}
		out, errs := open(tty)
		fmt.Fprint(out, "to out\n")
		fmt.Fprint(errs, "to err\n")
		if fail {
			return errors.New("disk on fire")
		}
		return nil
	}}})
	w := do(s, "GET", "/containers/a/logs?stdout=1&stderr=1&follow=1", "")
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, w.Body); err != nil {
		t.Fatal(err)
	}
	if out.String() != "to out\n" || errs.String() != "to err\n" || w.Header().Get("Content-Type") != "application/vnd.docker.multiplexed-stream" {
		t.Errorf("%q %q %v", out.String(), errs.String(), w.Header())
	}
	fail = true
	w = do(s, "GET", "/containers/a/logs?stdout=1", "")
	if _, err := stdcopy.StdCopy(io.Discard, io.Discard, w.Body); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("%v", err)
	}
	tty, fail = true, false
	if w = do(s, "GET", "/containers/a/logs?stdout=1", ""); w.Body.String() != "to out\nto err\n" || w.Header().Get("Content-Type") != "application/vnd.docker.raw-stream" {
		t.Errorf("%q %v", w.Body, w.Header())
	}
	for q, code := range map[string]int{"stdout=1&tail=bad": 404, "": 400, "stdout=1&since=x": 400, "stdout=1&until=x": 400, "stdout=1&until=0": 200} {
		if w := do(s, "GET", "/containers/a/logs?"+q, ""); w.Code != code {
			t.Errorf("%s: %d %s", q, w.Code, w.Body)
		}
	}
}

func TestShutdownEndsStreams(t *testing.T) {
	started := make(chan struct{})
	s, _ := newServer(t, Backends{Views: fakeViews{logs: func(ctx context.Context, _ query.LogsOptions, open func(bool) (io.Writer, io.Writer)) error {
		open(true)
		close(started)
		<-ctx.Done()
		return ctx.Err()
	}}})
	path := serve(t, s)
	c, _ := dial(t, path)
	fmt.Fprint(c, "GET /containers/a/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
	<-started
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil || ctx.Err() != nil {
		t.Errorf("%v %v", err, ctx.Err())
	}
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("the socket is still there")
	}
}

func TestStats(t *testing.T) {
	s, _ := newServer(t, Backends{Views: fakeViews{stats: func(ref string, stream, oneShot bool, send func(*container.StatsResponse) error) error {
		if ref == "none" {
			return errdefs.ErrNotFound.WithMessage("No such container: none")
		}
		for i := range 2 {
			if err := send(&container.StatsResponse{ID: fmt.Sprint(i, stream, oneShot)}); err != nil || !stream {
				return err
			}
		}
		return nil
	}}})
	for q, want := range map[string]string{"": "0 true false|1 true false", "stream=0": "0 false false", "stream=false&one-shot=1": "0 false true"} {
		var got []string
		dec := json.NewDecoder(do(s, "GET", "/containers/a/stats?"+q, "").Body)
		for {
			var r container.StatsResponse
			if err := dec.Decode(&r); err != nil {
				break
			}
			got = append(got, r.ID)
		}
		if strings.Join(got, "|") != want {
			t.Errorf("%q: %q, want %q", q, got, want)
		}
	}
	if w := do(s, "GET", "/containers/none/stats", ""); w.Code != 404 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
