package container

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// fake answers the calls that have a func and records all of them.
type fake struct {
	client.APIClient
	create func(client.ContainerCreateOptions) (client.ContainerCreateResult, error)
	start  func() error
	attach func(client.ContainerAttachOptions) (client.ContainerAttachResult, error)
	wait   func(client.ContainerWaitOptions) client.ContainerWaitResult
	pull   func() (client.ImagePullResponse, error)

	mu    sync.Mutex
	calls []string
}

func (f *fake) did(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, s)
}

func (f *fake) ContainerCreate(_ context.Context, o client.ContainerCreateOptions) (client.ContainerCreateResult, error) {
	f.did("create")
	return f.create(o)
}

func (f *fake) ContainerStart(context.Context, string, client.ContainerStartOptions) (client.ContainerStartResult, error) {
	f.did("start")
	return client.ContainerStartResult{}, f.start()
}

func (f *fake) ContainerAttach(_ context.Context, _ string, o client.ContainerAttachOptions) (client.ContainerAttachResult, error) {
	f.did("attach")
	return f.attach(o)
}

func (f *fake) ContainerWait(_ context.Context, _ string, o client.ContainerWaitOptions) client.ContainerWaitResult {
	f.did("wait " + string(o.Condition))
	return f.wait(o)
}

func (f *fake) ImagePull(context.Context, string, client.ImagePullOptions) (client.ImagePullResponse, error) {
	f.did("pull")
	return f.pull()
}

// program is a container whose output and exit status a test decides.
type program struct {
	stdout, stderr string
	code           int64
	far            net.Conn
	exited         chan container.WaitResponse
}

func frame(stream byte, s string) []byte {
	if s == "" {
		return nil
	}
	h := []byte{stream, 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(h[4:], uint32(len(s)))
	return append(h, s...)
}

func (p *program) fake() *fake {
	near, far := net.Pipe()
	p.far, p.exited = far, make(chan container.WaitResponse, 1)
	return &fake{
		create: func(client.ContainerCreateOptions) (client.ContainerCreateResult, error) {
			return client.ContainerCreateResult{ID: "id1", Warnings: []string{"w"}}, nil
		},
		attach: func(client.ContainerAttachOptions) (client.ContainerAttachResult, error) {
			return client.ContainerAttachResult{HijackedResponse: client.NewHijackedResponse(near, "")}, nil
		},
		wait: func(client.ContainerWaitOptions) client.ContainerWaitResult {
			return client.ContainerWaitResult{Result: p.exited, Error: make(chan error)}
		},
		start: func() error {
			go func() {
				// The status comes before the output: all of it must be shown.
				p.exited <- container.WaitResponse{StatusCode: p.code}
				far.Write(frame(1, p.stdout))
				far.Write(frame(2, p.stderr))
				far.Close()
			}()
			return nil
		},
	}
}

func run(t *testing.T, f *fake, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	sh := &shell.Shell{
		Name: "wherry", Client: f, In: shell.NewIn(strings.NewReader("")),
		Out: shell.NewOut(&out), Err: shell.NewOut(&errOut), Global: shell.Global{ConfigDir: t.TempDir()},
	}
	cmd := NewRun(sh)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	shell.Print(sh.Err, err)
	return out.String(), errOut.String(), shell.ExitCode(err)
}

func TestRunAttached(t *testing.T) {
	p := &program{stdout: "hi\n", stderr: "oops\n", code: 37}
	f := p.fake()
	out, errOut, code := run(t, f, "--rm", "img", "cmd")
	if out != "hi\n" || errOut != "WARNING: w\noops\n" || code != 37 {
		t.Errorf("stdout %q, stderr %q, status %d", out, errOut, code)
	}
	// Attach and wait may come in either order, but both before the start.
	slices.Sort(f.calls[1:3])
	if got := strings.Join(f.calls, ","); got != "create,attach,wait removed,start" {
		t.Errorf("calls: %s", got)
	}
}

func TestRunWithoutRmWaitsForNextExit(t *testing.T) {
	p := &program{}
	f := p.fake()
	if _, _, code := run(t, f, "img"); code != 0 {
		t.Errorf("status %d", code)
	}
	if !slices.Contains(f.calls, "wait next-exit") {
		t.Errorf("calls: %v", f.calls)
	}
}

func TestRunDetached(t *testing.T) {
	p := &program{}
	f := p.fake()
	out, _, code := run(t, f, "-d", "img")
	if out != "id1\n" || code != 0 || strings.Join(f.calls, ",") != "create,start" {
		t.Errorf("stdout %q, status %d, calls %v", out, code, f.calls)
	}
}

func TestRunStartRefused(t *testing.T) {
	for msg, want := range map[string]int{
		`exec: "x": executable file not found in $PATH`:           127,
		`exec: "/x": stat /x: no such file or directory`:          127,
		`exec: "/etc": permission denied`:                         126,
		`exec: "/etc": is a directory`:                            126,
		`driver failed programming external connectivity: in use`: 125,
	} {
		p := &program{}
		f := p.fake()
		f.start = func() error {
			p.exited <- container.WaitResponse{StatusCode: 128}
			return errors.New("Error response from daemon: " + msg)
		}
		out, errOut, code := run(t, f, "--rm", "img", "x")
		if code != want || out != "" {
			t.Errorf("%s: status %d, stdout %q", msg, code, out)
		}
		if s := "WARNING: w\nwherry: Error response from daemon: " + msg + "\n\nRun 'wherry run --help' for more information\n"; errOut != s {
			t.Errorf("stderr %q", errOut)
		}
	}
}

type pulled struct {
	client.ImagePullResponse
	io.ReadCloser
}

func (p pulled) Read(b []byte) (int, error) { return p.ReadCloser.Read(b) }
func (p pulled) Close() error               { return p.ReadCloser.Close() }

func TestRunPullsMissingImage(t *testing.T) {
	p := &program{}
	f := p.fake()
	made := f.create
	f.create = func(o client.ContainerCreateOptions) (client.ContainerCreateResult, error) {
		if !slices.Contains(f.calls, "pull") {
			return client.ContainerCreateResult{}, errdefs.ErrNotFound.WithMessage("No such image: img:latest")
		}
		return made(o)
	}
	f.pull = func() (client.ImagePullResponse, error) {
		return pulled{ReadCloser: io.NopCloser(strings.NewReader(`{"status":"Pulling from library/img","id":"latest"}` + "\n"))}, nil
	}
	_, errOut, code := run(t, f, "img")
	if want := "Unable to find image 'img:latest' locally\nlatest: Pulling from library/img\nWARNING: w\n"; errOut != want || code != 0 {
		t.Errorf("stderr %q, status %d", errOut, code)
	}
	f.calls = nil
	if _, errOut, code := run(t, f, "--pull", "never", "img"); code != 125 || !strings.Contains(errOut, "No such image: img:latest") {
		t.Errorf("--pull never: stderr %q, status %d", errOut, code)
	}
}

func TestRunWaitError(t *testing.T) {
	p := &program{}
	f := p.fake()
	f.wait = func(client.ContainerWaitOptions) client.ContainerWaitResult {
		c := make(chan error, 1)
		c <- errors.New("gone")
		return client.ContainerWaitResult{Error: c}
	}
	if _, errOut, code := run(t, f, "img"); code != 125 || !strings.Contains(errOut, "error waiting for container: gone") {
		t.Errorf("stderr %q, status %d", errOut, code)
	}
}
