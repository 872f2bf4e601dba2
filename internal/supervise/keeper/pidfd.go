package keeper

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pidfdInfo is struct pidfd_info of linux/pidfd.h, in its first form.
type pidfdInfo struct {
	mask, cgroup                                                               uint64
	pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid, exitVal uint32
}

const (
	pidfdInfoExit = 1 << 3
	pidfdGetInfo  = 3<<30 | uint(unsafe.Sizeof(pidfdInfo{}))<<16 | 0xff<<8 | 11
)

var (
	errNoExit  = errors.New("the exit status was lost with the keeper before this one")
	errNotOurs = errors.New("this kernel does not tell the exit status of another's child (Linux 6.15 does)")
)

// exitStatus reads the wait status of a process that its parent has reaped. It
// fails with errNoExit when the parent has not, and with errNotOurs when the
// kernel never tells.
func exitStatus(pidfd int) (unix.WaitStatus, error) {
	info := pidfdInfo{mask: pidfdInfoExit}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), uintptr(pidfdGetInfo), uintptr(unsafe.Pointer(&info)))
	switch {
	case errno == unix.ENOTTY || errno == unix.EINVAL:
		return 0, errNotOurs
	case errno == 0 && info.mask&pidfdInfoExit != 0:
		return unix.WaitStatus(info.exitVal), nil
	}
	return 0, errNoExit
}
