package sandbox

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawFork is a fork with the kernel's arguments for clone3, or with clone where
// that is not let through and all that is asked for is a pidfd.
//
//go:norace
//go:nosplit
func rawFork(j *joiner) (uintptr, syscall.Errno) {
	// Not before: until here the stack, and what lies on it, may move.
	j.args.pidFD = uint64(uintptr(unsafe.Pointer(&j.pidFD)))
	pid, _, e := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&j.args)), unsafe.Sizeof(j.args), 0)
	if e == unix.ENOSYS && j.args.flags == unix.CLONE_PIDFD {
		pid, _, e = syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_PIDFD|uintptr(unix.SIGCHLD), 0, uintptr(unsafe.Pointer(&j.pidFD)), 0, 0, 0)
	}
	return pid, e
}
