package foreign

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/pidfd"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
	"github.com/wherry-engine/wherry/test/promise"
)

// box is a container of one runtime, over a busybox root.
type box struct {
	t  *testing.T
	r  *Runtime
	id string
	in *spec.Input
}

func eachRuntime(t *testing.T, fn func(t *testing.T, b *box)) {
	promise.Root(t)
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		promise.Lacks(t, "busybox", err)
	}
	// As the keeper: what a runtime leaves becomes our child.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"runc", "crun"} {
		t.Run(name, func(t *testing.T) {
			if !installed(name) {
				promise.Lacks(t, name, "not installed")
			}
			if _, err := os.Stat("/sys/fs/cgroup/unified/cgroup.controllers"); err == nil && name == "crun" {
				t.Skip("crun refuses this machine's hybrid control groups")
			}
			dir := t.TempDir()
			for _, d := range []string{"lower/bin", "lower/etc", "lower/proc", "lower/sys", "lower/dev", "lower/tmp", "upper", "work"} {
				must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
			}
			must(t, os.WriteFile(filepath.Join(dir, "lower/bin/busybox"), busybox, 0o755))
			for _, a := range []string{"sh", "id", "cat", "echo", "tty", "sleep"} {
				must(t, os.Symlink("busybox", filepath.Join(dir, "lower/bin", a)))
			}
			must(t, os.WriteFile(filepath.Join(dir, "lower/etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/var/web:/bin/sh\n"), 0o644))
			must(t, os.WriteFile(filepath.Join(dir, "lower/etc/group"), []byte("root:x:0:\nmedia:x:50:web\n"), 0o644))
			id := "wherry-foreign-test-" + strconv.Itoa(os.Getpid())
			s := &Set{Dir: filepath.Join(dir, "runtimes"), Programs: map[string]Program{name: {Path: name}}}
			r, ok := s.Find(name)
			if !ok {
				t.Fatal("not found")
			}
			b := &box{t: t, r: r, id: id, in: &spec.Input{
				ID: id, Config: &container.Config{}, HostConfig: &container.HostConfig{NetworkMode: "none"}, Hostname: "boxed", CgroupPath: "/" + id,
				Rootfs:  spec.Rootfs{Lower: []string{dir + "/lower"}, Upper: dir + "/upper", Work: dir + "/work"},
				Cgroup2: exists("/sys/fs/cgroup/cgroup.controllers"),
				Namespaces: map[specs.LinuxNamespaceType]spec.NS{
					specs.MountNamespace: {}, specs.PIDNamespace: {}, specs.IPCNamespace: {}, specs.UTSNamespace: {}, specs.NetworkNamespace: {},
				},
			}}
			t.Cleanup(func() {
				if err := r.Delete(t.Context(), id); err != nil && t.Context().Err() == nil {
					t.Error(err)
				}
			})
			fn(t, b)
		})
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start creates and starts the container; out is what it writes.
func (b *box) start(user string, args ...string) (p *sandbox.Process, out *os.File, err error) {
	b.t.Helper()
	b.in.Config.Cmd, b.in.Config.User = args, user
	s, _, err := spec.Build(b.in)
	must(b.t, err)
	plan, err := b.r.Create(b.id, s, Root(b.in.Rootfs), User{Name: user}, true)
	if err != nil {
		return nil, nil, err
	}
	out, w, err := os.Pipe()
	must(b.t, err)
	defer w.Close()
	p, err = sandbox.Start(nil, plan, sandbox.Stdio{Out: w, Err: w}, nil)
	if err == nil {
		err = p.Release()
	}
	return p, out, b.r.Failure(b.id, "create", err)
}

func (b *box) finish(p *sandbox.Process, out *os.File) (string, int) {
	b.t.Helper()
	text, err := io.ReadAll(out)
	must(b.t, err)
	e, _, err := pidfd.Wait(p.PIDFD, false)
	must(b.t, err)
	return string(text), e.Status()
}

