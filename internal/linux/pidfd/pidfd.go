// Package pidfd owns signals to and the end of a process by descriptor, which
// a reused process id cannot misdirect.
package pidfd

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Open gives the descriptor of a process; the caller closes it.
func Open(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// Signal sends sig; unix.ESRCH when the process is gone.
func Signal(f *os.File, sig unix.Signal) error {
	return unix.PidfdSendSignal(int(f.Fd()), sig, nil, 0)
}

// Exit is how a process ended.
type Exit struct {
	Code   int         // exit code, when Signal is 0
	Signal unix.Signal // what killed it
	Core   bool
}

// Status gives the code a shell would show: 128 + signal for a killed process.
func (e Exit) Status() int {
	if e.Signal != 0 {
		return 128 + int(e.Signal)
	}
	return e.Code
}

// siginfo is the part of siginfo_t that waitid fills in.
type siginfo struct {
	signo, errno, code int32
	_                  int32
	pid                int32
	uid                uint32
	status             int32
	_                  [100]byte
}

// CLD_* codes of a child that ended.
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)

// Wait reaps a child of this process. It blocks until the child ends; with
// poll it does not, and ended is false while it runs.
func Wait(f *os.File, poll bool) (e Exit, ended bool, err error) {
	options := unix.WEXITED
	if poll {
		options |= unix.WNOHANG
	}
	return wait(int(f.Fd()), options)
}

// Peek is Wait with poll that leaves the child to be reaped by somebody else.
func Peek(f *os.File) (e Exit, ended bool, err error) {
	return wait(int(f.Fd()), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT)
}

func wait(fd, options int) (e Exit, ended bool, err error) {
	var info siginfo
	for {
		err = unix.Waitid(unix.P_PIDFD, fd, (*unix.Siginfo)(unsafe.Pointer(&info)), options, nil)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return Exit{}, false, os.NewSyscallError("waitid", err)
	}
	if info.pid == 0 {
		return Exit{}, false, nil
	}
	switch info.code {
	case cldExited:
		return Exit{Code: int(info.status)}, true, nil
	case cldKilled, cldDumped:
		return Exit{Signal: unix.Signal(info.status), Core: info.code == cldDumped}, true, nil
	}
	return Exit{}, false, nil
}
