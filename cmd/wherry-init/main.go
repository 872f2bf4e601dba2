// Command wherry-init runs inside the new namespaces: it applies the list of
// operations that it is sent on descriptor 3 and becomes the user's process.
// There is no policy in it. Under any other name than its own it is a small
// first process that forwards signals and reaps children (docker-init).
//
// It imports neither os nor fmt nor anything that does: its start is part of
// the start of every container, and os would also change the limit of open
// files that the user's process inherits.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"errors"
	_ "unsafe" // for go:linkname

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/runtime/initproto"
)

//go:linkname arguments os.runtime_args
func arguments() []string

// As a container's first program it does all in an init: the runtime keeps the
// main goroutine on the main thread for so long, to which namespaces, credentials
// and the final exec belong. With LockOSThread it would start another thread, and
// exec waits for each to end.
func init() {
	if args := arguments(); len(args) > 0 && args[0] == initproto.Name {
		begin(args)
	}
}

func main() { unix.Exit(reap(arguments())) }

// begin becomes the user's process, or ends.
func begin(args []string) {
	// Not traceable or readable by whoever shares our namespaces before exec.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	unix.CloseOnExec(initproto.ControlFD)
	unix.Close(initproto.BinaryFD)
	fresh := 0
	if len(args) > 1 && args[1] == initproto.Waiting {
		a, numbers, group, err := adopt()
		if err == nil && numbers >= 0 {
			err = unix.Setns(numbers, unix.CLONE_NEWPID) // of our children
			unix.Close(numbers)
		}
		if err == nil {
			err = split(a.Clone, group)
		}
		if err != nil {
			_ = send(fail("adopt", err).Encode(), -1)
			unix.Exit(1)
		}
		if group >= 0 {
			unix.Close(group)
		}
		fresh = int(a.Unshare)
	}
	if f := run(fresh); f != nil {
		_ = send(f.Encode(), -1)
	}
	unix.Exit(1)
}

// state is what operations leave for later ones.
type state struct {
	files  int // number of passed descriptors
	mounts []prepared
	root   int // the root directory, -1 before CodeRoot
	proc   int // our own /proc, /dev and /dev/pts, -1 when there is none
	dev    int
	pts    int
	null   int // /dev/null, checked
	label  label
}

// run applies the program. fresh are the namespaces that a process which waited
// does not have yet.
func run(fresh int) *initproto.Failure {
	program, files, f := receive()
	if f != nil {
		return f
	}
	ops, err := initproto.Decode(program)
	if err != nil {
		return fail("decode", err)
	}
	s := &state{files: files, root: -1, proc: -1, dev: -1, pts: -1, null: -1, label: label{-1}}
	unix.Umask(0)
	// Threads of the runtime share our working directory and root; joining
	// mount namespaces wants them alone.
	if err := unix.Unshare(unix.CLONE_FS | fresh); err != nil {
		return fail("unshare", err)
	}
	if f := s.label.open(ops); f != nil {
		return f
	}
	for i := range ops {
		if f := s.apply(&ops[i]); f != nil {
			return f
		}
	}
	return &initproto.Failure{Step: "program", Message: "init program without a process"}
}

// adopt waits for the descriptors of a program and puts them where they would have
// been inherited. numbers is the namespace of process numbers to be born in, group
// the control group, or -1.
func adopt() (a initproto.Adoption, numbers, group int, err error) {
	numbers, group = -1, -1
	var message [32]byte
	oob := make([]byte, unix.CmsgSpace(4*initproto.AdoptFiles))
	n, oobn, err := 0, 0, error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		n, oobn, _, _, err = unix.Recvmsg(initproto.ControlFD, message[:], oob, unix.MSG_CMSG_CLOEXEC)
	}
	if n == 0 {
		unix.Exit(0) // not needed
	}
	if err != nil {
		return a, -1, -1, err
	}
	if a, err = initproto.DecodeAdoption(message[:n]); err != nil {
		return a, -1, -1, err
	}
	list, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(list) != 1 {
		return a, -1, -1, initproto.ErrMalformed
	}
	fds, err := unix.ParseUnixRights(&list[0])
	if err != nil {
		return a, -1, -1, initproto.ErrMalformed
	}
	// First out of the way of the numbers they are to have.
	for i, fd := range fds {
		up, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, initproto.FirstFile+len(fds))
		if err != nil {
			return a, -1, -1, err
		}
		unix.Close(fd)
		fds[i] = up
	}
	for _, last := range []struct {
		there bool
		to    *int
	}{{a.Group, &group}, {a.Numbers, &numbers}} {
		if last.there && len(fds) > 0 {
			*last.to, fds = fds[len(fds)-1], fds[:len(fds)-1]
		}
	}
	if len(fds) < initproto.ControlFD {
		return a, -1, -1, initproto.ErrMalformed
	}
	for i, fd := range fds {
		to, flags := i, 0
		if i >= initproto.ControlFD {
			to, flags = i-initproto.ControlFD+initproto.FirstFile, unix.O_CLOEXEC
		}
		if err := unix.Dup3(fd, to, flags); err != nil {
			return a, -1, -1, err
		}
		unix.Close(fd)
	}
	return a, numbers, group, nil
}

