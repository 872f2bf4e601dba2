package main

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reap is the first process of a container started with --init: it starts the
// command as a child with a process group (and the terminal) of its own,
// forwards every signal to it, reaps what it is left, and ends with the
// child's code, or 128 + signal.
func reap(args []string) int {
	if len(args) > 1 && args[1] == "--" {
		args = append(args[:1:1], args[2:]...)
	}
	if len(args) < 2 {
		complain("usage: docker-init [--] command [argument...]")
		return 1
	}
	// Signals are taken with sigtimedwait, so no thread may have them
	// unblocked. The threads of the runtime inherit the mask the process was
	// started with: start again when it was not this one.
	var mask unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, nil, &mask); err != nil {
		complain("docker-init: signal mask: " + err.Error())
		return 1
	}
	if !has(&mask, unix.SIGTERM) {
		setMask(true)
		err := syscall.Exec("/proc/self/exe", append([]string{"docker-init", "--"}, args[1:]...), syscall.Environ())
		complain("docker-init: exec: " + err.Error())
		return 1
	}
	path, f := lookPath(args[1], syscall.Environ())
	if f != nil {
		complain(f.Message)
		if f.Errno == uint32(unix.EACCES) {
			return 126
		}
		return 127
	}
	attr := &syscall.ProcAttr{Env: syscall.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setpgid: true}}
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		attr.Sys.Foreground = true
	}
	// The child inherits the mask, so it is open just for the fork.
	setMask(false)
	child, err := syscall.ForkExec(path, args[1:], attr)
	setMask(true)
	if err != nil {
		complain("exec " + path + ": " + err.Error())
		return 126
	}
	for {
		sig := waitSignal()
		if sig == unix.SIGCHLD {
			if code, done := collect(child); done {
				return code
			}
			continue
		}
		if sig > 0 {
			_ = unix.Kill(child, sig)
		}
	}
}

func complain(s string) { _, _ = unix.Write(2, []byte(s+"\n")) }

// collect reaps everything that ended; done when the child was among it.
func collect(child int) (code int, done bool) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid == 0 {
			return code, done
		}
		if pid != child {
			continue
		}
		done = true
		if status.Signaled() {
			code = 128 + int(status.Signal())
		} else {
			code = status.ExitStatus()
		}
	}
}

// waitSignal takes the next pending signal.
func waitSignal() unix.Signal {
	set := all()
	n, _, e := unix.Syscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&set)), 0, 0, sigsetSize, 0, 0)
	if e != 0 {
		return 0
	}
	return unix.Signal(n)
}

const sigsetSize = 8

// all is every signal that can wait; those that mean a fault of our own stay deliverable.
func all() unix.Sigset_t {
	var set unix.Sigset_t
	for sig := range 64 {
		switch unix.Signal(sig + 1) {
		case unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGABRT, unix.SIGTRAP, unix.SIGSYS, unix.SIGPROF, unix.SIGTTIN, unix.SIGTTOU, unix.SIGURG:
			continue
		}
		word, bit := sig/bitsPerWord, sig%bitsPerWord
		set.Val[word] |= 1 << bit
	}
	return set
}

const bitsPerWord = int(unsafe.Sizeof(unix.Sigset_t{}.Val[0])) * 8

func has(set *unix.Sigset_t, sig unix.Signal) bool {
	n := int(sig) - 1
	return set.Val[n/bitsPerWord]&(1<<(n%bitsPerWord)) != 0
}

func setMask(block bool) {
	var set unix.Sigset_t
	if block {
		set = all()
	}
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &set, nil)
}
