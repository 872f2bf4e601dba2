// The runtime would keep its cgroup's quota files open, and they would look
// like leaked descriptors.

//go:debug containermaxprocs=0

// Command probe looks at its own isolation from inside a container and prints
// what it sees, one "KEY VALUE" a line. It decides nothing; the test does.
package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "hog":
			hog()
		case "spin":
			spin()
		case "forks":
			forks()
		case "race":
			race(os.Args[2], os.Args[3])
		case "sleep":
			time.Sleep(time.Hour)
		}
		return
	}
	descriptors()
	status()
	syscalls()
	paths()
	devices()
	namespaces()
}

// race exchanges two names, over and over, until it is stopped.
func race(a, b string) {
	for {
		if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil && !errors.Is(err, unix.ENOENT) {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

// hog takes memory until it is stopped.
func hog() {
	var all [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
		if len(all) > 1<<12 {
			os.Exit(3)
		}
	}
}

// spin burns as much CPU as it gets for two seconds, on two threads.
func spin() {
	end := time.Now().Add(30 * time.Second)
	go func() {
		for time.Now().Before(end) {
		}
	}()
	for time.Now().Before(end) {
	}
}

// forks makes processes until one fails, and says how many there were.
func forks() {
	n := 0
	for ; n < 1000; n++ {
		if _, err := syscall.ForkExec("/probe", []string{"probe", "sleep"}, &syscall.ProcAttr{}); err != nil {
			fmt.Printf("forks %d %s\n", n, name(err))
			return
		}
	}
	fmt.Printf("forks %d without end\n", n)
}

func name(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return strings.ReplaceAll(err.Error(), " ", "_")
}

func status() {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		fmt.Println("status", name(err))
	}
	for _, line := range strings.Split(string(b), "\n") {
		k, v, _ := strings.Cut(line, ":")
		if strings.HasPrefix(k, "Cap") || k == "NoNewPrivs" || k == "Seccomp" || k == "Groups" {
			fmt.Println(k, strings.TrimSpace(v))
		}
	}
}

// descriptors lists what was open before this program opened anything; it is
// called first, since the runtime opens its own when it first waits.
func descriptors() {
	var open []string
	for fd := range 1024 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			continue
		}
		name := strconv.Itoa(fd)
		if fd > 2 {
			target := make([]byte, 256)
			n, _ := unix.Readlink("/proc/self/fd/"+name, target)
			name += "=" + string(target[:max(n, 0)])
		}
		open = append(open, name)
	}
	fmt.Println("fd", strings.Join(open, ","))
}

// calls are those that docker's default profile denies to a container with the
// default capabilities. The arguments are harmless where a call would get through.
var calls = []struct {
	name string
	nr   uintptr
	args [3]uintptr
}{
	{"acct", unix.SYS_ACCT, [3]uintptr{1}},
	{"add_key", unix.SYS_ADD_KEY, [3]uintptr{}},
	{"bpf", unix.SYS_BPF, [3]uintptr{99}},
	{"clock_settime", unix.SYS_CLOCK_SETTIME, [3]uintptr{99}},
	{"delete_module", unix.SYS_DELETE_MODULE, [3]uintptr{1}},
	{"fanotify_init", unix.SYS_FANOTIFY_INIT, [3]uintptr{^uintptr(0)}},
	{"finit_module", unix.SYS_FINIT_MODULE, [3]uintptr{^uintptr(0)}},
	{"fsopen", unix.SYS_FSOPEN, [3]uintptr{1}},
	{"fsmount", unix.SYS_FSMOUNT, [3]uintptr{^uintptr(0)}},
	{"get_mempolicy", unix.SYS_GET_MEMPOLICY, [3]uintptr{}},
	{"init_module", unix.SYS_INIT_MODULE, [3]uintptr{1}},
	{"io_uring_setup", unix.SYS_IO_URING_SETUP, [3]uintptr{}},
	{"kcmp", unix.SYS_KCMP, [3]uintptr{1, 1, 99}},
	{"kexec_load", unix.SYS_KEXEC_LOAD, [3]uintptr{0, 99}},
	{"keyctl", unix.SYS_KEYCTL, [3]uintptr{}},
	{"mbind", unix.SYS_MBIND, [3]uintptr{1}},
	{"mount", unix.SYS_MOUNT, [3]uintptr{1, 1, 1}},
	{"move_mount", unix.SYS_MOVE_MOUNT, [3]uintptr{^uintptr(0)}},
	{"move_pages", unix.SYS_MOVE_PAGES, [3]uintptr{1}},
	{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [3]uintptr{}},
	{"open_tree", unix.SYS_OPEN_TREE, [3]uintptr{^uintptr(0), 1}},
	{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [3]uintptr{}},
	{"personality", unix.SYS_PERSONALITY, [3]uintptr{0x1234}},
	{"pivot_root", unix.SYS_PIVOT_ROOT, [3]uintptr{1, 1}},
	{"quotactl", unix.SYS_QUOTACTL, [3]uintptr{99}},
	{"reboot", unix.SYS_REBOOT, [3]uintptr{99}},
	{"request_key", unix.SYS_REQUEST_KEY, [3]uintptr{}},
	{"set_mempolicy", unix.SYS_SET_MEMPOLICY, [3]uintptr{99}},
	{"setns", unix.SYS_SETNS, [3]uintptr{^uintptr(0)}},
	{"settimeofday", unix.SYS_SETTIMEOFDAY, [3]uintptr{1}},
	{"swapoff", unix.SYS_SWAPOFF, [3]uintptr{1}},
	{"swapon", unix.SYS_SWAPON, [3]uintptr{1}},
	{"syslog", unix.SYS_SYSLOG, [3]uintptr{99}},
	{"umount2", unix.SYS_UMOUNT2, [3]uintptr{1, 99}},
	{"unshare_user", unix.SYS_UNSHARE, [3]uintptr{unix.CLONE_NEWUSER | 1}},
	{"unshare_ns", unix.SYS_UNSHARE, [3]uintptr{unix.CLONE_NEWNS | 1}},
	{"userfaultfd", unix.SYS_USERFAULTFD, [3]uintptr{^uintptr(0)}},
	{"vhangup", unix.SYS_VHANGUP, [3]uintptr{}},
	{"socket_vsock", unix.SYS_SOCKET, [3]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM}},
	{"clone3", unix.SYS_CLONE3, [3]uintptr{}},
}

