package sandbox_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/runtime/compile"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
	"github.com/wherry-engine/wherry/test/promise"
)

// A v1 group is joined before anything runs, and shown read-only inside.
func TestCgroup1(t *testing.T) {
	requireRoot(t)
	const pids = "/sys/fs/cgroup/pids"
	if _, err := os.Stat(pids + "/tasks"); err != nil {
		promise.Lacks(t, "cgroup1", err)
	}
	dir := filepath.Join(pids, "wherry-sandbox-test-"+itoa(os.Getpid()))
	must(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { _ = os.Remove(dir) })
	r := script(t, "cat /sys/fs/cgroup/pids/tasks | head -1; grep :pids: /proc/self/cgroup; mkdir /sys/fs/cgroup/pids/x 2>/dev/null || echo ro; mkdir /sys/fs/cgroup/y 2>/dev/null || echo ro", func(b *box) {
		b.opt.CgroupTasks = []string{dir + "/tasks"}
		b.opt.Controllers = []compile.Controller{{Name: "pids", Dir: dir}}
	})
	if !strings.HasPrefix(r.out, "1\n") || !strings.Contains(r.out, filepath.Base(dir)) || !strings.HasSuffix(r.out, "ro\nro\n") {
		t.Fatalf("got %q %q", r.out, r.err)
	}
}

// A mount made on the host reaches an rslave bind and not an rprivate one.
func TestPropagation(t *testing.T) {
	requireRoot(t)
	shared := t.TempDir()
	must(t, unix.Mount("tmpfs", shared, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { _ = unix.Unmount(shared, unix.MNT_DETACH) })
	must(t, unix.Mount("", shared, "", unix.MS_SHARED, ""))
	sub := filepath.Join(shared, "sub")
	must(t, os.Mkdir(sub, 0o755))
	b, running := sleeper(t, func(b *box) {
		b.in.Mounts = []spec.Mount{
			{Source: shared, Destination: "/slave", Type: "bind", Propagation: "rslave"},
			{Source: shared, Destination: "/private", Type: "bind"},
		}
	})
	must(t, unix.Mount("tmpfs", sub, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { _ = unix.Unmount(sub, unix.MNT_DETACH) })
	write(t, filepath.Join(sub, "late"), "")
	r, err := b.exec(running, &container.ExecCreateRequest{Cmd: []string{"sh", "-c", "ls /slave/sub; echo -; ls /private/sub"}})
	if err != nil || r.out != "late\n-\n" {
		t.Fatalf("got %q %v", r.out, err)
	}
	bad := newBox(t, "true")
	bad.in.Mounts = []spec.Mount{{Source: bad.lower, Destination: "/x", Type: "bind", Propagation: "rshared"}}
	if _, _, err := spec.Build(bad.in); err == nil || !strings.Contains(err.Error(), "but it is not a shared mount") {
		t.Fatalf("rshared of a private mount: %v", err)
	}
}

// A read-only bind is read-only to the bottom.
func TestRecursiveReadonly(t *testing.T) {
	requireRoot(t)
	dir := t.TempDir()
	sub := filepath.Join(dir, "sub")
	must(t, os.Mkdir(sub, 0o755))
	must(t, unix.Mount("tmpfs", sub, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { _ = unix.Unmount(sub, unix.MNT_DETACH) })
	r := script(t, "touch /m/sub/x 2>/dev/null || echo ro; touch /n/sub/x && echo rw", func(b *box) {
		b.in.Mounts = []spec.Mount{
			{Source: dir, Destination: "/m", Type: "bind", ReadOnly: true},
			{Source: dir, Destination: "/n", Type: "bind", ReadOnly: true, ReadOnlyNonRecursive: true},
		}
	})
	if r.out != "ro\nrw\n" {
		t.Fatalf("got %q %q", r.out, r.err)
	}
}

// A root without any of the directories it needs, and one that is a plain directory.
func TestOtherRoots(t *testing.T) {
	b := newBox(t, "echo", "plain")
	b.opt.Overlay = nil
	b.in.Rootfs = spec.Rootfs{Dir: b.lower}
	for _, d := range []string{"proc", "sys", "dev", "etc", "tmp"} {
		must(t, os.RemoveAll(filepath.Join(b.lower, d)))
	}
	if got := b.output(); got != "plain\n" {
		t.Fatalf("got %q", got)
	}
}

// An environment larger than a socket buffer arrives whole.
func TestLargeProgram(t *testing.T) {
	b := newBox(t, "sh", "-c", "env | wc -c")
	for i := range 10 {
		b.in.Config.Env = append(b.in.Config.Env, "V"+itoa(i)+"="+strings.Repeat("x", 100_000))
	}
	if got := b.output(); !strings.HasPrefix(got, "1000") {
		t.Fatalf("got %q", got)
	}
}

// A v2 group: the process is born in it, sees it as the root of its hierarchy,
// and an exec is born in it, too.
func TestCgroup2(t *testing.T) {
	requireRoot(t)
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err != nil {
		promise.Lacks(t, "cgroup2", err)
	}
	for name, change := range map[string]func(*box){"plain": func(*box) {}, "user namespace": remap} {
		t.Run(name, func(t *testing.T) {
			dir := "/sys/fs/cgroup/wherry-sandbox-test-" + itoa(os.Getpid())
			must(t, os.Mkdir(dir, 0o755))
			t.Cleanup(func() { _ = os.Remove(dir) })
			in := func(private bool) func(*box) {
				return func(b *box) {
					change(b)
					b.opt.CgroupDir, b.opt.Cgroup2, b.in.Cgroup2 = dir, true, true
					if private {
						b.in.Namespaces[specs.CgroupNamespace] = spec.NS{}
					}
				}
			}
			const look = "cat /proc/self/cgroup; ls /sys/fs/cgroup/cgroup.type; mkdir /sys/fs/cgroup/x 2>/dev/null && echo rw || echo ro"
			r := script(t, look, in(true))
			if r.out != "0::/\n/sys/fs/cgroup/cgroup.type\nro\n" {
				t.Errorf("private: %q %q", r.out, r.err)
			}
			r = script(t, "cat /proc/self/cgroup; ls -d /sys/fs/cgroup/"+filepath.Base(dir), in(false))
			if r.out != "0::/"+filepath.Base(dir)+"\n/sys/fs/cgroup/"+filepath.Base(dir)+"\n" {
				t.Errorf("the host's: %q %q", r.out, r.err)
			}
			b, running := sleeper(t, in(true))
			r, err := b.exec(running, &container.ExecCreateRequest{Cmd: []string{"cat", "/proc/self/cgroup"}})
			if err != nil || r.out != "0::/\n" {
				t.Errorf("exec: %q %q %v", r.out, r.err, err)
			}
		})
	}
}
