package sandbox

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawFork is a fork with the kernel's arguments for clone3.
//
//go:norace
//go:nosplit
func rawFork(j *joiner) (uintptr, syscall.Errno) {
	// Not before: until here the stack, and what lies on it, may move.
	j.args.pidFD = uint64(uintptr(unsafe.Pointer(&j.pidFD)))
	pid, _, e := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&j.args)), unsafe.Sizeof(j.args), 0)
	return pid, e
}