func syscalls() {
	for _, c := range calls {
		if c.name == "vhangup" && len(os.Getenv("UNCONFINED")) > 0 {
			continue
		}
		_, _, errno := unix.RawSyscall(c.nr, c.args[0], c.args[1], c.args[2])
		text := "ok"
		if errno != 0 {
			text = unix.ErrnoName(errno)
		}
		fmt.Println("call:"+c.name, text)
	}
}

func paths() {
	for _, p := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats", "/proc/interrupts"} {
		b, err := os.ReadFile(p)
		switch {
		case errors.Is(err, os.ErrNotExist):
			fmt.Println("masked:"+p, "absent")
		case err != nil:
			fmt.Println("masked:"+p, name(err))
		default:
			fmt.Println("masked:"+p, len(b))
		}
	}
	for _, p := range []string{"/proc/acpi", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"} {
		entries, err := os.ReadDir(p)
		switch {
		case errors.Is(err, os.ErrNotExist):
			fmt.Println("maskeddir:"+p, "absent")
		case err != nil:
			fmt.Println("maskeddir:"+p, name(err))
		default:
			fmt.Println("maskeddir:"+p, len(entries))
		}
	}
	for _, p := range []string{"/proc/sys/kernel/domainname", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/proc/bus/pci/devices", "/sys/kernel/mm/ksm/run"} {
		f, err := os.OpenFile(p, os.O_WRONLY, 0)
		if err == nil {
			f.Close()
		}
		if errors.Is(err, os.ErrNotExist) {
			fmt.Println("readonly:"+p, "absent")
			continue
		}
		fmt.Println("readonly:"+p, name(err))
	}
}

func devices() {
	for _, d := range []struct {
		name         string
		mode         uint32
		major, minor uint32
	}{{"mem", unix.S_IFCHR, 1, 1}, {"kmsg", unix.S_IFCHR, 1, 11}, {"vda", unix.S_IFBLK, 254, 0}, {"loop0", unix.S_IFBLK, 7, 0}, {"null", unix.S_IFCHR, 1, 3}} {
		path := "/tmp/dev-" + d.name
		err := unix.Mknod(path, d.mode|0o600, int(unix.Mkdev(d.major, d.minor)))
		if err == nil {
			var fd int
			if fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
				unix.Close(fd)
			}
		}
		fmt.Println("device:"+d.name, name(err))
	}
	entries, _ := os.ReadDir("/dev")
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	fmt.Println("dev", strings.Join(names, ","))
}

func namespaces() {
	fmt.Println("pid", os.Getpid())
	exe, _ := os.Readlink("/proc/1/exe")
	fmt.Println("init", exe)
	for _, n := range []string{"pid", "uts", "ipc", "net", "mnt", "user"} {
		link, _ := os.Readlink("/proc/self/ns/" + n)
		fmt.Println("ns:"+n, link)
	}
	root, _ := os.Stat("/proc/1/root/.")
	if here, err := os.Stat("/"); err == nil && root != nil {
		fmt.Println("sameroot", os.SameFile(root, here))
	}
	if err := unix.Chroot("/"); err != nil {
		fmt.Println("chroot", name(err))
	}
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 5 && strings.Contains(f[4], "oldroot") {
			fmt.Println("oldroot", f[4])
		}
	}
}
