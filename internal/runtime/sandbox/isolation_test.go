package sandbox_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/runtime/compile"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
)

// script runs a shell script in a box.
func script(t testing.TB, text string, change ...func(*box)) result {
	t.Helper()
	b := newBox(t, "sh", "-c", text)
	for _, c := range change {
		c(b)
	}
	return b.run()
}

func TestInside(t *testing.T) {
	user := func(u string) func(*box) { return func(b *box) { b.in.Config.User = u } }
	for _, c := range []struct {
		name, script, want string
		change             func(*box)
	}{
		{"hostname", "hostname", "boxed", nil},
		{"pid", "echo $$", "1", nil},
		{"capabilities", "grep Cap /proc/self/status | tr -d '\\t'", "", func(b *box) {
			b.in.Config.Cmd[2] = "grep Cap /proc/self/status"
		}},
		{"home of root", "echo $HOME", "/root", nil},
		{"home and groups of web", "echo $HOME; id -u; id -g; id -G", "/var/web\n33\n44\n44 50", user("web")},
		{"number without entry", "echo $HOME; id -u; id -g; id -G", "/\n1234\n0\n0", user("1234")},
		{"user and group", "id -u; id -g; id -G", "33\n60\n60", user("web:extra")},
		{"group add", "id -G", "0 60 77", func(b *box) { b.in.HostConfig.GroupAdd = []string{"extra", "77"} }},
		{"path", "echo $PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", nil},
		{"descriptors", "ls /proc/self/fd", "0\n1\n2\n3", nil}, // 3 is ls reading the directory
		{"working directory is made", "pwd", "/made/on/demand", func(b *box) { b.in.Config.WorkingDir = "/made/on/demand" }},
		{"proc keys are masked", "cat /proc/keys; wc -c < /proc/interrupts", "0", nil},
		{"sysctl of the network", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0", nil},
		{"shm", "df -k /dev/shm | grep shm | head -1 | (read a b c; echo $a $b)", "shm 1024", func(b *box) { b.in.HostConfig.ShmSize = 1 << 20 }},
		{"rlimit", "ulimit -n", "99", func(b *box) { b.in.HostConfig.Ulimits = []*container.Ulimit{{Name: "nofile", Soft: 99, Hard: 100}} }},
		{"tmpfs", "mount | grep -o '/scratch .*size=64k'", "/scratch type tmpfs (rw,nosuid,nodev,noexec,relatime,size=64k", func(b *box) {
			b.in.HostConfig.Tmpfs = map[string]string{"/scratch": "size=64k"}
		}},
		{"no new privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1", func(b *box) { b.in.HostConfig.SecurityOpt = []string{"no-new-privileges"} }},
		{"seccomp", "grep Seccomp: /proc/self/status", "Seccomp:\t2", nil},
		{"umask", "umask", "0022", nil},
		{"sysfs is read-only", "mkdir /sys/x 2>/dev/null || echo refused", "refused", nil},
		{"proc sys is read-only", "echo 1 2>/dev/null > /proc/sys/kernel/panic || echo refused", "refused", nil},
		{"read-only root", "touch /x 2>/dev/null || echo refused; touch /dev/shm/x && echo shm", "refused\nshm", func(b *box) { b.in.HostConfig.ReadonlyRootfs = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, "sh", "-c", c.script)
			if c.change != nil {
				c.change(b)
			}
			got := strings.TrimSpace(b.output())
			if c.name == "capabilities" {
				want := "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000"
				if got != want {
					t.Fatalf("got %q", got)
				}
				return
			}
			if got != c.want {
				t.Fatalf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	if r := script(t, "exit 7"); r.exit.Status() != 7 {
		t.Errorf("exit 7: %d", r.exit.Status())
	}
	if r := script(t, "kill -9 $$; kill -TERM $$; exit 3"); r.exit.Status() != 3 {
		t.Errorf("the first process is not killed from inside: %d", r.exit.Status())
	}
	if r := script(t, "echo '#!/nope' > /x; chmod +x /x; exec /x"); r.exit.Status() != 127 {
		t.Errorf("shell: %d", r.exit.Status())
	}
}

func TestStartErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		args   []string
		change func(*box)
		want   string
		errno  unix.Errno
	}{
		{"no such command", []string{"nope"}, nil, `exec: "nope": executable file not found in $PATH`, unix.ENOENT},
		{"no such path", []string{"/nope"}, nil, `exec: "/nope": stat /nope: no such file or directory`, unix.ENOENT},
		{"directory", []string{"/etc"}, nil, `exec: "/etc": is a directory: permission denied`, unix.EACCES},
		{"not executable", []string{"/etc/passwd"}, nil, `exec: "/etc/passwd": permission denied`, unix.EACCES},
		{"no user", []string{"true"}, func(b *box) { b.in.Config.User = "nobodyhere" }, "unable to find user nobodyhere: no matching entries in passwd file", unix.EINVAL},
		{"no group", []string{"true"}, func(b *box) { b.in.Config.User = "web:nogroup" }, "unable to find group nogroup: no matching entries in group file", unix.EINVAL},
		{"uid too large (CVE-2024-40635)", []string{"true"}, func(b *box) { b.in.Config.User = "4294967296" }, "uids and gids must be in range 0-2147483647", unix.EINVAL},
		{"working directory is a file", []string{"true"}, func(b *box) { b.in.Config.WorkingDir = "/etc/passwd" }, "Cannot mkdir: /etc/passwd is not a directory", unix.ENOTDIR},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, c.args...)
			if c.change != nil {
				c.change(b)
			}
			_, err := b.try()
			var e *sandbox.StartError
			if !errors.As(err, &e) || e.Message != c.want || !errors.Is(err, c.errno) {
				t.Fatalf("got %#v", err)
			}
		})
	}
}

