package keeper

import (
	"errors"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/supervise/wire"
)

// upgrade is a request to become another program.
type upgrade struct {
	engine  *control
	id      uint32
	program int
	build   string
}

// state is what a keeper hands on to the program that it becomes: descriptors
// keep their numbers.
type state struct {
	lock, listen, init, engine int
	initHash, build            string
	id                         uint32 // of the request, answered by the new program
	received                   []byte // from the engine, not a whole frame yet
	procs                      []procState
	clients                    []clientState
}

type procState struct {
	rec             wire.Process // Has is not used
	fds             [4]int
	foreign         bool
	exit            *wire.Exit
	reported, saved bool
	ending          bool
	input           []byte
	logs            [2]logState
}

type logState struct {
	text []byte
	more bool
	at   int64
}

type clientState struct {
	key                         wire.Key
	attached, typing, lingering bool
	fd, matched                 int
	meta                        wire.Client
	out                         []byte
	finishing                   string
}

func (s *state) Fields(c *wire.Coder) {
	version := uint8(wire.StateVersion)
	c.U8(&version)
	c.State = version
	for _, n := range []*int{&s.lock, &s.listen, &s.init, &s.engine} {
		c.Int(n)
	}
	c.Str(&s.initHash)
	c.Str(&s.build)
	id := int64(s.id)
	c.I64(&id)
	s.id = uint32(id)
	c.Bytes(&s.received)
	wire.List(c, &s.procs, 64, func(p *procState) {
		p.rec.Fields(c)
		for i := range p.fds {
			c.Int(&p.fds[i])
		}
		c.Bool(&p.foreign)
		wire.Maybe(c, &p.exit, func(e *wire.Exit) { e.Fields(c) })
		c.Bool(&p.reported)
		c.Bool(&p.saved)
		c.Bool(&p.ending)
		c.Bytes(&p.input)
		for i := range p.logs {
			c.Bytes(&p.logs[i].text)
			c.Bool(&p.logs[i].more)
			c.I64(&p.logs[i].at)
		}
	})
	wire.List(c, &s.clients, 32, func(a *clientState) {
		a.key.Fields(c)
		c.Bool(&a.attached)
		c.Bool(&a.typing)
		c.Bool(&a.lingering)
		c.Int(&a.fd)
		c.Int(&a.matched)
		a.meta.Fields(c)
		c.Bytes(&a.out)
		c.Str(&a.finishing)
	})
}

func (k *Keeper) handleUpgrade(c *control, f wire.Frame) error {
	var u wire.Upgrade
	if err := wire.Decode(f.Payload, &u); err != nil || len(f.Files) != 1 {
		wire.CloseAll(f.Files)
		return wire.ErrMalformed
	}
	var err error
	switch {
	case u.State < wire.StateVersion:
		err = &wire.Failure{Kind: wire.FailConflict, Message: "the running keeper is newer than this engine"}
	case k.upgrade != nil:
		err = &wire.Failure{Kind: wire.FailConflict, Message: "the keeper is being upgraded already"}
	}
	if err != nil {
		wire.CloseAll(f.Files)
		c.fail(f.ID, err)
		return nil
	}
	k.upgrade = &upgrade{c, f.ID, f.Files[0], u.Build}
	k.loop.post(k.mayUpgrade) // behind the frame that is being handled
	return nil
}

// mayUpgrade becomes the other program as soon as nothing is half done.
func (k *Keeper) mayUpgrade() {
	u := k.upgrade
	if u == nil || len(k.starting) > 0 || k.held > 0 || u.engine.fd >= 0 && len(u.engine.out) > 0 {
		return
	}
	k.upgrade = nil
	if u.engine.fd >= 0 {
		err := k.become(u) // returns only if that failed
		logf("upgrade: ", err.Error())
		u.engine.fail(u.id, err)
	}
	unix.Close(u.program)
}

// become executes the other program.
func (k *Keeper) become(u *upgrade) error {
	s := &state{
		lock: k.lock, listen: k.listen, init: -1, engine: u.engine.fd,
		initHash: k.initHash, build: u.build, id: u.id, received: u.engine.parser.Rest(),
	}
	if k.init != nil {
		fd, err := unix.FcntlInt(k.init.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		defer unix.Close(fd)
		s.init = fd
	}
	for _, p := range k.procs {
		s.procs = append(s.procs, p.state())
	}
	for c := range k.clients {
		s.clients = append(s.clients, clientState{
			key: c.key, attached: c.p != nil, typing: c.typing, lingering: c.lingering, fd: c.fd,
			matched: c.keys.matched, meta: c.meta, out: c.out, finishing: c.finishing,
		})
	}
	memfd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(memfd), "state")
	defer file.Close()
	if _, err := file.Write(wire.Append(nil, s)); err != nil {
		return err
	}
	inherited := append(s.descriptors(), memfd)
	defer func() { _ = setInherit(inherited, false) }()
	if err := setInherit(inherited, true); err != nil {
		return err
	}
	// Writers wait for a compression under way when they are closed.
	for _, p := range k.procs {
		if p.log != nil {
			p.closeLog()
			defer p.reopenLog(s)
		}
	}
	args := []string{"wherry-keeper", k.dir, u.build, "resume", strconv.Itoa(memfd)}
	err = syscall.Exec("/proc/self/fd/"+strconv.Itoa(u.program), args, os.Environ())
	return os.NewSyscallError("execve", err)
}

