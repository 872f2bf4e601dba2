// Package harness owns what the tests stand on: private engines (wherryd, or
// dockerd as the peer), images made on the spot, and the check that nothing
// is left behind.
//
// A private engine has its own data root, exec root, socket, cgroup parent and,
// unless asked otherwise, network namespace, so that any number of them live
// beside each other and beside an engine that the machine already runs.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Kind says which program an engine is.
type Kind string

const (
	Wherry Kind = "wherryd"
	Docker Kind = "dockerd" // Debian's docker.io, the peer
)

// Options says how an engine differs from the usual private one.
type Options struct {
	Kind    Kind
	Flags   []string // more flags, after ours
	HostNet bool     // live in the host's network namespace
	NetOf   *Engine  // live in that engine's network namespace
	Env     []string // more environment for the daemon
	Config  string   // contents of daemon.json; "" for none
	Bin     string   // directory of wherryd and wherry; "" for that of Binary
}

// Engine is one private engine. It is not safe for concurrent use, except
// that any number of clients may talk to its socket.
type Engine struct {
	Client
	footprint
	opts Options

	etc     *os.File // mount namespace with another /etc, nil for the machine's; see OverEtc
	cmd     *exec.Cmd
	exited  chan struct{} // closed when cmd has been waited for
	aborted atomic.Bool
}

// startLimit bounds one start; dockerd starts a containerd first.
const startLimit = 30 * time.Second

var counter atomic.Int64

// New prepares the directories of an engine and starts nothing.
func New(o Options) (*Engine, error) {
	if o.Kind == "" {
		o.Kind = Wherry
	}
	id := fmt.Sprintf("wt%d-%d", os.Getpid(), counter.Add(1))
	// Not t.TempDir(): a unix socket's path may hold 107 bytes.
	dir, err := os.MkdirTemp("", id+"-")
	if err != nil {
		return nil, err
	}
	e := &Engine{
		Client:    Client{socket: filepath.Join(dir, "sock")},
		footprint: footprint{ID: id, Dir: dir, kind: o.Kind},
		opts:      o,
	}
	if o.Config != "" {
		if err := os.WriteFile(e.path("daemon.json"), []byte(o.Config), 0o644); err != nil {
			return nil, err
		}
	}
	if o.NetOf != nil {
		fd, err := syscall.Dup(int(o.NetOf.netns.Fd()))
		if err != nil {
			return nil, err
		}
		e.netns, e.shared = os.NewFile(uintptr(fd), "netns"), true
	} else if !o.HostNet {
		if e.netns, err = newNetNS(); err != nil {
			return nil, fmt.Errorf("make a network namespace: %w", err)
		}
	}
	e.baseNet, err = e.net()
	return e, err
}

// Kind says which program this engine is.
func (e *Engine) Kind() Kind { return e.opts.Kind }

// PID is the daemon's process id, 0 when it does not run.
func (e *Engine) PID() int {
	if !e.Running() {
		return 0
	}
	return e.cmd.Process.Pid
}

// Running says whether the daemon process exists.
func (e *Engine) Running() bool {
	if e.cmd == nil {
		return false
	}
	select {
	case <-e.exited:
		return false
	default:
		return true
	}
}

// Program is the daemon's executable.
func (e *Engine) Program() string {
	if e.opts.Kind == Docker {
		return "/usr/sbin/dockerd"
	}
	return e.binary("wherryd")
}

func (e *Engine) binary(name string) string {
	if e.opts.Bin != "" {
		return filepath.Join(e.opts.Bin, name)
	}
	return Binary(name)
}

// Args are the daemon's arguments.
func (e *Engine) Args(more ...string) []string {
	args := []string{
		"--data-root", e.DataRoot(), "--exec-root", e.ExecRoot(), "--pidfile", e.path("pid"),
		"-H", e.Host(), "--cgroup-parent", "/" + e.ID,
	}
	// A file that is named must exist, and /etc/docker/daemon.json is not ours.
	config := e.path("daemon.json")
	if e.opts.Config == "" {
		config = e.path("empty.json")
		if _, err := os.Stat(config); err != nil {
			os.WriteFile(config, []byte("{}"), 0o644)
		}
	}
	args = append(args, "--config-file", config)
	return append(append(args, e.opts.Flags...), more...)
}

