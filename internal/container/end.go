package container

import "time"

// Kinds of causes.
const (
	CauseStop     = "stop"
	CauseKill     = "kill"
	CauseRestart  = "restart"
	CauseRemove   = "rm"
	CauseHealth   = "health"   // --health-on-failure
	CauseShutdown = "shutdown" // of the engine, when containers do not live on
)

// Cause is what was asked for that can end a container.
type Cause struct {
	What   string
	By     string `json:",omitempty"` // the client's name for itself; "" if no client asked
	Signal int    // that was sent first
	Forced bool   `json:",omitempty"` // it did not end in time, and was killed
	At     time.Time
}

// OOM is what is known of a kill for want of memory.
type OOM struct {
	Kills   uint64
	Limit   int64  `json:",omitempty"` // bytes; 0: the container's own limit was not it
	Process string `json:",omitempty"` // the victim, when the kernel's log tells
	PID     int    `json:",omitempty"` // as the host sees it
	RSS     int64  `json:",omitempty"` // bytes that the victim had
}

// End tells what ended the last run; it is there until the next one ends.
type End struct {
	At, StartedAt time.Time
	Code          int
	Signal        int    `json:",omitempty"`
	Cause         *Cause `json:",omitempty"` // nil: nobody asked
	OOM           *OOM   `json:",omitempty"`
	Unknown       string `json:",omitempty"` // why the code is not known
	Again         string `json:",omitempty"` // the restart policy that starts it again
}

// Settle makes the cause part of the end. A signal that the process survived
// is no cause of an end long after it.
func (r *Record) Settle(e End) {
	const soon = 10 * time.Second
	if c := r.Ending; c != nil && (c.What != CauseKill || c.Signal == e.Signal || e.At.Sub(c.At) < soon) {
		e.Cause = c
	}
	r.End, r.Ending = &e, nil
}