func TestExecFormatError(t *testing.T) {
	b := newBox(t, "/bin/text")
	must(t, os.WriteFile(filepath.Join(b.lower, "bin/text"), []byte("plain text"), 0o755))
	r := b.run()
	if r.exit.Status() != 255 || r.err != "exec /bin/text: exec format error\n" {
		t.Fatalf("got %d %q", r.exit.Status(), r.err)
	}
}

func TestTerminal(t *testing.T) {
	b := newBox(t, "sh", "-c", "tty; stty size; ls -l /dev/console; echo $TERM")
	b.in.Config.Tty = true
	b.in.HostConfig.ConsoleSize = [2]uint{33, 77}
	r := b.run()
	for _, want := range []string{"/dev/pts/0\r\n33 77\r\ncrw", "136,   0", "xterm\r\n"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("no %q in %q", want, r.out)
		}
	}
}

func TestBinds(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "d"), 0o755))
	write(t, filepath.Join(dir, "f"), "file\n")
	r := script(t, "cat /mnt/f; cat /etc/one; touch /mnt/x && echo rw; touch /ro/x 2>/dev/null || echo ro; mount | grep -c -e ' /ro ' -e ' /mnt '", func(b *box) {
		b.in.Mounts = []spec.Mount{
			{Source: dir, Destination: "/mnt", Type: "bind"}, {Source: dir, Destination: "/ro", Type: "bind", ReadOnly: true},
			{Source: filepath.Join(dir, "f"), Destination: "/etc/one", Type: "bind"},
		}
	})
	if r.out != "file\nfile\nrw\nro\n2\n" {
		t.Fatalf("got %q, stderr %q", r.out, r.err)
	}
	if _, err := os.Stat(filepath.Join(dir, "x")); err != nil {
		t.Fatal("a write to the bind did not reach the host")
	}
	b := newBox(t, "true")
	b.in.Mounts = []spec.Mount{{Source: dir, Destination: "/etc/passwd", Type: "bind"}}
	if _, err := b.try(); err == nil || !strings.Contains(err.Error(), "Are you trying to mount a directory onto a file") {
		t.Fatalf("directory on file: %v", err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), b.upper) {
		t.Fatal("the overlay is visible on the host")
	}
}