// Spawn starts the daemon process and does not wait until it answers.
func (e *Engine) Spawn(flags ...string) error {
	if e.Running() {
		return errors.New("the engine runs already")
	}
	log, err := os.OpenFile(e.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(e.Program(), e.Args(flags...)...)
	cmd.Env = append(append(cleanEnv(), marker+"="+e.ID), e.opts.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	// Its own group, so that Ctrl-C in a terminal reaches only the test.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	start := func() error { return inMountNS(e.etc, cmd.Start) }
	if err := inNetNS(e.netns, start); err != nil {
		return err
	}
	exited := make(chan struct{})
	e.cmd, e.exited = cmd, exited
	go func() {
		cmd.Wait()
		close(exited)
	}()
	return nil
}

// Start runs the daemon and returns when it answers /_ping.
func (e *Engine) Start(flags ...string) error {
	notify, err := listenNotify(e.path("notify"))
	if err != nil {
		return err
	}
	defer notify.Close()
	e.opts.Env = append(e.opts.Env, "NOTIFY_SOCKET="+e.path("notify"))
	err = e.Spawn(flags...)
	e.opts.Env = e.opts.Env[:len(e.opts.Env)-1]
	if err != nil {
		return err
	}
	ready := make(chan struct{}, 1)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := notify.Read(buf)
			if err != nil {
				return
			}
			if bytes.Contains(buf[:n], []byte("READY=1")) {
				ready <- struct{}{}
			}
		}
	}()
	limit := time.NewTimer(startLimit)
	defer limit.Stop()
	// The ticker is for an engine that says nothing to systemd.
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ready:
		case <-tick.C:
		case <-e.exited:
			return fmt.Errorf("%s ended before it answered:\n%s", e.opts.Kind, e.LogTail(30))
		case <-limit.C:
			e.Kill()
			return fmt.Errorf("%s did not answer in %v:\n%s", e.opts.Kind, startLimit, e.LogTail(30))
		}
		if e.Ping() == nil {
			return nil
		}
	}
}

// Reload gives the daemon another configuration file and a SIGHUP, and
// returns when it says that it has dealt with the file, well or not.
func (e *Engine) Reload(file string) error {
	notify, err := listenNotify(e.path("notify"))
	if err != nil {
		return err
	}
	defer notify.Close()
	if err := notify.SetReadDeadline(time.Now().Add(startLimit)); err != nil {
		return err
	}
	// It must never be seen half written.
	if err := os.WriteFile(e.path("daemon.json.new"), []byte(file), 0o644); err != nil {
		return err
	}
	if err := os.Rename(e.path("daemon.json.new"), e.path("daemon.json")); err != nil {
		return err
	}
	if err := e.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for began := false; ; {
		n, err := notify.Read(buf)
		if err != nil {
			return fmt.Errorf("%s did not tell the end of its reload: %w\n%s", e.opts.Kind, err, e.LogTail(30))
		}
		// A READY=1 before may still be that of its start.
		if bytes.Contains(buf[:n], []byte("RELOADING=1")) {
			began = true
		} else if began && bytes.Contains(buf[:n], []byte("READY=1")) {
			return nil
		}
	}
}

// Stop ends the daemon as an init system would. The containers' fate is the
// daemon's business.
func (e *Engine) Stop() error {
	if !e.Running() {
		return nil
	}
	e.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-e.exited:
	case <-time.After(40 * time.Second):
		e.Kill()
		return fmt.Errorf("%s did not end within 40 s of SIGTERM:\n%s", e.opts.Kind, e.LogTail(30))
	}
	if code := e.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("%s ended with %v:\n%s", e.opts.Kind, e.cmd.ProcessState, e.LogTail(30))
	}
	return nil
}

// Kill ends the daemon with SIGKILL and waits for it.
func (e *Engine) Kill() {
	if e.Running() {
		e.cmd.Process.Kill()
		<-e.exited
	}
}

