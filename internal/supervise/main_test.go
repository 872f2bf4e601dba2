package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
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
		os.Exit(keeper.Main(os.Args, hostStart, nil))
	case "count":
		count(os.Args[1:])
	case "step":
		step(os.Args[1:])
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

// step prints numbers, each once the log has the one before it: no read of the
// keeper has more than one. One that was lost is waited for in vain, and long
// enough that a keeper is there again.
func step(args []string) {
	n, _ := strconv.Atoi(args[0])
	for i := range n {
		fmt.Println(i)
		want := []byte("\"" + strconv.Itoa(i) + "\\n\"")
		for limit := time.Now().Add(3 * time.Second); time.Now().Before(limit); time.Sleep(500 * time.Microsecond) {
			if b, err := os.ReadFile(args[1]); err == nil && bytes.Contains(b, want) {
				break
			}
		}
	}
	os.Exit(7)
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
	if fifo, ok := strings.CutPrefix(path, "late:"); ok { // when something is written there
		if _, err := os.ReadFile(fifo); err != nil {
			return nil, err
		}
		argv = argv[1:]
		path = argv[0]
	}
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
		return nil, &sandbox.StartError{Step: "exec", Message: "exec: " + path + ": " + err.Error(), Errno: err.(syscall.Errno)} //nolint:errorlint // ForkExec gives nothing else
	}
	proc.PID, proc.PIDFD = pid, os.NewFile(uintptr(pidfd), "pidfd")
	return proc, nil
}

// count prints numbered lines, one each interval, and exits with 7 after n of
// them or at SIGUSR1.
func count(args []string) {
	n, _ := strconv.Atoi(args[0])
	every, _ := time.ParseDuration(args[1])
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGUSR1)
	tick := time.NewTicker(every)
	for i := range n {
		fmt.Println(i)
		select {
		case <-stop:
			os.Exit(7)
		case <-tick.C:
		}
	}
	os.Exit(7)
}

type engine struct {
	t   *testing.T
	cfg Config
	*Client
	early []Event // came while another one was waited for
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
	e.Client, e.early = c, nil
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
	pid, ok := e.findKeeper()
	e.Close()
	if ok {
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
	n, err := unix.Poll(p, 10000)
	for err == unix.EINTR { // the Go runtime's own signals come in between
		n, err = unix.Poll(p, 10000)
	}
	if n != 1 {
		t.Errorf("process %d is still there: %v", pid, err)
	}
}

func (e *engine) findKeeper() (pid int, ok bool) {
	b, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range b {
		s, _ := os.ReadFile(path)
		if bytes.HasPrefix(s, []byte("wherry-keeper\x00"+e.cfg.Dir+"\x00")) {
			pid, err := strconv.Atoi(strings.Split(path, "/")[2])
			return pid, err == nil
		}
	}
	return 0, false
}

// keeperPID is the keeper's, which must be there. One that is just being
// replaced has no pid; the next one answers when it has.
func (e *engine) keeperPID() int {
	e.t.Helper()
	for range 100 {
		if pid, ok := e.findKeeper(); ok {
			return pid
		}
		_, _ = e.List(e.t.Context()) // fails once for the keeper that died
	}
	e.t.Fatalf("no keeper; %s", e.keeperLog())
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

// wait waits for the next event of one kind and key.
func wait[E Event](e *engine, key Key) E {
	e.t.Helper()
	match := func(ev Event) (E, bool) {
		var got Key
		switch ev := ev.(type) {
		case Exit:
			got = ev.Key
		case AttachEnd:
			got = ev.Key
		case LogError:
			got = ev.Key
		}
		found, ok := ev.(E)
		return found, ok && got == key
	}
	for i, ev := range e.early {
		if found, ok := match(ev); ok {
			e.early = slices.Delete(e.early, i, i+1)
			return found
		}
	}
	limit := time.After(20 * time.Second)
	for {
		select {
		case ev, ok := <-e.Events():
			if !ok {
				e.t.Fatalf("events are over; %s", e.keeperLog())
			}
			if found, ok := match(ev); ok {
				return found
			}
			e.early = append(e.early, ev)
		case <-limit:
			var zero E
			e.t.Fatalf("no %T of %s; %s", zero, key, e.keeperLog())
		}
	}
}

// exit waits for the end of a process, which an earlier client may have been
// told of: then the list has it.
func (e *engine) exit(key Key) Exit {
	e.t.Helper()
	list, err := e.List(e.t.Context())
	if err != nil {
		e.t.Fatal(err)
	}
	for _, p := range list {
		if p.Key == key && p.Exited != nil {
			return *p.Exited
		}
	}
	return wait[Exit](e, key)
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
