package acceptance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wherry-engine/wherry/test/harness"
)

// raw is a hijacked connection.
type raw struct {
	*net.UnixConn
	r    *bufio.Reader
	head *http.Response
}

// hijack sends one request on a connection of its own and reads the head of
// the answer.
func hijack(t *testing.T, e *harness.Engine, path, headers, body string) *raw {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: e.Socket(), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s", path, len(body), headers, body)
	r := bufio.NewReader(conn)
	head, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &raw{conn, r, head}
}

// frames reads docker's multiplexed stream to its end.
func frames(t *testing.T, r io.Reader) (stdout, stderr string) {
	t.Helper()
	var out [3]bytes.Buffer
	for {
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); err == io.EOF {
			return out[1].String(), out[2].String()
		} else if err != nil || head[0] > 2 || head[1]|head[2]|head[3] != 0 {
			t.Fatalf("a frame's header: %v %v", head, err)
		}
		if _, err := io.CopyN(&out[head[0]], r, int64(binary.BigEndian.Uint32(head[4:]))); err != nil {
			t.Fatal(err)
		}
	}
}

const upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n"

// TestHijack: an attached connection is raw for a terminal and framed without,
// with and without the Upgrade header, and what the client stops to write
// ends the program's stdin only.
func TestHijack(t *testing.T) {
	harness.Require(t, "busybox")
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, version, headers string
		tty                    bool
		status                 int
		kind                   string
	}{
		{"upgrade", "", upgrade, false, 101, "application/vnd.docker.multiplexed-stream"},
		{"upgrade, old version", "/v1.41", upgrade, false, 101, "application/vnd.docker.raw-stream"},
		{"upgrade, terminal", "", upgrade, true, 101, "application/vnd.docker.raw-stream"},
		{"plain", "", "", false, 200, "application/vnd.docker.raw-stream"},
		{"plain, terminal", "", "", true, 200, "application/vnd.docker.raw-stream"},
	} {
		name := "box" + strings.Map(func(r rune) rune {
			if r == ' ' || r == ',' {
				return '-'
			}
			return r
		}, c.name)
		answer := func(a *raw) {
			t.Helper()
			if a.head.StatusCode != c.status || a.head.Header.Get("Content-Type") != c.kind {
				t.Errorf("answered with %s, %q", a.head.Status, a.head.Header)
			}
			if up := a.head.Header.Get("Upgrade"); (up == "tcp") != (c.status == 101) {
				t.Errorf("Upgrade: %q", up)
			}
		}
		t.Run(c.name+"/attach", func(t *testing.T) {
			code, body, err := e.API("POST", "/containers/create?name="+name, map[string]any{
				"Image": "busybox", "Tty": c.tty, "OpenStdin": true, "StdinOnce": true, "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
				"Cmd": []string{"sh", "-c", "read x; echo got $x; echo wrong >&2; cat; echo end"},
			})
			if err != nil || code != 201 {
				t.Fatalf("create: %d %s %v", code, body, err)
			}
			a := hijack(t, e, c.version+"/containers/"+name+"/attach?stream=1&stdin=1&stdout=1&stderr=1", c.headers, "")
			answer(a)
			if code, body, err := e.API("POST", "/containers/"+name+"/start", nil); err != nil || code != 204 {
				t.Fatalf("start: %d %s %v", code, body, err)
			}
			if c.tty {
				io.WriteString(a, "one\ntwo\n\x04")
				out, err := io.ReadAll(a.r)
				if err != nil || !strings.Contains(string(out), "got one\r\n") || !strings.HasSuffix(string(out), "end\r\n") {
					t.Errorf("%q %v", out, err)
				}
				return
			}
			io.WriteString(a, "one\ntwo\n")
			if err := a.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if out, errOut := frames(t, a.r); out != "got one\ntwo\nend\n" || errOut != "wrong\n" {
				t.Errorf("%q %q", out, errOut)
			}
		})
		t.Run(c.name+"/exec", func(t *testing.T) {
			start(t, e, name+"-x", "sleep", "1000")
			code, body, err := e.API("POST", "/containers/"+name+"-x/exec", map[string]any{
				"Tty": c.tty, "AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Cmd": []string{"sh", "-c", "wc -c; echo wrong >&2"},
			})
			var made struct{ ID string }
			if err != nil || code != 201 || json.Unmarshal(body, &made) != nil {
				t.Fatalf("create: %d %s %v", code, body, err)
			}
			a := hijack(t, e, c.version+"/exec/"+made.ID+"/start", c.headers, fmt.Sprintf(`{"Tty":%v}`, c.tty))
			answer(a)
			if c.tty {
				io.WriteString(a, "12345\n\x04")
				if out, err := io.ReadAll(a.r); err != nil || !strings.HasSuffix(string(out), "6\r\nwrong\r\n") {
					t.Errorf("%q %v", out, err)
				}
				return
			}
			io.WriteString(a, "12345")
			if err := a.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if out, errOut := frames(t, a.r); out != "5\n" || errOut != "wrong\n" {
				t.Errorf("%q %q", out, errOut)
			}
		})
	}
	t.Run("said before it was asked", func(t *testing.T) {
		code, body, err := e.API("POST", "/containers/create?name=early", map[string]any{
			"Image": "busybox", "OpenStdin": true, "StdinOnce": true, "AttachStdin": true, "Cmd": []string{"cat"},
		})
		if err != nil || code != 201 {
			t.Fatalf("create: %d %s %v", code, body, err)
		}
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: e.Socket(), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		// Request and data in one write, so that the engine has read some of it with the head.
		io.WriteString(conn, "POST /containers/early/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: engine\r\nContent-Length: 0\r\n"+upgrade+"\r\nearly bird\n")
		conn.CloseWrite()
		r := bufio.NewReader(conn)
		if head, err := http.ReadResponse(r, nil); err != nil || head.StatusCode != 101 {
			t.Fatalf("%v %v", head, err)
		}
		if code, body, err := e.API("POST", "/containers/early/start", nil); err != nil || code != 204 {
			t.Fatalf("start: %d %s %v", code, body, err)
		}
		if out, _ := frames(t, r); out != "early bird\n" {
			t.Errorf("%q", out)
		}
	})
}