// Restart is Stop and Start.
func (e *Engine) Restart(flags ...string) error {
	if err := e.Stop(); err != nil {
		return err
	}
	return e.Start(flags...)
}

// LogTail is the end of the daemon's log.
func (e *Engine) LogTail(lines int) string {
	b, err := os.ReadFile(e.path("log"))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}

// Close removes every container through the API, stops the daemon, removes
// the directories and reports what was left behind by name. It ends what leaked,
// so that one failing test does not fail the next.
func (e *Engine) Close() error {
	var errs []error
	var ids []string
	if e.aborted.Load() {
		e.Kill()
		e.sweep()
		return errors.Join(errors.New("took too long and was aborted"), os.RemoveAll(e.Dir))
	}
	if !e.Running() && e.cmd != nil && e.opts.Kind == Wherry {
		// Containers may have outlived it; only an engine can remove them.
		if err := e.Start(); err != nil {
			errs = append(errs, err)
		}
	}
	if e.Running() {
		var err error
		if ids, err = e.removeContainers(); err != nil {
			errs = append(errs, err)
		}
		if err := e.Stop(); err != nil {
			errs = append(errs, err)
		}
	}
	for _, leak := range e.leaks(ids) {
		errs = append(errs, errors.New("left behind: "+leak))
	}
	e.sweep()
	if e.etc != nil {
		e.etc.Close()
	}
	if e.netns != nil {
		e.netns.Close()
	}
	if err := os.RemoveAll(e.Dir); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// removeContainers removes all of them by force and returns their ids.
func (e *Engine) removeContainers() ([]string, error) {
	var list []struct{ ID string }
	if err := e.GetJSON("/containers/json?all=1", &list); err != nil {
		return nil, err
	}
	var ids []string
	for _, c := range list {
		ids = append(ids, c.ID)
		code, body, err := e.API("DELETE", "/containers/"+c.ID+"?force=1&v=1", nil)
		if err != nil {
			return ids, err
		}
		// 409 is also said of one that --rm is removing just now.
		if code != 204 && code != 404 && !bytes.Contains(body, []byte("already in progress")) {
			return ids, fmt.Errorf("remove %.12s: %d %s", c.ID, code, body)
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err := e.GetJSON("/containers/json?all=1", &list); err != nil || len(list) == 0 {
			return ids, err
		}
		if time.Now().After(deadline) {
			return ids, fmt.Errorf("%d containers are still there after their removal", len(list))
		}
	}
}

// Abort ends the daemon and everything it started, so that a client that
// hangs on it returns. Close reports nothing more afterwards.
func (e *Engine) Abort() {
	e.aborted.Store(true)
	for _, p := range e.processes() {
		syscall.Kill(p.pid, syscall.SIGKILL)
	}
}

func listenNotify(path string) (*net.UnixConn, error) {
	os.Remove(path)
	return net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
}

// cleanEnv is our environment without what would point a client or a daemon
// elsewhere.
func cleanEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "DOCKER_") || strings.HasPrefix(name, "WHERRY_") || name == "NOTIFY_SOCKET" {
			continue
		}
		env = append(env, kv)
	}
	return env
}

// Command is a client program with the engine as its DOCKER_HOST.
func (e *Engine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(cleanEnv(), "DOCKER_HOST="+e.Host(), "WHERRY_HOST="+e.Host(), "DOCKER_CONFIG="+e.path("config"))
	return cmd
}

// CLI runs the client of this engine's kind and returns what it wrote and
// its exit code.
func (e *Engine) CLI(args ...string) (stdout, stderr string, code int, err error) {
	return e.Run(e.OwnCLI(), nil, args...)
}

// OwnCLI is the path of that client.
func (e *Engine) OwnCLI() string {
	if e.opts.Kind == Docker {
		return DockerCLI()
	}
	return e.binary("wherry")
}

// Run runs one client program to its end. err is only for a program that
// could not be started or did not end within a minute.
func (e *Engine) Run(name string, stdin io.Reader, args ...string) (stdout, stderr string, code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := e.Command(ctx, name, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		err = nil
	}
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return out.String(), errOut.String(), code, err
}
