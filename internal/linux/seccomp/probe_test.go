package seccomp

import (
	"os"
	"runtime"
	"testing"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// under runs fn on a thread of its own that has the filter; the thread ends
// with fn.
func under(t *testing.T, s *specs.LinuxSeccomp, fn func()) {
	t.Helper()
	prog, flags, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread goes with the goroutine
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			done <- err
			return
		}
		p := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
		if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&p))); errno != 0 {
			done <- os.NewSyscallError("seccomp", errno)
			return
		}
		fn()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// denied lists the calls of one machine that fail for all-zero arguments.
func denied(t *testing.T, prog []unix.SockFilter, m machine) map[string]unix.Errno {
	out := map[string]unix.Errno{}
	for _, s := range syscalls {
		nr, ok := m.number(s.name)
		if !ok {
			continue
		}
		v, _ := run(prog, &call{nr: nr, arch: m.audit})
		if v&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_ERRNO {
			out[s.name] = unix.Errno(v & unix.SECCOMP_RET_DATA)
		}
	}
	return out
}

// TestProbe makes every system call that docker's default profile denies. None
// of them may get as far as its own checks.
func TestProbe(t *testing.T) {
	f, ok := families[runtime.GOARCH]
	if !ok {
		t.Skip("no table for " + runtime.GOARCH)
	}
	s := defaultProfile(t)
	prog, _, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	// What the profile must deny whatever else it says.
	for _, name := range []string{"mount", "umount2", "pivot_root", "reboot", "init_module", "kexec_load", "bpf", "setns",
		"unshare", "swapon", "add_key", "keyctl", "perf_event_open", "userfaultfd", "open_by_handle_at", "mount_setattr"} {
		if denied(t, prog, f[0])[name] != unix.EPERM {
			t.Errorf("%s is not denied with EPERM", name)
		}
	}
	if got := denied(t, prog, f[0])["clone3"]; got != unix.ENOSYS {
		t.Errorf("clone3: %v, want ENOSYS so that the C library falls back to clone", got)
	}
	raw := map[specs.Arch]func(nr uint32) unix.Errno{
		f[0].arch: func(nr uint32) unix.Errno {
			_, _, errno := unix.RawSyscall6(uintptr(nr), 0, 0, 0, 0, 0, 0)
			return errno
		},
	}
	if runtime.GOARCH == "amd64" {
		raw[specs.ArchX32] = raw[specs.ArchX86_64]
		if gate := int80(t); gate != nil {
			raw[specs.ArchX86] = gate
		}
	}
	for _, m := range f {
		gate := raw[m.arch]
		if gate == nil {
			t.Logf("%s: this kernel or test has no way to make such calls", m.arch)
			continue
		}
		want := denied(t, prog, m)
		if len(want) < 50 {
			t.Errorf("%s: only %d calls denied", m.arch, len(want))
		}
		got := map[string]unix.Errno{}
		under(t, s, func() {
			for name := range want {
				nr, _ := m.number(name)
				got[name] = gate(nr)
			}
		})
		for name, errno := range want {
			if name == "uprobe" || name == "uretprobe" {
				continue // the kernel never asks a filter about these
			}
			if got[name] != errno {
				t.Errorf("%s %s: %v, want %v", m.arch, name, got[name], errno)
			}
		}
		t.Logf("%s: %d calls denied", m.arch, len(want))
	}
}

// int80 gives a function that makes i386 calls, or nil if the kernel has none:
// a few instructions in a page of their own, entered as a Go function with its
// argument and result in AX.
func int80(t *testing.T) func(nr uint32) unix.Errno {
	if _, err := os.Stat("/proc/sys/abi/vsyscall32"); err != nil {
		return nil // no IA-32 emulation
	}
	page, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	copy(page, []byte{
		0x53,       // push rbx
		0x31, 0xdb, // xor ebx, ebx
		0x31, 0xc9, // xor ecx, ecx
		0x31, 0xd2, // xor edx, edx
		0x31, 0xf6, // xor esi, esi
		0x31, 0xff, // xor edi, edi
		0xcd, 0x80, // int 0x80
		0x5b, // pop rbx
		0xc3, // ret
	})
	if err := unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(page) })
	code := new(uintptr)
	*code = uintptr(unsafe.Pointer(&page[0]))
	fn := *(*func(nr uint32) int32)(unsafe.Pointer(&code))
	const getpid = 20
	if int(fn(getpid)) != os.Getpid() {
		return nil
	}
	return func(nr uint32) unix.Errno {
		if r := fn(nr); r < 0 && r > -4096 {
			return unix.Errno(-r)
		}
		return 0
	}
}

// TestUnknownCall checks that calls which the profile's author did not know fail
// so that programs fall back.
func TestUnknownCall(t *testing.T) {
	s := defaultProfile(t)
	var errno unix.Errno
	under(t, s, func() { _, _, errno = unix.RawSyscall(1<<20, 0, 0, 0) })
	if errno != unix.ENOSYS {
		t.Errorf("call number %d: %v, want ENOSYS", 1<<20, errno)
	}
	prog, _, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := compile(families[runtime.GOARCH], s, false)
	if err != nil {
		t.Fatal(err)
	}
	f := families[runtime.GOARCH]
	last := map[specs.Arch]uint32{}
	for _, m := range f {
		known := filter{m: m, rules: map[uint32][]rule{}}
		for _, c := range s.Syscalls {
			for _, name := range c.Names {
				known.add(name, 0, nil, true)
			}
		}
		last[m.arch] = known.last
	}
	fallback := 0
	for _, audit := range audits {
		for _, nr := range numbers() {
			c := call{nr: nr, arch: audit}
			with, _ := run(prog, &c)
			without, _ := run(plain, &c)
			m, ok := machineOf(f, s, audit, nr)
			if !ok || nr <= last[m.arch] {
				if with != without {
					t.Errorf("%+v: %#x, without fallback %#x", c, with, without)
				}
				continue
			}
			fallback++
			if with != unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS) || without != unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM) {
				t.Errorf("%+v: %#x, without fallback %#x", c, with, without)
			}
		}
	}
	if fallback == 0 {
		t.Error("no call was asked for that is newer than the profile")
	}
}
