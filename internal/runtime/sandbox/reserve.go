package sandbox

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/pidfd"
	"github.com/wherry-engine/wherry/internal/runtime/initproto"
)

// Reserve keeps one init that was forked ahead of time and waits for its
// program, so that the start of init's runtime is no part of the next start. It
// only hides latency: empty, everything works the same. What waits has nothing
// of any container: namespaces of its own but for the mounts and process numbers,
// which are the host's, so that it holds no file system busy. With a program it
// goes on in a process that is born where the program wants it: one for a further
// process of a container joins all its namespaces, and any that waits will do. It
// ends by itself when the process that forked it ends.
//
// The zero value is ready. Its methods may be called concurrently.
type Reserve struct {
	mu      sync.Mutex
	init    *os.File // that the one waiting was made from
	flags   uintptr  // CLONE_NEW* that the last plan wanted, but for the mounts
	waiting *Process
}

// waitable are the namespaces that do not depend on anything of the plan.
const waitable = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET

// fits tells whether a process forked ahead can serve the plan: what it is passed
// must fit into one message, it must make all its namespaces but those of the files,
// or join all, and a user namespace can only be joined by the fork.
func (p *Plan) fits(extra []*os.File) bool {
	makes := p.CloneFlags&unix.CLONE_NEWNS != 0 && p.CloneFlags&^waitable == 0 && p.PIDNamespace == ""
	return (makes || p.joinsAll()) && p.UserTarget == 0 &&
		passed(p, extra) <= initproto.AdoptFiles-5 // with the witnesses, which are few
}

// joinsAll tells whether the plan is that of a further process of a container,
// whose program joins every namespace.
func (p *Plan) joinsAll() bool { return p.CloneFlags == 0 }

// Start is the function Start, through the process that waits if it fits.
func (r *Reserve) Start(init *os.File, p *Plan, io Stdio, extra []*os.File) (*Process, error) {
	if p.Runtime == nil && p.fits(extra) {
		if w := r.take(init, p); w != nil {
			proc, err := launch(init, p, io, extra, w)
			if !errors.Is(err, errGone) {
				return proc, err
			}
		}
	}
	return Start(init, p, io, extra)
}

// take hands out the process that waits, nil when there is none of the kind.
func (r *Reserve) take(init *os.File, p *Plan) *Process {
	r.mu.Lock()
	defer r.mu.Unlock()
	flags := p.CloneFlags &^ unix.CLONE_NEWNS
	if p.joinsAll() {
		flags = r.flags
	}
	w := r.waiting
	if w != nil && (r.init != init || r.flags != flags) {
		r.drop()
		w = nil
	}
	r.init, r.flags, r.waiting = init, flags, nil
	return w
}

// Prepare forks the process that will wait, like the last one that was wanted.
// Its end, when it comes before its use, is seen by whoever reaps children.
func (r *Reserve) Prepare() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting != nil || r.init == nil {
		return nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pair[1])
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(pair[0])
		return err
	}
	defer unix.Close(null)
	n := uintptr(null)
	w, err := forkInit(&Plan{CloneFlags: r.flags &^ unix.CLONE_NEWPID}, []uintptr{n, n, n, uintptr(pair[1]), r.init.Fd()}, nil, initproto.Name, initproto.Waiting)
	if err != nil {
		unix.Close(pair[0])
		return err
	}
	w.control = pair[0]
	r.waiting = w
	return nil
}

// Drop lets the process that waits go.
func (r *Reserve) Drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop()
}

func (r *Reserve) drop() {
	if w := r.waiting; w != nil {
		_ = w.over() // which it takes for its end
		w.PIDFD.Close()
		r.waiting = nil
	}
}

// errGone says that the process that waited has ended.
var errGone = errors.New("the init that waited is gone")

// adopt gives a waiting init the descriptors of the plan: the standard streams,
// the passed files, and the control group to be born in.
func (f *passing) adopt(w *Process) error {
	fds := make([]int, 0, len(f.files))
	for i, fd := range f.files {
		if i < initproto.ControlFD || i >= initproto.FirstFile {
			fds = append(fds, int(fd))
		}
	}
	a := initproto.Adoption{Clone: uint64(f.plan.CloneFlags & unix.CLONE_NEWPID), Unshare: uint64(f.plan.CloneFlags & unix.CLONE_NEWNS)}
	if f.plan.PIDNamespace != "" {
		numbers, err := f.open(f.plan.PIDNamespace, unix.O_RDONLY)
		if err == nil {
			err = testify(f.witnesses)
		}
		if err != nil {
			return err
		}
		fds, a.Numbers = append(fds, numbers), true
	}
	if f.plan.CgroupDir != "" {
		group, err := f.open(f.plan.CgroupDir, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		fds, a.Group = append(fds, group), true
	}
	for {
		err := unix.Sendmsg(w.control, a.Encode(), unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return gone(stepError("pass descriptors", err))
		}
	}
}

// born makes w the process in which the one that waited goes on; that one ends by
// itself when the other executes the user's program, and is reaped by whoever
// reaps children, which nobody does while a start is under way. It is errGone if
// there is no other.
func (w *Process) born() error {
	if heard, err := w.heard(w.PIDFD); err != nil || !heard {
		return errGone
	}
	var message [16]byte
	n, err := 0, error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(w.control, message[:])
	}
	if err != nil {
		return errGone
	}
	pid, err := initproto.DecodeBorn(message[:n])
	if err != nil {
		return errGone
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, 0, nil)
		return stepError("pidfd of init", err)
	}
	w.behind, w.PID, w.PIDFD = w.PIDFD, pid, os.NewFile(uintptr(fd), "pidfd")
	return nil
}

// attend waits for a message of a process that goes on in the memory of the one
// that waited. If that is killed, and its threads with it, the runtime that both
// have may stand still for good.
func (p *Process) attend() error {
	for p.behind != nil {
		if heard, err := p.heard(p.behind); err != nil || heard {
			return err
		}
		// It ends by itself when the user's program is executed, which may have kept
		// the socket. Somebody else reaps it only while this process is held.
		if exit, _, err := pidfd.Peek(p.behind); err != nil || exit.Signal != 0 {
			return &StartError{Step: "init", Message: "container init was killed before the program was started"}
		}
		p.behind.Close()
		p.behind = nil
	}
	return nil
}

// heard waits for a message, or the end, of the conversation or for the end of
// another process; it reports whether it is the first.
func (p *Process) heard(other *os.File) (bool, error) {
	for {
		list := []unix.PollFd{{Fd: int32(p.control), Events: unix.POLLIN}, {Fd: int32(other.Fd()), Events: unix.POLLIN}}
		_, err := unix.Poll(list, -1)
		if err == nil {
			return list[0].Revents != 0, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return false, stepError("listen to init", err)
		}
	}
}

// gone is errGone for what the kernel says to messages to a process that ended.
func gone(err error) error {
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return errGone
	}
	return err
}
