package sandbox

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/runtime/initproto"
)

// Reserve keeps one init that was forked ahead of time and waits for its
// program, so that the start of init's runtime is no part of the next start. It
// only hides latency: empty, everything works the same. What waits has nothing
// of any container: namespaces of its own but for the mounts, which are the
// host's until it gets a program, so that it holds no file system busy. It ends
// by itself when the process that forked it ends.
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

// fits tells whether a process forked ahead can serve the plan: one that must
// be born somewhere cannot, and what it is passed must fit into one message.
func (p *Plan) fits(extra []*os.File) bool {
	return p.CloneFlags&unix.CLONE_NEWNS != 0 && p.CloneFlags&^waitable == 0 && p.UserTarget == 0 && p.PIDNamespace == "" &&
		p.CgroupDir == "" && passed(p, extra) <= initproto.AdoptFiles-3
}

// Start is the function Start, through the process that waits if it fits.
func (r *Reserve) Start(init *os.File, p *Plan, io Stdio, extra []*os.File) (*Process, error) {
	if p.Runtime == nil && p.fits(extra) {
		if w := r.take(init, p.CloneFlags&^unix.CLONE_NEWNS); w != nil {
			proc, err := launch(init, p, io, extra, w)
			if !errors.Is(err, errGone) {
				return proc, err
			}
		}
	}
	return Start(init, p, io, extra)
}

// take hands out the process that waits, nil when there is none of the kind.
func (r *Reserve) take(init *os.File, flags uintptr) *Process {
	r.mu.Lock()
	defer r.mu.Unlock()
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
	w, err := forkInit(&Plan{CloneFlags: r.flags}, []uintptr{n, n, n, uintptr(pair[1]), r.init.Fd()}, initproto.Name, initproto.Waiting)
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

// adopt gives a waiting init the descriptors of a plan: the standard streams
// and the passed files.
func (w *Process) adopt(files []uintptr) error {
	fds := make([]int, 0, len(files))
	for i, fd := range files {
		if i < initproto.ControlFD || i >= initproto.FirstFile {
			fds = append(fds, int(fd))
		}
	}
	message := initproto.Adoption(unix.CLONE_NEWNS)
	for {
		switch err := unix.Sendmsg(w.control, message, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL); {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET):
			return errGone
		default:
			return stepError("pass descriptors", err)
		}
	}
}
