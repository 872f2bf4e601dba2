package sandbox

import (
	"os"
	"syscall"
)

// Stdio holds the child's ends of its standard streams; nil means /dev/null is
// not opened and the stream is closed. It is ignored with Plan.Terminal. Start
// does not close the files.
type Stdio struct{ In, Out, Err *os.File }

// Process is a started process. The caller owns PIDFD and Terminal and must
// reap the process (waitid on PIDFD).
type Process struct {
	PID      int
	PIDFD    *os.File
	Terminal *os.File // master of the pty, with Plan.Terminal
}

// Start returns when the user's program has been exec'ed (or, with Hold, when
// init waits), or with a *StartError. init is the file InitFile returned.
// extra are descriptors the program refers to by index. The caller owns all
// files it passed.
func Start(init *os.File, p *Plan, io Stdio, extra []*os.File) (*Process, error) {
	return nil, &StartError{Step: "start", Errno: syscall.ENOSYS}
}

// Release lets a held process go on to exec; same errors as Start.
func (p *Process) Release() error {
	return &StartError{Step: "release", Errno: syscall.ENOSYS}
}

// InitFile makes the sealed file that Start executes from the bytes of the
// wherry-init binary. Nobody can write to it any more, also not through
// /proc/<pid>/exe from inside a container.
func InitFile(binary []byte) (*os.File, error) {
	return nil, syscall.ENOSYS
}
