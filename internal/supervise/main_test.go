package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/supervise/keeper"
)

// The test binary is also the keeper, with a start that forks plain processes
// of the host, and some of those processes.
func TestMain(m *testing.M) {
	switch os.Args[0] {
	case "wherry-keeper":
		os.Exit(keeper.Main(os.Args, hostStart))
	case "count":
		count(os.Args[1:])
	}
	before := openFiles()
	code := m.Run()
	// What is closed behind the answer needs a moment.
	for i := 0; i < 100 && openFiles() > before; i++ {
		time.Sleep(10 * time.Millisecond)
	}
	if n := openFiles(); n > before && code == 0 {
		fmt.Fprintf(os.Stderr, "%d descriptors leaked\n", n-before)
		code = 1
	}
	os.Exit(code)
}

func openFiles() int {
	list, _ := os.ReadDir("/proc/self/fd")
	n := 0
	for _, e := range list {
		// The runtime's own poller is made at the first use.
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); !strings.HasPrefix(to, "anon_inode:[event") {
			n++
		}
	}
	return n
}

// hostStart runs Plan.Program, arguments with zero bytes between them.
func hostStart(init *os.File, p *sandbox.Plan, io sandbox.Stdio, extra []*os.File) (*sandbox.Process, error) {
	argv := strings.Split(string(p.Program), "\x00")
	path := argv[0]
	if strings.HasPrefix(path, "self:") {
		path, argv[0] = "/proc/self/exe", path[5:]
	}
	pidfd := -1
	attr := &syscall.ProcAttr{Env: os.Environ(), Sys: &syscall.SysProcAttr{PidFD: &pidfd, Setsid: true}}
	proc := &sandbox.Process{}
	if p.Terminal {
		master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		raw := int(master.Fd())
		n, err := unix.IoctlGetInt(raw, unix.TIOCGPTN)
		if err == nil {
			err = unix.IoctlSetPointerInt(raw, unix.TIOCSPTLCK, 0)
		}
		if err != nil {
			return nil, err
		}
		slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			return nil, err
		}
		defer slave.Close()
		proc.Terminal = master
		attr.Files = []uintptr{slave.Fd(), slave.Fd(), slave.Fd()}
		attr.Sys.Setctty = true
	} else {
		attr.Files = []uintptr{io.In.Fd(), io.Out.Fd(), io.Err.Fd()}
	}
	for _, f := range extra {
		attr.Files = append(attr.Files, f.Fd())
	}
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		if proc.Terminal != nil {
			proc.Terminal.Close()
		}
		return nil, &sandbox.StartError{Step: "exec", Message: "exec: " + path + ": " + err.Error(), Errno: err.(syscall.Errno)}
	}
	proc.PID, proc.PIDFD = pid, os.NewFile(uintptr(pidfd), "pidfd")
	return proc, nil
}

// count prints numbered lines, one each interval, and exits with 7.
func count(args []string) {
	n, _ := strconv.Atoi(args[0])
	every, _ := time.ParseDuration(args[1])
	for i := range n {
		fmt.Println(i)
		time.Sleep(every)
	}
	os.Exit(7)
}

type engine struct {
	t   *testing.T
	cfg Config
	*Client
}

// newEngine starts a keeper of its own; it ends with the test.
func newEngine(t *testing.T) *engine {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{t: t, cfg: Config{Dir: filepath.Join(t.TempDir(), "keeper"), Keeper: self, Init: []byte("init"), CgroupProcs: []string{}, Logf: t.Logf}}
	e.connect()
	t.Cleanup(e.end)
	return e
}

func (e *engine) connect() {
	e.t.Helper()
	c, err := Connect(e.t.Context(), e.cfg)
	if err != nil {
		e.t.Fatal(err, e.keeperLog())
	}
	e.Client = c
}

func (e *engine) keeperLog() string {
	b, _ := os.ReadFile(filepath.Join(e.cfg.Dir, "keeper.log"))
	return "\nkeeper.log:\n" + string(b)
}

// end kills what runs and waits for the keeper to end by itself.
func (e *engine) end() {
	ctx := context.Background()
	list, err := e.List(ctx)
	if err != nil {
		e.t.Error(err)
	}
	for _, p := range list {
		if p.Exited == nil {
			_ = e.Signal(ctx, p.Key, syscall.SIGKILL)
		}
	}
	pid := e.keeperPID()
	e.Close()
	if pid > 0 {
		waitGone(e.t, pid)
	}
	if s := e.keeperLog(); strings.Contains(s, "panic") || strings.Contains(s, "fatal") {
		e.t.Error(s)
	}
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(p, 10000); n != 1 {
		t.Errorf("process %d is still there: %v", pid, err)
	}
}

func (e *engine) keeperPID() int {
	b, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range b {
		s, _ := os.ReadFile(path)
		if bytes.HasPrefix(s, []byte("wherry-keeper\x00"+e.cfg.Dir+"\x00")) {
			pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
			return pid
		}
	}
	return 0
}

func argv(args ...string) *sandbox.Plan {
	return &sandbox.Plan{Program: []byte(strings.Join(args, "\x00"))}
}

func sh(script string) *sandbox.Plan { return argv("/bin/sh", "-c", script) }

func (e *engine) start(r *StartRequest) *Started {
	e.t.Helper()
	s, err := e.Start(e.t.Context(), r)
	if err != nil {
		e.t.Fatal(err, e.keeperLog())
	}
	return s
}

// event waits for the next event of one kind and key.
func wait[E Event](e *engine, key Key) E {
	e.t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case ev, ok := <-e.Events():
			if !ok {
				e.t.Fatalf("events are over; %s", e.keeperLog())
			}
			var got Key
			switch ev := ev.(type) {
			case Exit:
				got = ev.Key
			case AttachEnd:
				got = ev.Key
			case LogError:
				got = ev.Key
			}
			if ev, ok := ev.(E); ok && got == key {
				return ev
			}
		case <-limit:
			var zero E
			e.t.Fatalf("no %T of %s; %s", zero, key, e.keeperLog())
		}
	}
}

// socket returns our end, and the other one for an Attachment.
func socket(t *testing.T) (*net.UnixConn, *os.File) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(p[0]), "ours"), os.NewFile(uintptr(p[1]), "theirs")
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	ours.Close()
	t.Cleanup(func() { conn.Close(); theirs.Close() })
	return conn.(*net.UnixConn), theirs
}

func (e *engine) logTarget() logs.Target {
	return logs.Target{Driver: logs.DriverJSONFile, Path: filepath.Join(e.t.TempDir(), "log")}
}

func readLog(t *testing.T, target logs.Target) string {
	t.Helper()
	var b strings.Builder
	err := logs.Read(t.Context(), target, logs.ReadOptions{Tail: -1}, func(e logs.Entry) error {
		b.Write(e.Line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return string(b)
}
