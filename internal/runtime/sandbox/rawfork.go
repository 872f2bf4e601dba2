package sandbox

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// rawFork is clone without a new stack; the descriptor of CLONE_PIDFD is the
// third argument.
//
//go:norace
//go:nosplit
func rawFork(flags, pidFD uintptr) (uintptr, syscall.Errno) {
	pid, _, e := syscall.RawSyscall6(unix.SYS_CLONE, flags, 0, pidFD, 0, 0, 0)
	return pid, e
}
