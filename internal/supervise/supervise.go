// Package supervise owns the engine's side of the keeper: finding or starting
// it, asking it to start and signal processes and to attach clients, learning
// of exits, and replacing it when it died or when its program is an older one.
// The keeper's own side is in supervise/keeper, what both say to one another
// in supervise/wire.
//
// What survives what:
//
//   - The engine ends, in any way: processes, logs and attached clients go on.
//     Exits are kept by the keeper, in Config.Dir too, until Forget.
//   - The keeper ends: the processes and their output go on, for a Client holds
//     duplicates of their descriptors, starts a new keeper and hands them over.
//     Attached clients are cut off, and what the old keeper had read and not
//     yet written to a log is lost (at most one read of each stream).
//     Exit codes are then read through the pidfd (Linux 6.15 or later), or are
//     unknown.
//   - Both end: processes run on until they write to a pipe that nobody reads.
package supervise

import (
	"os"
	"syscall"
	"time"

	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/supervise/wire"
)

// Config says how to find or start the keeper of one engine.
type Config struct {
	// Dir holds the keeper's socket, lock, log and exit records. It is made
	// with mode 0700 and must be on a file system that a reboot empties.
	Dir string
	// Keeper and Init are the programs themselves. A running keeper that is
	// another program than Keeper is made to become it; Init is used for
	// processes started from then on.
	Keeper, Init []byte
	// CgroupProcs are cgroup.procs files that a new keeper is written to, so
	// that a service manager which stops the engine's cgroup spares it.
	CgroupProcs []string
	// Logf is told what the engine's log should have; nil for nothing.
	Logf func(format string, args ...any)
}

// Key names a supervised process: the main process of a container, or with
// Exec set one that was started beside it.
type Key = wire.Key

// StartRequest is one process to start. The caller keeps owning all files.
type StartRequest struct {
	Key   Key
	Plan  *sandbox.Plan
	Extra []*os.File // what Plan.Program refers to by index
	// Witnesses are those of the processes that the plan names by number, see
	// Client.Witness; a plan that does must have them. Plan.Witnesses is not looked at.
	Witnesses []*os.File

	// Stdin keeps a pipe to the process's standard input open, else it has
	// /dev/null. StdinOnce closes it when the first client that is attached to
	// it ends its side. Neither matters to a terminal.
	Stdin, StdinOnce bool
	Log              logs.Target
	Attach           []Attachment // they miss no output

	// KillOnDisconnect kills the process when its last attached client
	// vanishes: not when it detaches, nor when it only ends its input.
	KillOnDisconnect bool
}

// Started tells what Start has started.
type Started struct {
	PID int
	At  time.Time
}

// Attachment is a client to be connected with a process. The keeper works on
// a duplicate of Conn: the caller closes its own once Start or Attach has
// returned, or the client will not see the end of the stream.
//
// Output that the client does not take is buffered up to 1 MiB; then the
// process is not read from until the client has caught up, as with dockerd.
// It never delays the exit of the process or the log of what was read.
//
// When a client with Stdin ends its side and the process is not StdinOnce, or
// is on a terminal, it is detached: dockerd does that too.
type Attachment struct {
	Conn                  *os.File // a connected stream socket
	Stdin, Stdout, Stderr bool
	Framed                bool   // docker's 8-byte headers
	DetachKeys            []byte // nil for none
	ReadAhead             []byte // input that was read from Conn already
	Token                 string // returned in AttachEnd
}

// Process is what the keeper knows of one process.
type Process struct {
	Key       Key
	PID       int
	StartedAt time.Time
	Exited    *Exit // nil while it runs
}

// Event is an Exit, an AttachEnd or a LogError.
type Event interface{ event() }

// Exit is the end of a process. Everything that the process wrote has been
// read, logged and passed on; if something else still holds its output open,
// Exit comes after two seconds nevertheless, and later output is only logged.
type Exit struct {
	Key    Key
	Code   int            // docker's: 128+Signal when it was killed
	Signal syscall.Signal // 0 if it exited by itself
	At     time.Time
	// Unknown is why Code could not be learnt (then it is 255), else "".
	Unknown string
}

// AttachEnd tells that a client given to Start or Attach is disconnected.
type AttachEnd struct {
	Key    Key
	Token  string
	Reason EndReason
}

// EndReason says why a client was disconnected.
type EndReason string

// The reasons of an AttachEnd.
const (
	EndEOF    EndReason = "eof"    // the process ended, or the client's input did
	EndDetach EndReason = "detach" // the client typed the detach keys
	EndError  EndReason = "error"  // the client vanished
)

// LogError tells that lines of a process could not be logged.
type LogError struct {
	Key     Key
	Message string
	Dropped uint64 // lines lost since the process was started
}

func (Exit) event()      {}
func (AttachEnd) event() {}
func (LogError) event()  {}
