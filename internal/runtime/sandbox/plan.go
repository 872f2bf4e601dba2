// Package sandbox owns the start of one process: it forks wherry-init with the
// namespaces of a Plan, hands it the program to run, and turns what init says
// back into a Process or a StartError. All policy was decided before, by
// whoever compiled the Plan.
package sandbox

import (
	"os"
	"strings"
	"syscall"

	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/linux/pidfd"
)

// Plan is one process to start, all policy already decided. It is plain data,
// so that it can travel between processes.
type Plan struct {
	// Runtime, when set, makes the process; of all other fields only Terminal,
	// Rows, Cols and Hold matter then.
	Runtime *Command

	CloneFlags uintptr // CLONE_NEWNS|CLONE_NEWPID|...: made fresh by the fork

	// PIDNamespace is the namespace to be born in, as a path such as
	// /proc/<pid>/ns/pid; "" means what CloneFlags says. The forking thread
	// joins it.
	PIDNamespace string

	// UserTarget, when not 0, is a process whose namespaces TargetFlags (the
	// CLONE_NEW* bits) are joined by the fork itself, because a user namespace
	// can only be joined by a process of one thread. Those of CloneFlags, which
	// does not have CLONE_NEWUSER then, are made inside of that user namespace.
	UserTarget  int
	TargetFlags uintptr

	// UIDMappings and GIDMappings are those of the user namespace that is made
	// or joined.
	UIDMappings, GIDMappings []IDMap

	CgroupDir   string   // v2: directory to clone into (CLONE_INTO_CGROUP); "" if none
	CgroupTasks []string // v1: `tasks` files; Start opens them, init writes "0" to them

	// Open lists files that Start opens read-only for init. The program refers
	// to them by index after the extra files of Start: extra first, then Open.
	Open []string

	// Trees are cloned by Start with its own rights and passed as detached
	// trees after the files of CgroupTasks: a user namespace sees nothing of
	// directories that are closed to others.
	Trees []Tree

	// Root, when set, is mounted by Start with the rights of the first user
	// namespace and passed as a detached tree after all other files. What lies
	// below its Base appears with the owners that UIDMappings and GIDMappings
	// give. With no Data it is the directory Base itself.
	Root *mount.Overlay

	// Witnesses is how many of the last files of Start's extra are no files for the
	// program but pidfds of the processes that PIDNamespace, UserTarget and Open
	// name by number: if one of these has ended, its number may be another's.
	Witnesses int

	Program     []byte // initproto operation list
	Terminal    bool   // the program allocates a pty; its master comes back from init
	Rows, Cols  uint16 // initial size of the pty, 0 = leave
	OOMScoreAdj *int   // nil = that of the caller
	Hold        bool   // the program stops at a hold until Process.Release
}

// Joins tells whether the plan names processes by number, to join their namespaces.
// A mount namespace alone does not: it is where the engine itself, which has just
// sent the plan, keeps file systems of volumes.
func (p *Plan) Joins() bool {
	if p.UserTarget != 0 || p.PIDNamespace != "" {
		return true
	}
	for _, path := range p.Open {
		if strings.HasPrefix(path, "/proc/") && strings.Contains(path, "/ns/") && !strings.HasSuffix(path, "/ns/mnt") {
			return true
		}
	}
	return false
}

// split gives the files for the program and the witnesses among those of Start.
func (p *Plan) split(extra []*os.File) (files, witnesses []*os.File, err error) {
	n := len(extra) - p.Witnesses
	if p.Witnesses < 0 || n < 0 {
		return nil, nil, &StartError{Step: "witness", Message: "a plan with more witnesses than files"}
	}
	return extra[:n], extra[n:], nil
}

// testify tells whether the processes that were named by number are still there,
// so that what was found under their numbers until now is theirs.
func testify(witnesses []*os.File) error {
	for _, w := range witnesses {
		if err := pidfd.Signal(w, 0); err != nil {
			return &StartError{Step: "witness", Message: "the container whose namespaces are joined has ended", Errno: errnoOf(err)}
		}
	}
	return nil
}

// Tree is a directory or file of the host and, with Recursive, what is mounted
// below. Mapped gives its files the owners of the Plan's mappings.
type Tree struct {
	Path              string
	Recursive, Mapped bool
}

// IDMap is one range of a user namespace's mapping.
type IDMap struct{ Container, Host, Size int }

// StartError says at which step a process could not be started. Message is
// what users of docker read for that failure.
type StartError struct {
	Step, Message string
	Errno         syscall.Errno
}

func (e *StartError) Error() string {
	if e.Message != "" {
		return e.Message
	}
	if e.Errno != 0 {
		return e.Step + ": " + e.Errno.Error()
	}
	return e.Step + " failed"
}

// Unwrap gives the errno for errors.Is; nil when there was none.
func (e *StartError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}
