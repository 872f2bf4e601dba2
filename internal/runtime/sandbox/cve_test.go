package sandbox_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/runtime/spec"
)

// replace makes path of the image a symbolic link.
func (b *box) replace(path, target string) {
	b.t.Helper()
	full := filepath.Join(b.lower, path)
	must(b.t, os.RemoveAll(full))
	must(b.t, os.MkdirAll(filepath.Dir(full), 0o755))
	must(b.t, os.Symlink(target, full))
}

// The binary that init runs from cannot be written, from inside or outside.
func TestCVE_2019_5736(t *testing.T) {
	f := initFile(t)
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Fatal("init's binary is writable")
	}
	if err := f.Truncate(0); err == nil {
		t.Fatal("init's binary can be cut")
	}
	if w, err := os.OpenFile("/proc/self/fd/"+itoa(int(f.Fd())), os.O_WRONLY, 0); err == nil {
		_, err := w.Write([]byte("x"))
		w.Close() // a writer would keep it from being executed
		if err == nil {
			t.Fatal("init's binary is writable when opened again")
		}
	}
	// As the attack did: exec in a container whose program is /proc/self/exe.
	b, running := sleeper(t)
	r, err := b.exec(running, &container.ExecCreateRequest{Cmd: []string{"/proc/self/exe"}})
	if err == nil && strings.Contains(r.out+r.err, "init") && r.exit.Status() == 0 {
		t.Fatalf("init ran again inside: %q %q", r.out, r.err)
	}
}

// Neither a descriptor nor a working directory outside survives to the program.
func TestCVE_2024_21626(t *testing.T) {
	r := script(t, "ls /proc/self/fd | wc -l; pwd")
	if r.out != "4\n/\n" { // 0, 1, 2 and the directory ls reads
		t.Fatalf("descriptors: %q", r.out)
	}
	for fd := 3; fd < 12; fd++ {
		b := newBox(t, "sh", "-c", "ls ../../../../..")
		b.in.Config.WorkingDir = "/proc/self/fd/" + itoa(fd)
		if r, err := b.try(); err == nil {
			t.Fatalf("working directory through descriptor %d: %q", fd, r.out)
		}
	}
	b, running := sleeper(t)
	for fd := 3; fd < 12; fd++ {
		if r, err := b.exec(running, &container.ExecCreateRequest{Cmd: []string{"ls"}, WorkingDir: "/proc/self/fd/" + itoa(fd)}); err == nil {
			t.Fatalf("exec through descriptor %d: %q", fd, r.out)
		}
	}
	b = newBox(t, "ls")
	b.replace("escape", "/proc/self/fd/5")
	b.in.Config.WorkingDir = "/escape"
	if r, err := b.try(); err == nil {
		t.Fatalf("working directory through a link: %q", r.out)
	}
}

// A root whose /proc, /sys or /dev are links: refused, or kept inside.
func TestCVE_2019_16884_2019_19921_HostileRoot(t *testing.T) {
	outside := t.TempDir()
	for _, path := range []string{"proc", "sys"} {
		for _, target := range []string{"/tmp", outside, "../../../.." + outside} {
			b := newBox(t, "true")
			b.replace(path, target)
			if _, err := b.try(); err == nil || !strings.Contains(err.Error(), "must be mounted on ordinary directory") {
				t.Errorf("/%s -> %s: %v", path, target, err)
			}
		}
	}
	for _, path := range []string{"dev", "etc", "dev/shm", "sys/fs", "etc/hosts", "etc/resolv.conf", "tmp/mnt"} {
		b := newBox(t, "/bin/sh", "-c", "ls -d /tmp")
		host := filepath.Join(outside, "host")
		write(t, host, "untouched")
		b.replace(path, outside)
		b.in.Files = spec.Files{Hosts: "/etc/hosts", ResolvConf: "/etc/hosts"}
		b.in.Mounts = []spec.Mount{{Source: outside, Destination: "/tmp/mnt/below", Type: "bind"}}
		r, err := b.try()
		if err == nil && r.exit.Status() != 0 {
			t.Errorf("/%s: exit %d %q", path, r.exit.Status(), r.err)
		}
		entries, err := os.ReadDir(outside)
		must(t, err)
		if len(entries) != 1 {
			t.Fatalf("/%s -> %s: made %v on the host", path, outside, entries)
		}
	}
}