func TestPrivileged(t *testing.T) {
	r := script(t, "grep CapEff /proc/self/status; test -e /dev/kmsg && echo kmsg; mount | grep ' on /sys ' ", func(b *box) { b.in.HostConfig.Privileged = true })
	if !strings.Contains(r.out, "kmsg\n") || !strings.Contains(r.out, "sysfs (rw,") {
		t.Fatalf("got %q %q", r.out, r.err)
	}
}

func TestHold(t *testing.T) {
	b := newBox(t, "echo", "released")
	b.opt.Hold = true
	p := b.plan()
	running, err := begin(t, p, "", nil)
	must(t, err)
	if running.out.Len() != 0 {
		t.Fatal("ran before it was released")
	}
	must(t, running.Release())
	if r := running.wait(); r.out != "released\n" {
		t.Fatalf("got %q", r.out)
	}
}

func TestInit(t *testing.T) {
	dir := t.TempDir()
	binary, err := os.ReadFile("/proc/self/fd/" + itoa(int(initFile(t).Fd())))
	must(t, err)
	path := filepath.Join(dir, "wherry-init")
	must(t, os.WriteFile(path, binary, 0o755))
	withInit := func(b *box) { b.in.Init, b.in.InitPath = true, path }
	r := script(t, "echo $$; cat /proc/1/comm; kill -USR1 1; (sleep 0.05 &) ; exit 5", withInit)
	if r.exit.Status() != 5 && r.exit.Status() != 128+10 {
		t.Fatalf("exit %d, %q %q", r.exit.Status(), r.out, r.err)
	}
	if !strings.Contains(r.out, "docker-init") {
		t.Fatalf("got %q %q", r.out, r.err)
	}
	// A signal reaches the child, which alone decides.
	b := newBox(t, "sh", "-c", "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.02; done")
	withInit(b)
	running, err := begin(t, b.plan(), "", nil)
	must(t, err)
	running.until("ready\n")
	must(t, unix.PidfdSendSignal(int(running.PIDFD.Fd()), unix.SIGTERM, nil, 0))
	if r := running.wait(); r.exit.Status() != 9 || !strings.Contains(r.out, "got") {
		t.Fatalf("exit %d, %q %q", r.exit.Status(), r.out, r.err)
	}
	// One that comes before the reaper is ready is kept for it.
	for range 10 {
		b := newBox(t, "sleep", "1000")
		withInit(b)
		b.opt.Reaper = true
		running, err := begin(t, b.plan(), "", nil)
		must(t, err)
		must(t, unix.PidfdSendSignal(int(running.PIDFD.Fd()), unix.SIGTERM, nil, 0))
		if r := running.wait(); r.exit.Status() != 128+15 {
			t.Fatalf("exit %d, %q %q", r.exit.Status(), r.out, r.err)
		}
	}
}

// mappings are a user namespace like userns-remap's.
var mappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}

func remap(b *box) {
	b.in.UIDMaps, b.in.GIDMaps = mappings, mappings
	b.in.HostConfig.NetworkMode = "none"
}

func TestUserNamespace(t *testing.T) {
	r := script(t, "id -u; cat /proc/self/uid_map; echo x > /new && echo y >> /etc/passwd && rm /etc/group && echo made; test -c /dev/null && echo null; mkdir /dev/shm/x && echo shm; mount | grep -c cgroup", remap)
	if r.exit.Status() != 0 && r.exit.Status() != 1 || !strings.HasPrefix(r.out, "0\n         0     100000      65536\nmade\nnull\nshm\n") {
		t.Fatalf("exit %d, %q %q", r.exit.Status(), r.out, r.err)
	}
}

// sleeper starts a container that lives until the test ends.
func sleeper(t *testing.T, change ...func(*box)) (*box, *process) {
	t.Helper()
	b := newBox(t, "sh", "-c", "echo up; while :; do sleep 0.05; done")
	for _, c := range change {
		c(b)
	}
	running, err := begin(t, b.plan(), "", b.extra)
	must(t, err)
	running.until("up\n")
	return b, running
}

