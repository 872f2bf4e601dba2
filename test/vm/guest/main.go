// Command guest is what runs in the virtual machine: as /init it finds the
// disk and starts its init; as that init it sets the machine up, runs the tests
// in /wherry/tests and powers off. Under another init, `init run` only runs the
// tests and powers off.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ports are, by processor, the serial line that the host reads the tests' output from.
var ports = map[string]string{"amd64": "/dev/ttyS1", "arm64": "/dev/hvc0"}

var port = ports[runtime.GOARCH]

func main() {
	var err error
	switch {
	case filepath.Base(os.Args[0]) == "go":
		if err := goTool(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "go:", err)
			os.Exit(1)
		}
		return
	case len(os.Args) > 1 && os.Args[1] == "run":
		err = tests()
	case os.Args[0] == "/init":
		err = findDisk()
	default:
		err = setUp()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		if f, e := os.OpenFile(port, os.O_WRONLY, 0); e == nil {
			fmt.Fprintln(f, "guest:", err)
		}
	}
	powerOff()
}

func powerOff() {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "power off:", err)
	}
	select {}
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, kind, flags, data); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

// findDisk runs in the initial file system. It makes the disk the root, not by
// chroot alone: pivot_root does not work in the initial one.
func findDisk() error {
	if err := mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	if err := mount("dev", "/dev", "devtmpfs", 0, ""); err != nil {
		return err
	}
	modules, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	slices.Sort(modules)
	for _, m := range modules {
		f, err := os.Open(m)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", m, err)
		}
		f.Close()
	}
	const disk = "/dev/vda"
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(disk); err == nil {
			break
		} else if time.Now().After(deadline) {
			return err
		}
	}
	if err := mount(disk, "/disk", "ext4", 0, ""); err != nil {
		return err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	init := "/wherry/init"
	for f := range strings.FieldsSeq(string(line)) {
		if v, ok := strings.CutPrefix(f, "wherry.init="); ok {
			init = v
		}
	}
	for _, m := range []string{"/dev", "/proc"} {
		if err := unix.Mount(m, "/disk"+m, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m, err)
		}
	}
	if err := unix.Chdir("/disk"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return fmt.Errorf("exec %s: %w", init, unix.Exec(init, []string{init}, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=dumb"}))
}

// setUp is the init of a machine without systemd: cgroup v2 alone, all
// controllers handed down.
func setUp() error {
	for _, m := range []struct{ source, target, kind, data string }{
		{"sysfs", "/sys", "sysfs", ""}, {"tmpfs", "/run", "tmpfs", "mode=0755"}, {"tmpfs", "/tmp", "tmpfs", "mode=1777"},
		{"devpts", "/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666"}, {"tmpfs", "/dev/shm", "tmpfs", ""}, {"mqueue", "/dev/mqueue", "mqueue", ""},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", "nsdelegate"}, {"bpf", "/sys/fs/bpf", "bpf", ""}, {"tracefs", "/sys/kernel/tracing", "tracefs", ""},
	} {
		if err := mount(m.source, m.target, m.kind, 0, m.data); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte("vm")); err != nil {
		return err
	}
	for _, l := range [][2]string{{"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"}} {
		if err := os.Symlink(l[0], l[1]); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if out, err := exec.Command("/bin/busybox", "--install", "-s", "/bin").CombinedOutput(); err != nil {
		return fmt.Errorf("busybox: %w %s", err, out)
	}
	if out, err := exec.Command("/bin/busybox", "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("lo: %w %s", err, out)
	}
	// The tests run as a child: process 1 collects what they orphan.
	child, err := os.StartProcess("/wherry/init", []string{"/wherry/init", "run"}, &os.ProcAttr{Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if pid == child.Pid && status.Exited() {
			return nil // it has said how it went
		} else if pid == child.Pid || err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("the tests' process ended with status %#x: %w", status, err)
		}
	}
}

// tests runs all test binaries and reports as `go test` does.
func tests() error {
	out, err := os.OpenFile(port, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	raw(out)
	go sayAlive()
	code := 0
	defer func() { fmt.Fprintf(out, "wherry-vm: exit %d\n", code) }()
	// What programs load by themselves on a machine with udev. The kernel asks for
	// them, too, but busybox says that a module is there while another loads it.
	for _, m := range []string{"overlay", "bridge", "veth", "nf_tables", "br_netfilter", "loop", "tun", "dummy"} {
		if text, err := exec.Command("/sbin/modprobe", m).CombinedOutput(); err != nil {
			code = 1
			return fmt.Errorf("modprobe %s: %w %s", m, err, text)
		}
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	fmt.Fprintf(out, "vm: Linux %s, %s, init %s\n", unix.ByteSliceToString(uts.Release[:]), cgroups(), comm())
	options, err := options()
	if err != nil {
		code = 1
		return err
	}
	dirs, err := filepath.Glob("/wherry/tests/*")
	if err != nil {
		return err
	}
	code = 1
	if len(dirs) == 0 {
		return errors.New("no tests")
	}
	failed := 0
	for _, dir := range dirs {
		pkg := strings.ReplaceAll(filepath.Base(dir), "__", "/")
		fmt.Fprintf(out, "=== PACKAGE %s\n", pkg)
		start := time.Now()
		args := []string{"-test.v", "-test.count=1", "-test.timeout=" + options["timeout"]}
		if run, err := os.ReadFile(filepath.Join(dir, "run")); err == nil && len(run) > 0 {
			args = append(args, "-test.run="+string(run))
		}
		cmd := exec.Command(filepath.Join(dir, "test"), args...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a test that kills its process group kills itself only
		cmd.Env = append(os.Environ(), "WHERRY_REQUIRE="+options["require"], "HOME=/root", "TMPDIR=/var/tmp", "WHERRY_BIN="+programs,
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
		if err := cmd.Run(); err != nil {
			failed++
			fmt.Fprintf(out, "FAIL\t%s\t%.2fs (%v)\n", pkg, time.Since(start).Seconds(), err)
			continue
		}
		fmt.Fprintf(out, "ok  \t%s\t%.2fs\n", pkg, time.Since(start).Seconds())
	}
	if failed > 0 {
		fmt.Fprintf(out, "FAIL\t%d of %d packages\n", failed, len(dirs))
		return nil
	}
	code = 0
	return nil
}

// sayAlive tells the host on the kernel's console that this machine runs
// programs, whatever the tests do: see watch in package vm.
func sayAlive() {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		return
	}
	for ; ; time.Sleep(5 * time.Second) {
		fmt.Fprintln(f, "<4>wherry-vm: alive")
	}
}

// programs are built on the host; tests that build one get it from here.
const programs = "/wherry/programs"

// goTool stands in for Go, which the guest does not have: it knows only
// `go build [flags] -o FILE PACKAGE`, for packages that were built beforehand.
func goTool(args []string) error {
	out, name := "", ""
	if len(args) > 1 {
		name = filepath.Join(programs, filepath.Base(args[len(args)-1]))
	}
	for i, a := range args {
		if a == "-o" && i+1 < len(args) {
			out = args[i+1]
		}
	}
	program, err := os.ReadFile(name)
	if len(args) == 0 || args[0] != "build" || out == "" || err != nil {
		return fmt.Errorf("this machine has no Go, only what was built for it: %v", args)
	}
	return os.WriteFile(out, program, 0o755)
}

// raw keeps the line from being changed on its way.
func raw(f *os.File) {
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return
	}
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ICANON
	_ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t) // else lines end in \r\n, which the host copes with
}

// cgroups says what the tests will find.
func cgroups() string {
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil {
		return "no cgroups: " + err.Error()
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return "cgroup v1"
	}
	b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return err.Error()
	}
	return "cgroup v2 (" + strings.TrimSpace(string(b)) + ")"
}

func comm() string {
	b, err := os.ReadFile("/proc/1/comm")
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}

// options are the lines that the host wrote, a name and a value each.
func options() (map[string]string, error) {
	b, err := os.ReadFile("/wherry/options")
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		values[key] = value
	}
	return values, nil
}
