package sandbox

import (
	"errors"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/runtime/initproto"
)

// The runtime's own preparations for a fork, which syscall.ForkExec uses; its
// child cannot be told to join namespaces between fork and exec.

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// joiner is everything the child needs, made before the fork: between fork and
// exec it may not allocate, grow its stack or enter the scheduler.
type joiner struct {
	target     int     // pidfd of the process whose namespaces are joined
	flags      uintptr // CLONE_NEW*
	files      []int   // files[i] becomes descriptor i; all above len(files)
	argv, envp []*byte
	empty      *byte
	report     int     // write end of a close-on-exec pipe for an errno, or the pid of a second child
	again      uintptr // CLONE_* of a second fork that the namespaces are made with, 0 for none
	args       cloneArgs
	pidFD      int32 // of the child, written by the kernel
}

// cloneArgs is the kernel's struct clone_args.
type cloneArgs struct {
	flags, pidFD, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// forkInto starts init inside the namespaces of p.UserTarget: forked without
// sharing memory, since whoever is in that user namespace may look at the
// child, and not dumpable until it is the sealed binary. Where namespaces are
// to be made inside of the joined ones the child forks again, a sibling of its own.
// cgroup is a directory to be born in, or -1.
func forkInto(p *Plan, files []uintptr, witnesses []*os.File, cgroup int) (pid, pidFD int, err error) {
	target, err := unix.PidfdOpen(p.UserTarget, 0)
	if err != nil {
		return 0, -1, err
	}
	defer unix.Close(target)
	if err := testify(witnesses); err != nil {
		return 0, -1, err
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return 0, -1, err
	}
	defer unix.Close(pipe[0])
	j := &joiner{flags: p.TargetFlags}
	if p.CloneFlags != 0 || p.TargetFlags&unix.CLONE_NEWPID != 0 {
		j.again = p.CloneFlags | unix.CLONE_PARENT | uintptr(unix.SIGCHLD)
	}
	// Everything the child places at a low number first goes above all of them.
	var high []int
	defer func() {
		for _, fd := range high {
			unix.Close(fd)
		}
	}()
	lift := func(fd int) (int, error) {
		up, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, len(files)+16)
		if err == nil {
			high = append(high, up)
		}
		return up, err
	}
	if j.target, err = lift(target); err != nil {
		unix.Close(pipe[1])
		return 0, -1, err
	}
	j.report, err = lift(pipe[1])
	unix.Close(pipe[1])
	if err != nil {
		return 0, -1, err
	}
	for _, fd := range files {
		up, err := lift(int(fd))
		if err != nil {
			return 0, -1, err
		}
		j.files = append(j.files, up)
	}
	if err := j.strings(); err != nil {
		return 0, -1, err
	}
	j.args = cloneArgs{flags: unix.CLONE_PIDFD, exitSignal: uint64(unix.SIGCHLD)}
	if cgroup >= 0 {
		j.args.flags |= unix.CLONE_INTO_CGROUP
		j.args.cgroup = uint64(cgroup)
	}
	syscall.ForkLock.Lock()
	n, e := forkChild(j)
	syscall.ForkLock.Unlock()
	// Our write end of the report must be gone for its end to be seen.
	for _, up := range high {
		unix.Close(up)
	}
	high = nil
	if e != 0 {
		return 0, -1, e
	}
	pid, pidFD = n, int(j.pidFD)
	for {
		var report int32
		m, err := unix.Read(pipe[0], unsafe.Slice((*byte)(unsafe.Pointer(&report)), 4))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case m == 0 && err == nil:
			return pid, pidFD, nil
		case m == 4 && report < 0:
			// The second child, a child of ours that nobody else reaps; the first ends.
			unix.Close(pidFD)
			_, _ = unix.Wait4(pid, nil, 0, nil)
			pid = int(-report)
			if pidFD, err = unix.PidfdOpen(pid, 0); err == nil {
				continue
			}
			_ = unix.Kill(pid, unix.SIGKILL)
		case m == 4:
			err = syscall.Errno(report)
			unix.Close(pidFD)
		default:
			err = unix.EIO
			unix.Close(pidFD)
		}
		_, _ = unix.Wait4(pid, nil, 0, nil)
		return 0, -1, err
	}
}

func (j *joiner) strings() error {
	for _, s := range []string{initproto.Name} {
		p, err := unix.BytePtrFromString(s)
		if err != nil {
			return err
		}
		j.argv = append(j.argv, p)
	}
	for _, s := range environment() {
		p, err := unix.BytePtrFromString(s)
		if err != nil {
			return err
		}
		j.envp = append(j.envp, p)
	}
	j.argv, j.envp = append(j.argv, nil), append(j.envp, nil)
	j.empty = new(byte)
	return nil
}

// forkChild forks and, in the child, never returns.
//
//go:noinline
//go:norace
//go:nosplit
func forkChild(j *joiner) (int, syscall.Errno) {
	beforeFork()
	pid, e := rawFork(j)
	if e != 0 || pid != 0 {
		afterFork()
		return int(pid), e
	}
	afterForkInChild()
	e = becomeInit(j)
	n := int32(e)
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, uintptr(j.report), uintptr(unsafe.Pointer(&n)), 4)
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 253, 0, 0)
	}
}

// becomeInit runs in the child and returns only on failure.
//
//go:norace
//go:nosplit
func becomeInit(j *joiner) syscall.Errno {
	if _, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0); e != 0 {
		return e
	}
	for i := 0; i < len(j.files); i++ {
		if _, _, e := syscall.RawSyscall(unix.SYS_DUP3, uintptr(j.files[i]), uintptr(i), 0); e != 0 {
			return e
		}
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETNS, uintptr(j.target), j.flags, 0); e != 0 {
		return e
	}
	if j.again != 0 {
		pid, _, e := syscall.RawSyscall6(unix.SYS_CLONE, j.again, 0, 0, 0, 0, 0)
		if e != 0 {
			return e
		}
		if pid != 0 {
			n := -int32(pid)
			_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, uintptr(j.report), uintptr(unsafe.Pointer(&n)), 4)
			for {
				_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
			}
		}
	}
	// Root of the joined user namespace, or exec would drop the capabilities.
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESGID, 0, 0, 0); e != 0 {
		return e
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0); e != 0 {
		return e
	}
	_, _, e := syscall.RawSyscall6(unix.SYS_EXECVEAT, initproto.BinaryFD, uintptr(unsafe.Pointer(j.empty)),
		uintptr(unsafe.Pointer(&j.argv[0])), uintptr(unsafe.Pointer(&j.envp[0])), unix.AT_EMPTY_PATH, 0)
	return e
}