// descriptors are those that must survive the exec.
func (s *state) descriptors() []int {
	list := []int{s.lock, s.listen, s.init, s.engine}
	for i := range s.procs {
		list = append(list, s.procs[i].fds[:]...)
	}
	for i := range s.clients {
		list = append(list, s.clients[i].fd)
	}
	return list
}

func setInherit(list []int, inherit bool) error {
	flag := unix.FD_CLOEXEC
	if inherit {
		flag = 0
	}
	for _, fd := range list {
		if fd < 0 {
			continue
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	return nil
}

func (p *process) state() procState {
	s := procState{
		rec: p.record(), fds: p.descriptors(), foreign: p.foreign, exit: p.exit, reported: p.reported, saved: p.saved,
	}
	s.rec.Has, s.rec.Exited = 0, nil
	if p.stdin != nil {
		s.ending, s.input = p.stdin.ending, p.stdin.pending
	}
	if p.log != nil {
		for i := range s.logs {
			text, more, at := p.log.Pending(logs.Stream(i + 1))
			s.logs[i] = logState{text, more, wire.Nanos(at)}
		}
	}
	return s
}

func (p *process) reopenLog(s *state) {
	for i := range s.procs {
		if s.procs[i].rec.Key == p.key {
			p.openLog()
			p.resumeLog(&s.procs[i])
		}
	}
}

func (p *process) resumeLog(s *procState) {
	for i, l := range s.logs {
		if p.log != nil && (l.more || len(l.text) > 0) {
			p.log.Resume(logs.Stream(i+1), l.text, l.more, wire.Time(l.at))
		}
	}
}

// resume takes up the state that was left in fd.
func (k *Keeper) resume(fd int) error {
	b, err := readAll(fd)
	if err != nil {
		return err
	}
	if len(b) == 0 || b[0] == 0 || b[0] > wire.StateVersion {
		return errors.New("state of another version")
	}
	s := &state{}
	if err := wire.Decode(b, s); err != nil {
		return err
	}
	if err := setInherit(s.descriptors(), false); err != nil {
		return err
	}
	k.lock, k.listen, k.initHash, k.build = s.lock, s.listen, s.initHash, s.build
	if s.init >= 0 {
		k.init = os.NewFile(uintptr(s.init), "wherry-init")
	}
	for i := range s.procs {
		s.procs[i].resume(k)
	}
	for i := range s.clients {
		s.clients[i].resume(k)
	}
	c := &control{k: k, fd: s.engine}
	c.parser.Feed(s.received, nil)
	k.controls[c] = struct{}{}
	k.engine = c
	if err := k.loop.add(c.fd, unix.EPOLLIN, c); err != nil {
		return err
	}
	c.done(s.id, &wire.Welcome{
		Version: wire.Version, State: wire.StateVersion, Build: k.build, Init: k.initHash, PID: os.Getpid(),
	})
	k.loop.post(c.frames)
	for _, p := range k.procs {
		p.watch()
		if p.exit != nil && !p.reported {
			p.limit = k.loop.after(drainLimit, p.report)
		}
	}
	return nil
}

func (s *procState) resume(k *Keeper) {
	var files []int
	for bit, fd := range s.fds {
		if fd >= 0 {
			s.rec.Has |= 1 << bit
			files = append(files, fd)
		}
	}
	p := k.processOf(&s.rec, files)
	p.foreign, p.exit, p.reported, p.saved = s.foreign, s.exit, s.reported, s.saved
	if p.exit != nil && p.stdin != nil {
		p.stdin.close()
	}
	if in := p.stdin; in != nil && len(s.input) > 0 {
		in.write(s.input)
		if s.ending && p.stdin != nil {
			in.end()
		}
	}
	if !p.drained() {
		p.openLog()
		p.resumeLog(s)
	}
	k.procs[p.key] = p
}

func (s *clientState) resume(k *Keeper) {
	c := &client{
		k: k, key: s.key, fd: s.fd, meta: s.meta, out: s.out, keys: matcher{keys: s.meta.DetachKeys, matched: s.matched},
		typing: s.typing, finishing: s.finishing, lingering: s.lingering,
	}
	k.clients[c] = struct{}{}
	if p := k.procs[s.key]; s.attached && p != nil {
		c.p = p
		p.clients = append(p.clients, c)
	}
	if c.lingering {
		c.linger = k.loop.after(lingerLimit, func() { c.linger = nil; c.close() })
	}
	if err := k.loop.add(c.fd, 0, c); err != nil {
		logf("watch client: ", err.Error())
		c.close()
		return
	}
	c.watched = true
	c.update()
}

func readAll(fd int) ([]byte, error) {
	f := os.NewFile(uintptr(fd), "state")
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, st.Size())
	_, err = f.ReadAt(b, 0)
	return b, err
}
