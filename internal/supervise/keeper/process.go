package keeper

import (
	"errors"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/supervise/wire"
)

// drainLimit is how long after the exit of a process its output is waited for
// when something else holds it open; dockerd waits as long.
const drainLimit = 2 * time.Second

// reapLimit is how long a process whose keeper died may stay a zombie of the
// system's init, whose matter it is then, until its exit is told as unknown.
// Some inits look for zombies every few seconds only.
const reapLimit = 10 * time.Second

// process is one supervised process, from its start until Forget.
type process struct {
	k                *Keeper
	key              wire.Key
	pid              int
	pidfd            int // -1 once it has exited
	at               int64
	terminal         bool
	stdinOnce        bool
	killOnDisconnect bool
	foreign          bool // not our child: handed over from a keeper that died
	release          func() error

	target  logs.Target
	log     logWriter // nil without log, and when all is written
	logErr  time.Time // when a LogError was sent last
	stdin   *input    // nil without, and when it is closed
	outputs [2]output // stdout or terminal, stderr
	clients []*client

	exit     *wire.Exit // set when it has exited
	limit    *timer     // drainLimit
	reported bool       // the exit was told, or is kept to be told
	saved    bool       // the exit is in the directory
}

// logWriter is a logs.Writer, or a logs.Buffered for a process that must not
// wait for its log.
type logWriter interface {
	Copy(s logs.Stream, data []byte, at time.Time) error
	End(s logs.Stream, at time.Time) error
	Pending(s logs.Stream) (text []byte, more bool, at time.Time)
	Resume(s logs.Stream, text []byte, more bool, at time.Time)
	Dropped() uint64
	Close() error
}

// starting is a process that StartFunc is at work on.
type starting struct {
	req     *wire.Start
	child   sandbox.Stdio
	extra   []*os.File
	conns   []int  // of the clients
	ours    [3]int // our ends of the pipes; -1 if there is none
	theirs  [3]*os.File
	devnull *os.File // shared, not to be closed
}

// prepare makes the pipes. It takes over the descriptors, also with an error.
func (k *Keeper) prepare(s *wire.Start, files []int) (*starting, error) {
	st := &starting{req: s, ours: [3]int{-1, -1, -1}, devnull: k.devnull}
	for i, fd := range files {
		if i < s.Extra {
			st.extra = append(st.extra, os.NewFile(uintptr(fd), "extra"))
		} else {
			st.conns = append(st.conns, fd)
		}
	}
	if s.Plan.Terminal {
		return st, nil
	}
	st.child.In = k.devnull
	for i, f := range [...]**os.File{&st.child.In, &st.child.Out, &st.child.Err} {
		if i == 0 && !s.Stdin {
			continue
		}
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return st, os.NewSyscallError("pipe2", err)
		}
		us, them := p[0], p[1]
		if i == 0 {
			us, them = p[1], p[0]
		}
		// Each end of a pipe has flags of its own: the process's stays blocking.
		st.ours[i], st.theirs[i] = us, os.NewFile(uintptr(them), "stdio")
		*f = st.theirs[i]
		if err := unix.SetNonblock(us, true); err != nil {
			return st, os.NewSyscallError("fcntl", err)
		}
	}
	return st, nil
}

// closeTheirs closes what only the process and StartFunc needed.
func (st *starting) closeTheirs() {
	for _, f := range st.theirs {
		if f != nil {
			f.Close()
		}
	}
	for _, f := range st.extra {
		f.Close()
	}
}

// abandon closes everything.
func (st *starting) abandon() {
	st.closeTheirs()
	wire.CloseAll(st.ours[:])
	wire.CloseAll(st.conns)
}

// takeFD returns a descriptor that no os.File closes any more.
func takeFD(f *os.File) (int, error) {
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, dupErr := -1, error(nil)
	err = raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) })
	return fd, errors.Join(err, dupErr)
}

