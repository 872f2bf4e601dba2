package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", path, d)
	}
}

func TestHelp(t *testing.T) {
	t.Setenv("HOME", "/root")
	t.Setenv("DOCKER_CONFIG", "")
	for name, args := range map[string][]string{
		"help": {"help"}, "help_run": {"run", "--help"}, "help_ps": {"help", "ps"},
		"help_container": {"container", "--help"}, "help_image": {"image", "--help"}, "help_update": {"container", "update", "--help"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			sh := &shell.Shell{Name: "wherry", In: shell.NewIn(strings.NewReader("")), Out: shell.NewOut(&out), Err: shell.NewOut(&errOut)}
			if err := Run(t.Context(), sh, args); err != nil || errOut.Len() > 0 {
				t.Fatal(err, errOut.String())
			}
			golden(t, name, out.String())
		})
	}
}

func TestCompletion(t *testing.T) {
	e := populated(t)
	e.answer("GET /info", `{"Plugins":{"Volume":["local","vol-plugin"],"Network":["bridge","host","null","net-plugin"]}}`)
	e.answer("GET /volumes", `{"Volumes":[{"Name":"data","Driver":"local"}]}`)
	for line, want := range map[string]string{
		"__complete stop ":                                        "web",
		"__complete start ":                                       "old",
		"__complete inspect w":                                    "web",
		"__complete rmi ":                                         "nginx:1.2",
		"__complete run ":                                         "nginx:1.2",
		"__complete run --network ":                               "bridge",
		"__complete run --pull ":                                  "missing",
		"__complete stop --signal SIGH":                           "SIGHUP",
		"__complete kill -s US":                                   "USR1",
		"__complete run --stop-signal ":                           "TERM",
		"__complete network create -d ":                           "net-plugin",
		"__complete network create --ipam-driver ":                "net-plugin",
		"__complete volume create --driver ":                      "vol-plugin",
		"__complete run --volume-driver ":                         "vol-plugin",
		"__complete --context ":                                   "default",
		"__complete ps --filter ":                                 "ancestor=\nbefore=",
		"__complete ps --filter st":                               "status=\nvolume=\n:6", // no space, no files
		"__complete ps --filter status=ex":                        "status=exited\n",
		"__complete ps -f network=n":                              "network=net10",
		"__complete ps --filter name=":                            "name=web",
		"__complete ps --filter label=a":                          ":4",
		"__complete network ls --filter driver=":                  "driver=bridge",
		"__complete network ls -f type=":                          "type=builtin",
		"__complete network ls -f name=net1":                      "name=net10",
		"__complete volume ls --filter dangling=":                 "dangling=true",
		"__complete volume ls --filter driver=v":                  "driver=vol-plugin",
		"__complete volume ls --filter ":                          "dangling=\ndriver=\nlabel=\nname=\n:6",
		"__complete run --mount ":                                 "type=\n:6",
		"__complete run --mount type=":                            "type=bind\ntype=image\ntype=tmpfs\ntype=volume\n:6",
		"__complete run --mount type=tmpfs,":                      "type=tmpfs,readonly=\ntype=tmpfs,target=\ntype=tmpfs,tmpfs-mode=\ntype=tmpfs,tmpfs-size=\n:6",
		"__complete run --mount type=bind,source=":                ":0", // files
		"__complete run --mount type=bind,src=/x,dst=/y,bind-p":   "type=bind,src=/x,dst=/y,bind-propagation=\n",
		"__complete run --mount type=bind,bind-recursive=w":       "type=bind,bind-recursive=writable\n:6",
		"__complete create --mount type=volume,src=d":             "type=volume,src=data",
		"__complete run --mount type=volume,src=d,dst=/x,target=": ":6",
		"__complete run --mount type=volume,ro,volume-driver=v":   "type=volume,ro,volume-driver=vol-plugin",
		"__complete run --mount type=image,source=n":              "type=image,source=nginx:1.2",
		"__complete run -v ":                                      "data:\n",
		"__complete run -v /et":                                   ":0", // files
		"__complete run -v data:/x":                               ":4",
		"__complete run -v data:/x:":                              "data:/x:ro\ndata:/x:rw\ndata:/x:idmap\ndata:/x:nocopy\n:4",
		"__complete create --volume /y:/x:ro,rs":                  "/y:/x:ro,rw\n/y:/x:ro,idmap\n/y:/x:ro,private\n",
		"__complete ru":                                           "run\tCreate and run a new container from an image",
		"__complete container ":                                   "attach\tConnect your terminal's streams to a running container",
		"__complete run --cpus 1 --pi":                            "--pids-limit\tLimit on the number of processes (-1 for unlimited)",
		"completion bash":                                         "# bash completion V2 for docker                               -*- shell-script -*-",
		"completion zsh":                                          "#compdef docker",
		"completion fish":                                         "# fish completion for docker                               -*- shell-script -*-",
	} {
		args := strings.Split(line, " ")
		r := wherry(t, e, "", args...)
		if !strings.Contains("\n"+r.Stdout, "\n"+want) {
			t.Errorf("%s: no %q in %q (stderr %q)", line, want, r.Stdout, r.Stderr)
		}
	}
}

