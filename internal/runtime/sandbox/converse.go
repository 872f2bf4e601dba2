package sandbox

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/pidfd"
	"github.com/wherry-engine/wherry/internal/runtime/initproto"
)

func errnoOf(err error) syscall.Errno {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return 0
}

func sendProgram(fd int, program []byte, files int) error {
	if err := sendAll(fd, initproto.Header(program, files)); err != nil {
		return err
	}
	for len(program) > 0 {
		n := min(len(program), initproto.PacketSize)
		if err := sendAll(fd, program[:n]); err != nil {
			return err
		}
		program = program[n:]
	}
	return nil
}

func sendAll(fd int, p []byte) error {
	for {
		err := unix.Sendto(fd, p, unix.MSG_NOSIGNAL, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// converse listens to init until it holds or the user's program runs. What
// comes from the other end may be the work of a container that got hold of
// init, so it is bounded and checked like any foreign input.
func (p *Process) converse() error {
	buf := make([]byte, initproto.MessageSize)
	oob := make([]byte, unix.CmsgSpace(4))
	ready := false
	for {
		if err := p.attend(); err != nil {
			return p.abandon(err)
		}
		n, oobn, flags, _, err := unix.Recvmsg(p.control, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil && !errors.Is(err, unix.ECONNRESET) {
			return p.abandon(stepError("listen to init", err))
		}
		fds := rights(oob[:oobn])
		if n <= 0 || err != nil {
			closeFDs(fds)
			if ready {
				return p.over()
			}
			return p.abandon(&StartError{Step: "init", Message: "container init ended before the program was started"})
		}
		switch {
		case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
			closeFDs(fds)
			return p.abandon(&StartError{Step: "init", Message: "oversized message from container init"})
		case buf[0] == initproto.KindTerminal && len(fds) == 1 && p.Terminal == nil:
			p.Terminal = terminal(fds[0], p.rows, p.cols)
			continue
		case buf[0] == initproto.KindExec:
			ready = true
		case buf[0] == initproto.KindHeld:
			closeFDs(fds)
			return nil
		case buf[0] == initproto.KindError:
			closeFDs(fds)
			return p.abandon(failure(buf[:n]))
		default:
			closeFDs(fds)
			return p.abandon(&StartError{Step: "init", Message: "unexpected message from container init"})
		}
		closeFDs(fds)
	}
}

func failure(b []byte) *StartError {
	f, err := initproto.DecodeFailure(b)
	if err != nil {
		return &StartError{Step: "init", Message: "malformed message from container init"}
	}
	return &StartError{Step: f.Step, Message: f.Message, Errno: syscall.Errno(f.Errno)}
}

// terminal makes the master usable by the runtime's poller.
func terminal(fd int, rows, cols uint16) *os.File {
	if rows != 0 || cols != 0 {
		_ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	}
	_ = unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), "pty")
}

func rights(oob []byte) []int {
	if len(oob) == 0 {
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var fds []int
	for i := range messages {
		if list, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, list...)
		}
	}
	return fds
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func (p *Process) over() error {
	if p.control >= 0 {
		unix.Close(p.control)
		p.control = -1
	}
	if p.behind != nil {
		p.behind.Close()
		p.behind = nil
	}
	return nil
}

// abandon kills and reaps what was started and closes everything of it.
func (p *Process) abandon(why error) error {
	_ = p.over()
	_ = pidfd.Signal(p.PIDFD, unix.SIGKILL)
	_, _, _ = pidfd.Wait(p.PIDFD, false)
	p.PIDFD.Close()
	if p.Terminal != nil {
		p.Terminal.Close()
		p.Terminal = nil
	}
	return why
}

// ownOOMScoreAdj is what a child inherits.
var ownOOMScoreAdj = sync.OnceValues(func() (int, error) {
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, err
	}
	for len(b) > 0 && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return strconv.Atoi(string(b))
})

// differsOOM tells whether oom_score_adj is to differ from what is inherited.
func (p *Plan) differsOOM() bool {
	if p.OOMScoreAdj == nil {
		return false
	}
	own, err := ownOOMScoreAdj()
	return err != nil || own != *p.OOMScoreAdj
}

// adjustOOM sets oom_score_adj where it differs from what was inherited. The
// process has no program yet, which could pass on what it has inherited.
func (p *Process) adjustOOM(plan *Plan) error {
	if !plan.differsOOM() {
		return nil
	}
	path := "/proc/" + strconv.Itoa(p.PID) + "/oom_score_adj"
	if err := os.WriteFile(path, []byte(strconv.Itoa(*plan.OOMScoreAdj)), 0); err != nil {
		return stepError("oom_score_adj", err)
	}
	return nil
}
