package sandbox_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/pidfd"
	"github.com/wherry-engine/wherry/internal/linux/seccomp"
	"github.com/wherry-engine/wherry/internal/runtime/compile"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
	"github.com/wherry-engine/wherry/test/promise"
)

// requireRoot: containers need it.
func requireRoot(t testing.TB) {
	t.Helper()
	promise.Root(t)
}

var buildInit = sync.OnceValues(func() (*os.File, error) {
	if _, err := exec.LookPath("go"); err != nil {
		// A machine for tests alone brings the program ready-made.
		ready, lookErr := exec.LookPath("wherry-init")
		if lookErr != nil {
			return nil, errors.Join(err, lookErr)
		}
		binary, err := os.ReadFile(ready)
		if err != nil {
			return nil, err
		}
		return sandbox.InitFile(binary)
	}
	dir, err := os.MkdirTemp("", "wherry-init")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "wherry-init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "github.com/wherry-engine/wherry/cmd/wherry-init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, &exec.Error{Name: string(text), Err: err}
	}
	binary, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	return sandbox.InitFile(binary)
})

func initFile(t testing.TB) *os.File {
	t.Helper()
	f, err := buildInit()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// box is a container under test: an overlay over a busybox root, with docker's
// defaults; tests change its input before run.
type box struct {
	t       testing.TB
	lower   string // the image, for tests to spoil
	upper   string
	in      *spec.Input
	opt     compile.Options
	extra   []*os.File
	seccomp bool
	stdin   string
}

var applets = []string{
	"sh", "true", "false", "cat", "echo", "id", "ls", "mount", "ps", "stat", "sleep", "hostname", "env", "pwd", "readlink",
	"touch", "mkdir", "umount", "head", "wc", "grep", "kill", "tty", "stty", "sysctl", "test", "dd", "ln", "rm", "mknod", "chmod", "find", "df", "sync",
}

// image makes a root directory with busybox.
func image(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "image")
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "root"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		promise.Lacks(t, "busybox", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "bin/busybox"), b, 0o755))
	for _, a := range applets {
		must(t, os.Symlink("busybox", filepath.Join(dir, "bin", a)))
	}
	must(t, os.Chmod(filepath.Join(dir, "tmp"), 0o1777))
	write(t, filepath.Join(dir, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/var/web:/bin/sh\n")
	write(t, filepath.Join(dir, "etc/group"), "root:x:0:\nwebs:x:44:\nmedia:x:50:web\nextra:x:60:\n")
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

func newBox(t testing.TB, args ...string) *box {
	t.Helper()
	requireRoot(t)
	lower := image(t)
	dir := filepath.Dir(lower)
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	must(t, os.Mkdir(upper, 0o755))
	must(t, os.Mkdir(work, 0o755))
	b := &box{t: t, lower: lower, upper: upper, seccomp: true}
	b.in = &spec.Input{
		ID: "0123456789abcdef", Config: &container.Config{Cmd: args}, HostConfig: &container.HostConfig{NetworkMode: "bridge"},
		Hostname: "boxed", Rootfs: spec.Rootfs{Lower: []string{lower}, Upper: upper, Work: work},
		Namespaces: map[specs.LinuxNamespaceType]spec.NS{
			specs.MountNamespace: {}, specs.PIDNamespace: {}, specs.IPCNamespace: {}, specs.UTSNamespace: {}, specs.NetworkNamespace: {},
		},
	}
	b.opt = compile.Options{ID: "test", Overlay: &compile.Overlay{Lower: []string{lower}, Upper: upper, Work: work}, Lookup: true}
	return b
}

var filters seccomp.Cache

// plan compiles what the box has become.
func (b *box) plan() *sandbox.Plan {
	b.t.Helper()
	s, warnings, err := spec.Build(b.in)
	must(b.t, err)
	for _, w := range warnings {
		b.t.Log("warning:", w)
	}
	b.opt.User, b.opt.Groups = b.in.Config.User, b.in.HostConfig.GroupAdd
	if b.seccomp && !b.in.HostConfig.Privileged {
		b.opt.Seccomp = filter(b.t, s.Process.Capabilities.Bounding)
	}
	p, err := compile.Container(s, b.opt)
	must(b.t, err)
	return p
}

func filter(t testing.TB, caps []string) *compile.Seccomp {
	t.Helper()
	profile, err := filters.Default(caps)
	must(t, err)
	f, flags, err := filters.Compile(profile)
	must(t, err)
	return &compile.Seccomp{Filter: f, Flags: flags}
}

// result is what a finished process left.
type result struct {
	out, err string
	exit     pidfd.Exit
}

// run starts the box and waits for its end.
func (b *box) run() result {
	b.t.Helper()
	r, err := b.try()
	must(b.t, err)
	return r
}

// output is run for a process that must succeed.
func (b *box) output() string {
	b.t.Helper()
	r := b.run()
	if r.exit.Status() != 0 {
		b.t.Fatalf("exit %d, stdout %q, stderr %q", r.exit.Status(), r.out, r.err)
	}
	return r.out
}

func (b *box) try() (result, error) {
	b.t.Helper()
	return finish(b.t, b.plan(), b.stdin, b.extra)
}

func finish(t testing.TB, p *sandbox.Plan, stdin string, extra []*os.File) (result, error) {
	t.Helper()
	running, err := begin(t, p, stdin, extra)
	if err != nil {
		return result{}, err
	}
	return running.wait(), nil
}

// process is a started one with its output being collected.
type process struct {
	*sandbox.Process
	t        testing.TB
	out, err buffer
	done     sync.WaitGroup
	reaped   bool
	exit     pidfd.Exit
}

var ahead sandbox.Reserve

// begin starts a process forked ahead, of which the same must hold as of any.
func begin(t testing.TB, p *sandbox.Plan, stdin string, extra []*os.File) (*process, error) {
	t.Helper()
	must(t, ahead.Prepare())
	return beginWith(t, ahead.Start, p, stdin, extra)
}

type startFunc func(*os.File, *sandbox.Plan, sandbox.Stdio, []*os.File) (*sandbox.Process, error)

func beginWith(t testing.TB, start startFunc, p *sandbox.Plan, stdin string, extra []*os.File) (*process, error) {
	t.Helper()
	inR, inW, err := os.Pipe()
	must(t, err)
	outR, outW, err := os.Pipe()
	must(t, err)
	errR, errW, err := os.Pipe()
	must(t, err)
	proc, startErr := start(initFile(t), p, sandbox.Stdio{In: inR, Out: outW, Err: errW}, extra)
	inR.Close()
	outW.Close()
	errW.Close()
	if startErr != nil {
		inW.Close()
		outR.Close()
		errR.Close()
		return nil, startErr
	}
	_, _ = inW.WriteString(stdin)
	inW.Close()
	running := &process{Process: proc, t: t}
	out, in := io.Reader(outR), io.Writer(&running.out)
	if p.Terminal {
		outR.Close()
		out = proc.Terminal
	}
	running.done.Go(func() { _, _ = io.Copy(in, out) })
	running.done.Go(func() { _, _ = io.Copy(&running.err, errR); errR.Close() })
	t.Cleanup(running.stop)
	return running, nil
}

func (p *process) stop() {
	if p.reaped {
		return
	}
	_ = pidfd.Signal(p.PIDFD, unix.SIGKILL)
	p.wait()
}

func (p *process) wait() result {
	p.t.Helper()
	exit, _, err := pidfd.Wait(p.PIDFD, false)
	must(p.t, err)
	p.reaped, p.exit = true, exit
	p.done.Wait()
	p.PIDFD.Close()
	if p.Terminal != nil {
		p.Terminal.Close()
	}
	return result{p.out.String(), p.err.String(), exit}
}

func itoa(n int) string { return strconv.Itoa(n) }

// until waits for output. The pipe wakes the copier, so this only looks again
// after it had a chance to run.
func (p *process) until(text string) {
	p.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(p.out.String(), text) {
		if time.Now().After(deadline) {
			p.t.Fatalf("no %q in %q", text, p.out.String())
		}
		time.Sleep(time.Millisecond)
	}
}

// openIn makes a file in the container's root, seen from the host.
func (p *process) openIn(path string) (*os.File, error) {
	return os.Create("/proc/" + itoa(p.PID) + "/root/" + path)
}

// buffer is a bytes.Buffer that may be read while it grows.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *buffer) Len() int { return len(b.String()) }