// TestOlderEngine shows that an engine of an older API is spoken to in its
// own version after one refusal, and that nothing is printed twice.
func TestOlderEngine(t *testing.T) {
	var paths []string
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths = append(paths, r.URL.Path)
		w.Header().Set("Content-Type", "application/json")
		if !strings.HasPrefix(r.URL.Path, "/v1.41/") {
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, `{"message":"client version 1.56 is too new. Maximum supported API version is 1.41"}`)
			return
		}
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"message":"No such container: x"}`)
	}))
	srv.Start()
	defer srv.Close()
	for _, line := range []string{"rm x", "inspect --type container x", "ps", "start x", "wait x", "top x"} {
		paths = nil
		var out, errOut bytes.Buffer
		sh, err := agree(t.Context(), func() *shell.Shell {
			return &shell.Shell{Name: "wherry", In: shell.NewIn(strings.NewReader("")), Out: shell.NewOut(&out), Err: shell.NewOut(&errOut)}
		}, append([]string{"--config", t.TempDir(), "-H", "tcp://" + srv.Listener.Addr().String()}, strings.Fields(line)...))
		shell.Print(sh.Err, err)
		if strings.Contains(errOut.String(), "too new") || !strings.Contains(errOut.String(), "No such container: x") {
			t.Errorf("%s: %q", line, errOut.String())
		}
		if strings.Count(out.String(), "[]") > 1 {
			t.Errorf("%s printed twice: %q", line, out.String())
		}
		if len(paths) != 2 {
			t.Errorf("%s: asked %q", line, paths)
		}
	}
}

// TestHotPath counts the requests and connections of the commands that must
// be quick.
func TestHotPath(t *testing.T) {
	e := populated(t)
	for line, want := range map[string]int{"ps": 1, "rm web": 1, "start web": 1, "stop web": 1, "images -q": 1, "logs web": 2, "inspect web": 1} {
		r := wherry(t, e, "", strings.Fields(line)...)
		if n := len(e.take()); n != want || r.Code != 0 {
			t.Errorf("%s: %d requests, want %d (%+v)", line, n, want, r)
		}
	}
	// run --rm: create, attach, wait, start; the connection of create serves
	// again.
	var conns atomic.Int32
	var asked []string
	started := make(chan struct{})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, what, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1."), "/")
		switch what {
		case "containers/create":
			asked = append(asked, what)
			w.WriteHeader(http.StatusCreated)
			io.WriteString(w, `{"Id":"c1","Warnings":[]}`)
		case "containers/c1/attach":
			c, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
			<-started
			c.Write([]byte("\x01\x00\x00\x00\x00\x00\x00\x03hi\n"))
		case "containers/c1/wait":
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			<-started
			io.WriteString(w, `{"StatusCode":3}`)
		case "containers/c1/start":
			asked = append(asked, what)
			close(started)
			w.WriteHeader(http.StatusNoContent)
		default:
			t.Errorf("asked for %s", r.URL)
		}
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	r := wherry(t, &engine{Host: "tcp://" + srv.Listener.Addr().String()}, "", "run", "--rm", "img", "true")
	if r.Stdout != "hi\n" || r.Code != 3 || len(asked) != 2 || conns.Load() > 3 {
		t.Errorf("%+v, asked %q, %d connections", r, asked, conns.Load())
	}
}

func TestEndpoint(t *testing.T) {
	dir := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sum := sha256.Sum256([]byte("remote"))
	key := hex.EncodeToString(sum[:])
	write("contexts/meta/"+key+"/meta.json", `{"Name":"remote","Metadata":{},"Endpoints":{"docker":{"Host":"tcp://r:2376","SkipTLSVerify":false}}}`)
	write("contexts/tls/"+key+"/docker/ca.pem", "x")
	write("ca.pem", "x")
	for _, c := range []struct {
		name   string
		g      shell.Global
		env    map[string]string
		config string
		want   shell.Endpoint
		err    string
	}{
		{name: "default", want: shell.Endpoint{Host: shell.DefaultHost, Context: "default"}},
		{name: "flag", g: shell.Global{Hosts: []string{"tcp://h:1"}}, env: map[string]string{"WHERRY_HOST": "tcp://x:2"}, want: shell.Endpoint{Host: "tcp://h:1", Context: "default"}},
		{name: "our variable first", env: map[string]string{"WHERRY_HOST": "unix:///w", "DOCKER_HOST": "unix:///d"}, want: shell.Endpoint{Host: "unix:///w", Context: "default"}},
		{name: "docker's variable", env: map[string]string{"DOCKER_HOST": "unix:///d", "DOCKER_CONTEXT": "remote"}, want: shell.Endpoint{Host: "unix:///d", Context: "default"}},
		{name: "context flag", g: shell.Global{Context: "remote"}, env: map[string]string{"DOCKER_HOST": "unix:///d"},
			want: shell.Endpoint{Host: "tcp://r:2376", Context: "remote", TLS: true, Verify: true, CA: filepath.Join(dir, "contexts/tls", key, "docker/ca.pem")}},
		{name: "default context by flag", g: shell.Global{Context: "default"}, env: map[string]string{"DOCKER_HOST": "unix:///d", "DOCKER_CONTEXT": "remote"}, want: shell.Endpoint{Host: "unix:///d", Context: "default"}},
		{name: "context variable", env: map[string]string{"DOCKER_CONTEXT": "remote"},
			want: shell.Endpoint{Host: "tcp://r:2376", Context: "remote", TLS: true, Verify: true, CA: filepath.Join(dir, "contexts/tls", key, "docker/ca.pem")}},
		{name: "verified tls", g: shell.Global{Hosts: []string{"tcp://h"}, TLSVerify: true}, want: shell.Endpoint{Host: "tcp://h:2375", Context: "default", TLS: true, Verify: true, CA: filepath.Join(dir, "ca.pem")}},
		{name: "two hosts", g: shell.Global{Hosts: []string{"a", "b"}}, err: "Specify only one -H"},
		{name: "no such context", g: shell.Global{Context: "nope"}, err: `context "nope": context not found`},
		{name: "bad scheme", g: shell.Global{Hosts: []string{"foo://x"}}, err: "invalid bind address format: foo://x"},
		{name: "ssh", g: shell.Global{Hosts: []string{"ssh://me@x"}, TLSVerify: true}, want: shell.Endpoint{Host: "ssh://me@x", Context: "default"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, k := range []string{"WHERRY_HOST", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_TLS", "DOCKER_CERT_PATH"} {
				t.Setenv(k, c.env[k])
			}
			c.g.ConfigDir = dir
			sh := &shell.Shell{Global: c.g, Err: shell.NewOut(io.Discard)}
			ep, err := sh.Endpoint()
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, *ep); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestTLS speaks to a server whose certificate nobody signed.
func TestTLS(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, "[]")
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	e := &engine{Host: "tcp://" + srv.Listener.Addr().String()}
	if r := wherry(t, e, "", "--tls", "ps", "-q"); r.Code != 0 {
		t.Errorf("--tls: %+v", r)
	}
	if r := wherry(t, e, "", "--tlsverify", "ps"); r.Code == 0 || !strings.Contains(r.Stderr, "ca.pem") {
		t.Errorf("--tlsverify without a CA: %+v", r)
	}
	if r := wherry(t, e, "", "ps"); r.Code == 0 {
		t.Errorf("plain: %+v", r)
	}
}

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0}, {io.EOF, 1}, {&shell.StatusError{Code: 37}, 37}, {&shell.StatusError{Message: "x"}, 1},
		{shell.Interrupted{Signal: 2}, 130}, {shell.Interrupted{Signal: 15}, 143},
	} {
		if got := shell.ExitCode(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}

// TestInterrupt shows that a signal's cancel gives 128+n and no message.
func TestInterrupt(t *testing.T) {
	e := newEngine(t)
	block := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		close(block)
		<-r.Context().Done()
	}))
	defer srv.Close()
	e.Host = "tcp://" + srv.Listener.Addr().String()
	var out, errOut bytes.Buffer
	sh := &shell.Shell{Name: "wherry", In: shell.NewIn(strings.NewReader("")), Out: shell.NewOut(&out), Err: shell.NewOut(&errOut)}
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { <-block; cancel(shell.Interrupted{Signal: 2}) }()
	err := Run(ctx, sh, []string{"--config", t.TempDir(), "-H", e.Host, "events"})
	shell.Print(sh.Err, err)
	if shell.ExitCode(err) != 130 || errOut.Len() != 0 {
		t.Errorf("%v, stderr %q", err, errOut.String())
	}
}