func (b *box) exec(running *process, cfg *container.ExecCreateRequest) (result, error) {
	b.t.Helper()
	s, _, err := spec.Build(b.in)
	must(b.t, err)
	p, err := spec.BuildExec(s, cfg)
	must(b.t, err)
	user := cfg.User
	if user == "" {
		user = b.in.Config.User
	}
	plan, err := compile.Exec(p, compile.ExecOptions{PID: running.PID, Main: s, CgroupDir: b.opt.CgroupDir, Seccomp: filter(b.t, p.Capabilities.Bounding), Lookup: true, User: user})
	must(b.t, err)
	return finish(b.t, plan, "", nil)
}

func TestExec(t *testing.T) {
	for name, change := range map[string]func(*box){"plain": func(*box) {}, "user namespace": remap} {
		t.Run(name, func(t *testing.T) {
			b, running := sleeper(t, change)
			r, err := b.exec(running, &container.ExecCreateRequest{Cmd: []string{"sh", "-c", "hostname; id -u; readlink /proc/1/ns/net; readlink /proc/self/ns/net; ls /proc/self/fd; grep -e CapEff -e CapInh -e Seccomp: /proc/self/status; pwd"}, WorkingDir: "/tmp"})
			must(t, err)
			lines := strings.Split(r.out, "\n")
			if len(lines) < 12 || lines[0] != "boxed" || lines[1] != "0" || lines[2] != lines[3] {
				t.Fatalf("got %q %q", r.out, r.err)
			}
			rest := strings.Join(lines[4:], "\n")
			want := "0\n1\n2\n3\nCapInh:\t0000000000000000\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n/tmp\n"
			if rest != want {
				t.Fatalf("got %q, want %q", rest, want)
			}
			r, err = b.exec(running, &container.ExecCreateRequest{Cmd: []string{"id", "-G"}, User: "web"})
			if err != nil || r.out != "44 50\n" {
				t.Fatalf("user web: %q %v", r.out, err)
			}
			r, err = b.exec(running, &container.ExecCreateRequest{Cmd: []string{"tty"}, Tty: true})
			if err != nil || r.out != "/dev/pts/0\r\n" {
				t.Fatalf("terminal: %q %v", r.out, err)
			}
			_, err = b.exec(running, &container.ExecCreateRequest{Cmd: []string{"nope"}})
			if err == nil || err.Error() != `exec: "nope": executable file not found in $PATH` {
				t.Fatalf("got %v", err)
			}
			_, err = b.exec(running, &container.ExecCreateRequest{Cmd: []string{"true"}, WorkingDir: "/nope"})
			if err == nil || err.Error() != `chdir to cwd ("/nope") set in config.json failed: no such file or directory` {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func TestJoin(t *testing.T) {
	_, running := sleeper(t)
	ns := func(name string) spec.NS {
		return spec.NS{Kind: spec.Path, Path: "/proc/" + itoa(running.PID) + "/ns/" + name}
	}
	other, err := running.openIn("dev/shm/from-first")
	must(t, err)
	other.Close()
	r := script(t, "hostname; cat /proc/1/cmdline | head -c 2; ls /dev/shm; readlink /proc/1/ns/ipc; readlink /proc/self/ns/ipc", func(b *box) {
		b.in.Hostname = ""
		b.in.HostConfig.IpcMode = "container:first"
		b.in.Namespaces = map[specs.LinuxNamespaceType]spec.NS{
			specs.MountNamespace: {}, specs.PIDNamespace: ns("pid"), specs.IPCNamespace: ns("ipc"), specs.UTSNamespace: ns("uts"), specs.NetworkNamespace: ns("net"),
		}
	})
	lines := strings.Split(r.out, "\n")
	if len(lines) < 5 || lines[0] != "boxed" || lines[1] != "shfrom-first" || lines[2] != lines[3] {
		t.Fatalf("got %q %q", r.out, r.err)
	}
}