// TestWebsocket: attach over a websocket, both ways, old versions with text.
func TestWebsocket(t *testing.T) {
	harness.Require(t, "busybox")
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for version, kind := range map[string]websocket.MessageType{"": websocket.MessageBinary, "/v1.27": websocket.MessageText} {
		name := "ws" + strings.ReplaceAll(version, "/", "-")
		code, body, err := e.API("POST", "/containers/create?name="+name, map[string]any{
			"Image": "busybox", "OpenStdin": true, "StdinOnce": true, "Cmd": []string{"sh", "-c", "read x; echo got $x"},
		})
		if err != nil || code != 201 {
			t.Fatalf("create: %d %s %v", code, body, err)
		}
		if code, body, err := e.API("POST", "/containers/"+name+"/start", nil); err != nil || code != 204 {
			t.Fatalf("start: %d %s %v", code, body, err)
		}
		ws, resp, err := websocket.Dial(ctx, "http://engine"+version+"/containers/"+name+"/attach/ws?stream=1&stdin=1&stdout=1&stderr=1", &websocket.DialOptions{HTTPClient: e.HTTP()})
		if err != nil {
			t.Fatalf("%v %v", resp, err)
		}
		defer ws.CloseNow()
		if err := ws.Write(ctx, kind, []byte("one\n")); err != nil {
			t.Fatal(err)
		}
		var out []byte
		for {
			got, message, err := ws.Read(ctx)
			if err != nil {
				break // the program has ended
			}
			if got != kind {
				t.Errorf("%s: a message of kind %v, want %v", name, got, kind)
			}
			out = append(out, message...)
		}
		if string(out) != "got one\n" {
			t.Errorf("%s: %q", name, out)
		}
		if code, err := e.Wait(name); err != nil || code != 0 {
			t.Errorf("%s ended with %d %v", name, code, err)
		}
	}
	if _, resp, err := websocket.Dial(ctx, "http://engine/containers/nothere/attach/ws?stream=1", &websocket.DialOptions{HTTPClient: e.HTTP()}); err == nil || resp == nil || resp.StatusCode != 404 {
		t.Errorf("no such container: %v %v", resp, err)
	}
	// A page of another site cannot reach the engine through the browser.
	_, resp, err := websocket.Dial(ctx, "http://engine/containers/ws/attach/ws?stream=1", &websocket.DialOptions{
		HTTPClient: e.HTTP(), HTTPHeader: http.Header{"Origin": {"http://elsewhere.example"}},
	})
	if err == nil || resp == nil || resp.StatusCode == 101 {
		t.Errorf("foreign origin: %v %v", resp, err)
	}
}
