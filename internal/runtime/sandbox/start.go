package sandbox

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/runtime/initproto"
)

// Stdio holds the child's ends of its standard streams; a nil one is
// /dev/null. It is ignored with Plan.Terminal. Start does not close the files.
type Stdio struct{ In, Out, Err *os.File }

// Process is a started process. The caller owns PIDFD and Terminal and must
// reap the process (waitid on PIDFD).
type Process struct {
	PID      int
	PIDFD    *os.File
	Terminal *os.File // master of the pty, with Plan.Terminal

	resume     func() error // lets a process of another runtime run
	control    int          // our end of the conversation, -1 when it is over
	rows, cols uint16
}

// Start returns when the user's program has been exec'ed (or, with Hold, when
// init waits), or with a *StartError; then nothing of the process is left.
// init is the file InitFile returned. extra are descriptors the program refers
// to by index. The caller owns all files it passed.
func Start(init *os.File, p *Plan, io Stdio, extra []*os.File) (*Process, error) {
	if p.Runtime != nil {
		return startCommand(p, io)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, stepError("control socket", err)
	}
	ours := pair[0]
	proc, err := start(init, p, io, extra, ours, pair[1])
	runtime.KeepAlive(extra)
	runtime.KeepAlive(init)
	runtime.KeepAlive(io)
	if err != nil {
		unix.Close(ours)
		return nil, err
	}
	proc.control, proc.rows, proc.cols = ours, p.Rows, p.Cols
	if err := proc.adjustOOM(p.OOMScoreAdj); err != nil {
		return nil, proc.abandon(err)
	}
	if len(p.Program) > initproto.PacketSize {
		if err := sendProgram(ours, p.Program, passed(p, extra)); err != nil {
			return nil, proc.abandon(stepError("send program", err))
		}
	}
	if err := proc.converse(); err != nil {
		return nil, err
	}
	return proc, nil
}

// start forks init with its descriptors; a program that fits the socket is
// there before init asks for it.
func start(init *os.File, p *Plan, io Stdio, extra []*os.File, ours, theirs int) (*Process, error) {
	opened := make([]int, 0, len(p.Open)+len(p.CgroupTasks)+2)
	defer func() {
		unix.Close(theirs)
		for _, fd := range opened {
			unix.Close(fd)
		}
	}()
	open := func(path string, flags int) (int, error) {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, stepError("open "+path, err)
		}
		opened = append(opened, fd)
		return fd, nil
	}
	files := make([]uintptr, initproto.FirstFile, initproto.FirstFile+passed(p, extra))
	files[initproto.ControlFD] = uintptr(theirs)
	files[initproto.BinaryFD] = init.Fd()
	for _, f := range extra {
		files = append(files, f.Fd())
	}
	for _, path := range p.Open {
		fd, err := open(path, unix.O_RDONLY)
		if err != nil {
			return nil, err
		}
		files = append(files, uintptr(fd))
	}
	for _, path := range p.CgroupTasks {
		fd, err := open(path, unix.O_WRONLY)
		if err != nil {
			return nil, err
		}
		files = append(files, uintptr(fd))
	}
	trees, err := makeTrees(init, p)
	opened = append(opened, trees...)
	if err != nil {
		return nil, err
	}
	for _, fd := range trees {
		files = append(files, uintptr(fd))
	}
	null := -1
	for i, f := range [3]*os.File{io.In, io.Out, io.Err} {
		if f != nil && !p.Terminal {
			files[i] = f.Fd()
			p.give(f)
			continue
		}
		if null < 0 {
			var err error
			if null, err = open("/dev/null", unix.O_RDWR); err != nil {
				return nil, err
			}
		}
		files[i] = uintptr(null)
	}
	if len(p.Program) <= initproto.PacketSize {
		if err := sendProgram(ours, p.Program, passed(p, extra)); err != nil {
			return nil, stepError("send program", err)
		}
	}
	return fork(p, files)
}

// give makes a pipe that of the root of the plan's user namespace, or nobody
// inside could open /dev/stdout or hand it on. Where that fails it works all the same.
func (p *Plan) give(f *os.File) {
	var st unix.Stat_t
	if len(p.UIDMappings) == 0 || unix.Fstat(int(f.Fd()), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return
	}
	_ = unix.Fchown(int(f.Fd()), rootOf(p.UIDMappings), rootOf(p.GIDMappings))
}

func rootOf(list []IDMap) int {
	for _, m := range list {
		if m.Container == 0 {
			return m.Host
		}
	}
	return -1
}

// passed is the number of descriptors the program can refer to.
func passed(p *Plan, extra []*os.File) int {
	n := len(extra) + len(p.Open) + len(p.CgroupTasks) + len(p.Trees)
	if p.Root != nil {
		n++
	}
	return n
}

// Release lets a held process go on to exec; same errors as Start. After an
// error the process is gone and PIDFD is closed.
func (p *Process) Release() error {
	if p.resume != nil {
		if err := p.resume(); err != nil {
			return p.abandon(err)
		}
		return nil
	}
	if p.control < 0 {
		return &StartError{Step: "release", Message: "process is not held"}
	}
	if err := unix.Sendto(p.control, []byte{1}, unix.MSG_NOSIGNAL, nil); err != nil {
		return p.abandon(stepError("release", err))
	}
	return p.converse()
}

func stepError(step string, err error) *StartError {
	e := &StartError{Step: step, Message: step + ": " + err.Error()}
	e.Errno = errnoOf(err)
	return e
}