// supervise makes a started process one of ours. If that fails the process is
// killed, for nobody would know of it.
func (k *Keeper) supervise(st *starting, proc *sandbox.Process) (*process, error) {
	st.closeTheirs()
	p := &process{
		k: k, key: st.req.Key, pid: proc.PID, at: wire.Nanos(time.Now()), terminal: st.req.Plan.Terminal,
		stdinOnce: st.req.StdinOnce, killOnDisconnect: st.req.KillOnDisconnect, target: st.req.Log,
	}
	var err error
	p.pidfd, err = takeFD(proc.PIDFD)
	if p.terminal && proc.Terminal != nil {
		var e error
		if st.ours[1], e = takeFD(proc.Terminal); e == nil {
			e = unix.SetNonblock(st.ours[1], true)
		}
		err = errors.Join(err, e)
	}
	if err != nil {
		_ = unix.Kill(p.pid, unix.SIGKILL) // still a child that nobody has reaped
		wire.CloseAll([]int{p.pidfd})
		wire.CloseAll(st.ours[:])
		wire.CloseAll(st.conns)
		return nil, err
	}
	if st.req.Plan.Hold {
		p.release = proc.Release
		k.held++
	}
	p.setStreams(st.ours[0], st.ours[1], st.ours[2])
	p.openLog()
	for i, fd := range st.conns {
		if err := k.attach(p, &st.req.Attach[i], fd); err != nil {
			logf("attach: ", err.Error())
		}
	}
	k.procs[p.key] = p
	return p, nil
}

// setStreams takes over our ends. A terminal is one descriptor for both
// directions; for input a duplicate is made, so that each is watched alone.
func (p *process) setStreams(in, out, errs int) {
	p.outputs[0] = output{p: p, fd: out, stream: logs.Stdout}
	p.outputs[1] = output{p: p, fd: errs, stream: logs.Stderr}
	if p.terminal && out >= 0 {
		dup, err := unix.FcntlInt(uintptr(out), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			logf("terminal: ", err.Error())
		}
		in = dup
	}
	if in >= 0 {
		p.stdin = &input{p: p, fd: in}
	}
}

// watch begins to look for output and exit.
func (p *process) watch() {
	for i := range p.outputs {
		if o := &p.outputs[i]; o.fd >= 0 {
			o.resume()
		}
	}
	if p.pidfd < 0 {
		return
	}
	events := uint32(unix.EPOLLIN)
	if p.foreign {
		events |= unix.EPOLLET // its parent decides when it is reaped
	}
	if err := p.k.loop.add(p.pidfd, events, p); err != nil {
		logf("watch pidfd: ", err.Error())
	}
}

// ready is called when the process has exited.
func (p *process) ready(events uint32) {
	if p.exit != nil {
		return
	}
	if !p.foreign {
		var status unix.WaitStatus
		n, err := unix.Wait4(p.pid, &status, unix.WNOHANG, nil)
		switch {
		case n == p.pid:
			p.exited(status, "")
			return
		case err == nil || errors.Is(err, unix.EINTR):
			return
		}
		p.foreign = true
	}
	status, err := exitStatus(p.pidfd)
	switch {
	case err == nil:
		p.exited(status, "")
	case errors.Is(err, errNotOurs) || events&unix.EPOLLHUP != 0:
		p.lost(err)
	case p.limit == nil:
		// Its new parent has not reaped it; there is a hang-up when it does.
		p.limit = p.k.loop.after(reapLimit, func() {
			p.limit = nil
			if p.exit == nil {
				p.ready(unix.EPOLLHUP)
			}
		})
	}
}

// lost ends a process whose exit status cannot be had.
func (p *process) lost(why error) {
	logf("exit of ", p.key.String(), ": ", why.Error())
	p.exited(255<<8, why.Error())
}

// exited notes the end of the process; it is reported once the output that it
// has written is read.
func (p *process) exited(status unix.WaitStatus, unknown string) {
	p.exit = &wire.Exit{Key: p.key, Code: status.ExitStatus(), At: wire.Nanos(time.Now()), Unknown: unknown}
	if status.Signaled() {
		p.exit.Signal = int(status.Signal())
		p.exit.Code = 128 + p.exit.Signal
	}
	if p.release != nil {
		p.release = nil
		p.k.held--
	}
	p.k.loop.cancel(p.limit)
	p.k.loop.del(p.pidfd)
	unix.Close(p.pidfd)
	p.pidfd = -1
	if p.stdin != nil {
		p.stdin.close()
	}
	for i := range p.outputs {
		p.outputs[i].drain()
	}
	if p.drained() {
		p.report()
		return
	}
	p.limit = p.k.loop.after(drainLimit, p.report)
}

