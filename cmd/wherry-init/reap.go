package main

import (
	"syscall"
	_ "unsafe" // for go:linkname

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/runtime/initproto"
)

// reap is the first process of a container started with --init: it starts the
// command as a child with a process group (and the terminal) of its own,
// forwards every signal to it, reaps what it is left, and ends with the
// child's code, or 128 + signal.
func reap(args []string) int {
	// Before the fork, so that no end of a child is missed.
	for sig := range uint32(65) {
		if forwarded(unix.Signal(sig)) {
			enable(sig)
		}
	}
	ready()
	if len(args) > 1 && args[1] == "--" {
		args = append(args[:1:1], args[2:]...)
	}
	if len(args) < 2 {
		complain("usage: docker-init [--] command [argument...]")
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
	child, err := syscall.ForkExec(path, args[1:], attr)
	if err != nil {
		complain("exec " + path + ": " + err.Error())
		return 126
	}
	for {
		sig := unix.Signal(receiveSignal())
		if sig == unix.SIGCHLD {
			if code, done := collect(child); done {
				return code
			}
			continue
		}
		if forwarded(sig) {
			_ = unix.Kill(child, sig)
		}
	}
}

// ready tells whoever waits for the start that signals arrive from now on, and
// ends the process if nobody does any more: it would run without its supervisor.
// The control socket is there if wherry-init kept it for us; it is written to with
// the one call that every seccomp profile must allow.
func ready() {
	var st unix.Stat_t
	if unix.Fstat(initproto.ControlFD, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		if _, err := unix.Write(initproto.ControlFD, []byte{initproto.KindExec}); err == unix.EPIPE || err == unix.ECONNRESET {
			unix.Exit(1)
		}
		unix.Close(initproto.ControlFD)
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

// The queue of signals that package os/signal reads, without that package.

//go:linkname enable os/signal.signal_enable
func enable(uint32)

//go:linkname receiveSignal os/signal.signal_recv
func receiveSignal() uint32

// forwarded are the signals that mean the child: not those of a fault of our
// own, of the terminal's job control, or of the Go runtime.
func forwarded(sig unix.Signal) bool {
	switch sig {
	case 0, unix.SIGKILL, unix.SIGSTOP, unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGSYS,
		unix.SIGPROF, unix.SIGTTIN, unix.SIGTTOU, unix.SIGURG, unix.SIGPIPE:
		return false
	}
	return true
}