func TestRun(t *testing.T) {
	eachRuntime(t, func(t *testing.T, b *box) {
		p, out, err := b.start("web", "sh", "-c", "id; echo $HOME; echo x > /dev/stdout; cat /proc/1/comm; exit 7")
		must(t, err)
		text, code := b.finish(p, out)
		if code != 7 || text != "uid=33(web) gid=44 groups=44,50(media)\n/var/web\nx\nsh\n" {
			t.Fatalf("exit %d, %q", code, text)
		}
		must(t, b.r.Delete(t.Context(), b.id))
		if _, err := os.Stat(b.r.bundle(b.id)); err == nil {
			t.Fatal("the bundle is still there")
		}
	})
}

func TestExec(t *testing.T) {
	eachRuntime(t, func(t *testing.T, b *box) {
		p, _, err := b.start("", "sleep", "1000")
		must(t, err)
		s, _, err := spec.Build(b.in)
		must(t, err)
		run := func(tty bool, user string, args ...string) (string, error) {
			proc, err := spec.BuildExec(s, &container.ExecCreateRequest{Cmd: args, Tty: tty})
			must(t, err)
			plan, done, err := b.r.Exec(b.id, "e1", proc, p.PID, User{Name: user})
			must(t, err)
			defer done()
			out, w, err := os.Pipe()
			must(t, err)
			x, err := sandbox.Start(nil, plan, sandbox.Stdio{Out: w, Err: w}, nil)
			w.Close()
			if err != nil {
				return "", b.r.Failure(b.id, "exec", err)
			}
			if tty {
				buf := make([]byte, 100)
				n, err := x.Terminal.Read(buf)
				must(t, err)
				_, _, err = pidfd.Wait(x.PIDFD, false)
				return string(buf[:n]), err
			}
			text, _ := b.finish(x, out)
			return text, nil
		}
		if text, err := run(false, "web", "id", "-un"); err != nil || text != "web\n" {
			t.Errorf("%q %v", text, err)
		}
		if text, err := run(true, "", "tty"); err != nil || !strings.HasPrefix(text, "/dev/pts/") {
			t.Errorf("%q %v", text, err)
		}
		if _, err := run(false, "", "nope"); err == nil || !strings.Contains(err.Error(), "nope") || !strings.Contains(err.Error(), "not found") {
			t.Errorf("a command that does not exist: %v", err)
		}
		// What the failed exec left is a child of ours, for which the end of the
		// pid namespace waits.
		_, err = unix.Wait4(-1, nil, unix.WNOHANG, nil)
		must(t, err)
		must(t, pidfd.Signal(p.PIDFD, unix.SIGKILL))
		if e, _, err := pidfd.Wait(p.PIDFD, false); err != nil || e.Status() != 137 {
			t.Errorf("%v %v", e, err)
		}
	})
}

func TestFailures(t *testing.T) {
	eachRuntime(t, func(t *testing.T, b *box) {
		_, _, err := b.start("", "nope")
		if err == nil || !strings.HasPrefix(err.Error(), "OCI runtime create failed: ") || !strings.Contains(err.Error(), "not found in $PATH") {
			t.Errorf("a command that does not exist: %v", err)
		}
		if _, _, err := b.start("nobody2", "id"); err == nil || !strings.Contains(err.Error(), "unable to find user nobody2") {
			t.Errorf("an unknown user: %v", err)
		}
	})
}

func TestFind(t *testing.T) {
	s := &Set{Programs: map[string]Program{"kata": {Path: "/opt/kata"}}}
	for name, want := range map[string]bool{"kata": true, "nope": false, "wherry": false, "runc": installed("runc"), "io.containerd.runc.v2": installed("runc")} {
		if _, ok := s.Find(name); ok != want {
			t.Errorf("%s: %v", name, ok)
		}
	}
	r, _ := s.Find("kata")
	if _, err := r.Create("x", nil, Root{}, User{}, false); err == nil || !strings.Contains(err.Error(), "/opt/kata") {
		t.Error(err)
	}
}