// /dev/null of the image never stands in for the real one (2025-31133), and
// /dev/console never is a mount of the image's choice (2025-52565).
func TestCVE_2025_31133_2025_52565_DeviceNodes(t *testing.T) {
	b := newBox(t, "sh", "-c", "test -c /dev/null && test -c /dev/console && echo x > /dev/null && stat -c %t:%T /dev/null; wc -c < /proc/interrupts")
	b.replace("dev/null", "/proc/sysrq-trigger")
	b.replace("dev/console", "/proc/sys/kernel/core_pattern")
	b.in.Config.Tty = true
	if r := b.run(); !strings.HasPrefix(r.out, "1:3\r\n0") {
		t.Fatalf("got %q %q", r.out, r.err)
	}
	// With a /dev of the user's the null device is checked before it masks.
	dev := t.TempDir()
	write(t, filepath.Join(dev, "null"), "not a device")
	b = newBox(t, "true")
	b.in.Mounts = []spec.Mount{{Source: dev, Destination: "/dev", Type: "bind"}}
	if _, err := b.try(); err == nil || !strings.Contains(err.Error(), "/dev/null") {
		t.Fatalf("a regular /dev/null masked: %v", err)
	}
}

// Nothing is inheritable, also not in an exec with more capabilities.
func TestCVE_2022_24769_2022_29162(t *testing.T) {
	const text = "grep -e CapInh -e CapAmb /proc/self/status"
	const want = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n"
	if r := script(t, text, func(b *box) { b.in.HostConfig.Privileged = true }); r.out != want {
		t.Fatalf("main: %q", r.out)
	}
	b, running := sleeper(t)
	for _, privileged := range []bool{false, true} {
		r, err := b.exec(running, &container.ExecCreateRequest{Cmd: []string{"sh", "-c", text}, Privileged: privileged})
		if err != nil || r.out != want {
			t.Fatalf("exec: %q %v", r.out, err)
		}
	}
}

// The primary group is among the supplementary ones, so that dropping it does
// not widen access.
func TestCVE_2022_36109(t *testing.T) {
	for user, want := range map[string]string{"": "Groups:\t0 \n", "web": "Groups:\t44 50 \n", "web:extra": "Groups:\t60 \n", "7:8": "Groups:\t8 \n"} {
		r := script(t, "grep Groups: /proc/self/status", func(b *box) { b.in.Config.User = user })
		if r.out != want {
			t.Errorf("user %q: %q, want %q", user, r.out, want)
		}
	}
}

// Databases that would hang or fill the memory of whoever reads them.
func TestCVE_2024_9676(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"fifo":    func(p string) error { return unix.Mkfifo(p, 0o644) },
		"device":  func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) },
		"huge":    func(p string) error { return os.WriteFile(p, make([]byte, 2<<20), 0o644) },
		"outside": func(p string) error { return os.Symlink("/proc/self/fd/0", p) },
	} {
		for _, file := range []string{"etc/passwd", "etc/group"} {
			b := newBox(t, "true")
			b.in.Config.User = "web"
			path := filepath.Join(b.lower, file)
			must(t, os.Remove(path))
			must(t, spoil(path))
			if _, err := b.try(); err == nil {
				t.Errorf("%s as %s was read", file, name)
			}
		}
	}
	// A link inside the root is as good as the file.
	b := newBox(t, "id", "-u")
	must(t, os.Rename(filepath.Join(b.lower, "etc/passwd"), filepath.Join(b.lower, "users")))
	must(t, os.Symlink("/users", filepath.Join(b.lower, "etc/passwd")))
	b.in.Config.User = "web"
	if got := b.output(); got != "33\n" {
		t.Fatalf("got %q", got)
	}
}