// receive reads the program from the parent.
func receive() (program []byte, files int, f *initproto.Failure) {
	var header [8]byte
	n, err := read(initproto.ControlFD, header[:])
	if err != nil {
		return nil, 0, fail("receive", err)
	}
	length, files, err := initproto.DecodeHeader(header[:n])
	if err != nil {
		return nil, 0, fail("receive", err)
	}
	program = make([]byte, length)
	for at := 0; at < length; {
		n, err := read(initproto.ControlFD, program[at:])
		if err != nil {
			return nil, 0, fail("receive", err)
		}
		if n == 0 {
			return nil, 0, fail("receive", unix.ECONNRESET)
		}
		at += n
	}
	return program, files, nil
}

func read(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// send writes one message, with a descriptor when fd >= 0.
func send(message []byte, fd int) error {
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	for {
		err := unix.Sendmsg(initproto.ControlFD, message, rights, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return err
		}
	}
}

func (s *state) apply(op *initproto.Op) *initproto.Failure {
	switch op.Code {
	case initproto.CodeCgroup:
		return s.joinCgroups(op.Numbers)
	case initproto.CodeEnter:
		return s.enter(op)
	case initproto.CodeUnshare:
		return fail("unshare", unix.Unshare(int(op.Flags)))
	case initproto.CodeMount:
		return s.prepare(op.Mount)
	case initproto.CodeRoot:
		return s.enterRoot(op.Root)
	case initproto.CodeAttach:
		return s.attach()
	case initproto.CodeDevice:
		return s.device(op.Device)
	case initproto.CodeLinks:
		return s.links(op.Strings)
	case initproto.CodeAttr:
		return s.attr(op.Text, op.Flags)
	case initproto.CodeConsole:
		return s.console(op.Number == 1)
	case initproto.CodeHostname:
		return fail("sethostname", unix.Sethostname([]byte(op.Text)))
	case initproto.CodeDomainname:
		return fail("setdomainname", unix.Setdomainname([]byte(op.Text)))
	case initproto.CodeSysctl:
		return s.sysctl(op.Strings)
	case initproto.CodeReadonly:
		return s.readonly(op.Strings)
	case initproto.CodeMask:
		return s.mask(op.Strings)
	case initproto.CodeMkdir:
		return s.mkdir(op.Text)
	case initproto.CodeSealRoot:
		return fail("make root read-only", mount.Change(s.root, unix.MOUNT_ATTR_RDONLY, 0, 0, false))
	case initproto.CodeShareRoot:
		return fail("root propagation", mount.Change(s.root, 0, 0, op.Flags, false))
	case initproto.CodeHold:
		return hold()
	case initproto.CodeProcess:
		return s.become(op.Process)
	}
	return fail("decode", initproto.ErrMalformed)
}

// hold waits for the parent's byte; a parent that is gone ends the start.
func hold() *initproto.Failure {
	if err := send([]byte{initproto.KindHeld}, -1); err != nil {
		return fail("hold", err)
	}
	var b [1]byte
	n, err := read(initproto.ControlFD, b[:])
	if err == nil && n == 0 {
		err = unix.ECANCELED
	}
	return fail("hold", err)
}

func (s *state) file(index uint32) (int, *initproto.Failure) {
	if int(index) >= s.files {
		return -1, fail("file", initproto.ErrMalformed)
	}
	return initproto.FirstFile + int(index), nil
}

func (s *state) joinCgroups(indexes []uint32) *initproto.Failure {
	for _, i := range indexes {
		fd, f := s.file(i)
		if f != nil {
			return f
		}
		if _, err := unix.Write(fd, []byte("0")); err != nil {
			return fail("join cgroup", err)
		}
	}
	return nil
}

func (s *state) enter(op *initproto.Op) *initproto.Failure {
	if op.Flags == 0 {
		return s.openRoot(0)
	}
	fd, f := s.file(op.Number)
	if f != nil {
		return f
	}
	if err := unix.Setns(fd, int(op.Flags)); err != nil {
		return fail("join namespace", err)
	}
	return s.openRoot(op.Flags)
}

// openRoot keeps the root of a mount namespace that was joined.
func (s *state) openRoot(joined uint64) *initproto.Failure {
	if joined == 0 || joined&unix.CLONE_NEWNS != 0 {
		root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fail("open root", err)
		}
		s.root = root
	}
	return nil
}

// fail makes a Failure of an error; nil stays nil.
func fail(step string, err error) *initproto.Failure {
	if err == nil {
		return nil
	}
	f := &initproto.Failure{Step: step, Errno: uint32(errno(err))}
	f.Message = step + ": " + err.Error()
	return f
}

func failText(step, text string, err error) *initproto.Failure {
	f := fail(step, err)
	if f != nil {
		f.Message = text
	}
	return f
}
