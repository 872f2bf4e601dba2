package sandbox

import (
	"errors"
	"os"
	"runtime"
	"strconv"

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
	behind     *os.File     // pidfd of the process that waited, as long as this one goes on in its memory
	rows, cols uint16
}

// Start returns when the user's program has been exec'ed (or, with Hold, when
// init waits), or with a *StartError; then nothing of the process is left.
// init is the file InitFile returned. extra are descriptors the program refers
// to by index. The caller owns all files it passed.
func Start(init *os.File, p *Plan, io Stdio, extra []*os.File) (*Process, error) {
	if p.Runtime != nil {
		return startCommand(p, io, extra)
	}
	return launch(init, p, io, extra, nil)
}

// launch starts a plan in the waiting init w, or in one that it forks. With
// errGone w is gone and nothing happened.
func launch(init *os.File, p *Plan, io Stdio, extra []*os.File, w *Process) (*Process, error) {
	f := passing{init: init, plan: p}
	defer f.close()
	err := f.gather(io, extra)
	proc := w
	switch {
	case err != nil && w != nil:
		return nil, w.abandon(err)
	case err != nil:
		return nil, err
	case w != nil:
		if err := f.adopt(w); err != nil {
			return nil, w.abandon(err)
		}
		if p.early() {
			if err := f.send(w.control); err != nil {
				return nil, w.abandon(gone(err))
			}
		}
		if err := w.born(); err != nil {
			return nil, w.abandon(err)
		}
	default:
		if proc, err = f.fork(); err != nil {
			return nil, err
		}
	}
	runtime.KeepAlive(extra)
	runtime.KeepAlive(init)
	runtime.KeepAlive(io)
	proc.rows, proc.cols = p.Rows, p.Cols
	if err := proc.adjustOOM(p); err != nil {
		return nil, proc.abandon(err)
	}
	if !f.sent {
		if err := f.send(proc.control); err != nil {
			return nil, proc.abandon(err)
		}
	}
	if err := proc.converse(); err != nil {
		return nil, err
	}
	return proc, nil
}

// passing are the descriptors that init gets: files[i] becomes descriptor i.
type passing struct {
	init   *os.File
	plan   *Plan
	files  []uintptr
	opened []int // of them, those that are closed afterwards
	passed int   // of them, those that the program can refer to
	sent   bool  // the program is with init

	witnesses []*os.File
}

// early tells that the program may be there before init asks for it: it fits the
// socket, and nothing is done to init's process before it runs.
func (p *Plan) early() bool {
	return len(p.Program) <= initproto.PacketSize && !p.differsOOM()
}

func (f *passing) send(control int) error {
	if err := sendProgram(control, f.plan.Program, f.passed); err != nil {
		return stepError("send program", err)
	}
	f.sent = true
	return nil
}

func (f *passing) close() {
	for _, fd := range f.opened {
		unix.Close(fd)
	}
}

func (f *passing) open(path string, flags int) (int, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, stepError("open "+path, err)
	}
	f.opened = append(f.opened, fd)
	return fd, nil
}

// gather opens what the plan names.
func (f *passing) gather(io Stdio, extra []*os.File) (err error) {
	p := f.plan
	if extra, f.witnesses, err = p.split(extra); err != nil {
		return err
	}
	f.passed = passed(p, extra)
	f.files = make([]uintptr, initproto.FirstFile, initproto.FirstFile+f.passed)
	for _, x := range extra {
		f.files = append(f.files, x.Fd())
	}
	for _, path := range p.Open {
		fd, err := f.open(path, unix.O_RDONLY)
		if err != nil {
			return err
		}
		f.files = append(f.files, uintptr(fd))
	}
	for _, path := range p.CgroupTasks {
		fd, err := f.open(path, unix.O_WRONLY)
		if err != nil {
			return err
		}
		f.files = append(f.files, uintptr(fd))
	}
	trees, err := makeTrees(f.init, p)
	f.opened = append(f.opened, trees...)
	if err != nil {
		return err
	}
	for _, fd := range trees {
		f.files = append(f.files, uintptr(fd))
	}
	null := -1
	for i, s := range [3]*os.File{io.In, io.Out, io.Err} {
		if s != nil && !p.Terminal {
			f.files[i] = s.Fd()
			p.give(s)
			continue
		}
		if null < 0 {
			if null, err = f.open("/dev/null", unix.O_RDWR); err != nil {
				return err
			}
		}
		f.files[i] = uintptr(null)
	}
	return testify(f.witnesses)
}

// fork forks init.
func (f *passing) fork() (*Process, error) {
	proc, err := f.forkWith(f.plan, f.plan.early())
	if f.plan.CgroupDir == "" || !errors.Is(err, unix.ENOSYS) {
		return proc, err
	}
	// Without clone3, which some sandboxes do not let through, it is born with us
	// and moved before it has a program.
	plan := *f.plan
	plan.CgroupDir = ""
	if proc, err = f.forkWith(&plan, false); err != nil {
		return nil, err
	}
	if err := os.WriteFile(f.plan.CgroupDir+"/cgroup.procs", []byte(strconv.Itoa(proc.PID)), 0); err != nil {
		return nil, proc.abandon(stepError("join cgroup", err))
	}
	return proc, nil
}

func (f *passing) forkWith(p *Plan, early bool) (*Process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, stepError("control socket", err)
	}
	ours := pair[0]
	defer unix.Close(pair[1])
	f.files[initproto.ControlFD], f.files[initproto.BinaryFD] = uintptr(pair[1]), f.init.Fd()
	if early {
		if err := f.send(ours); err != nil {
			unix.Close(ours)
			return nil, err
		}
	}
	proc, err := forkInit(p, f.files, f.witnesses, initproto.Name)
	if err != nil {
		unix.Close(ours)
		f.sent = false
		return nil, err
	}
	proc.control = ours
	return proc, nil
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