// drained reports whether all output has come to its end.
func (p *process) drained() bool { return p.outputs[0].fd < 0 && p.outputs[1].fd < 0 }

// outputEnded is called when one output has come to its end.
func (p *process) outputEnded() {
	if !p.drained() {
		return
	}
	p.closeLog()
	if p.exit != nil && !p.reported {
		p.report()
	} else if p.k.engine == nil {
		p.k.mayEnd()
	}
}

// report tells of the exit and lets the clients go.
func (p *process) report() {
	if p.reported {
		return
	}
	p.reported = true
	p.k.loop.cancel(p.limit)
	p.limit = nil
	if p.k.engine != nil {
		p.k.engine.send(wire.TypeExit, 0, p.exit)
	} else {
		p.saveExit()
	}
	for len(p.clients) > 0 {
		p.clients[0].finish(endEOF)
	}
	p.k.mayUpgrade()
	if p.k.engine == nil {
		p.k.mayEnd()
	}
}

// record is what engines are told.
func (p *process) record() wire.Process {
	r := wire.Process{
		Key: p.key, PID: p.pid, At: p.at, Terminal: p.terminal, StdinOnce: p.stdinOnce,
		KillOnDisconnect: p.killOnDisconnect, Log: p.target,
	}
	if p.reported {
		r.Exited = p.exit
	}
	for bit, fd := range p.descriptors() {
		if fd >= 0 {
			r.Has |= 1 << bit
		}
	}
	return r
}

// descriptors are those that another keeper would need, by bit of Has.
func (p *process) descriptors() [4]int {
	d := [4]int{p.pidfd, -1, p.outputs[0].fd, p.outputs[1].fd}
	if p.stdin != nil && !p.terminal {
		d[1] = p.stdin.fd
	}
	return d
}

func (p *process) files() []int {
	var list []int
	for _, fd := range p.descriptors() {
		if fd >= 0 {
			list = append(list, fd)
		}
	}
	return list
}

// openLog opens the log. A process whose log cannot be written runs without.
func (p *process) openLog() {
	if p.target.Driver == logs.DriverNone {
		return
	}
	var err error
	if p.target.Buffer > 0 {
		var w *logs.Buffered
		if w, err = logs.NewBuffered(p.target); err == nil {
			p.log = w
		}
	} else {
		var w *logs.Writer
		if w, err = logs.NewWriter(p.target, &p.k.scratch); err == nil {
			p.log = w
		}
	}
	if err != nil {
		p.logFailed(err, 0)
	}
}

func (p *process) closeLog() {
	if p.log == nil {
		return
	}
	if err := p.log.Close(); err != nil {
		p.logFailed(err, p.log.Dropped())
	}
	p.log = nil
}

// logFailed tells the engine, once a second at most.
func (p *process) logFailed(err error, dropped uint64) {
	now := time.Now()
	if now.Sub(p.logErr) < time.Second {
		return
	}
	p.logErr = now
	logf("log of ", p.key.String(), ": ", err.Error())
	p.k.engine.send(wire.TypeLogError, 0, &wire.LogError{Key: p.key, Message: err.Error(), Dropped: int64(dropped)})
}

// reapOrphans reaps children that are none of ours: processes of a process
// that shared the host's pid namespace are reparented to the keeper. While a
// start is under way its children must be left alone.
func (k *Keeper) reapOrphans() {
	for len(k.starting) == 0 {
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
			return
		}
		pid := siginfoPID(&info)
		if pid == 0 {
			return
		}
		if p := k.byPID(pid); p != nil {
			p.ready(0)
			if p.exit == nil {
				return
			}
			continue
		}
		if _, err := syscall.Wait4(pid, nil, syscall.WNOHANG, nil); err != nil {
			return
		}
	}
}

// siginfoPID reads the field behind the four that x/sys knows.
func siginfoPID(info *unix.Siginfo) int {
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), 16)))
}

func (k *Keeper) byPID(pid int) *process {
	for _, p := range k.procs {
		if p.pid == pid && p.pidfd >= 0 {
			return p
		}
	}
	return nil
}
