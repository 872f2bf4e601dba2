// Package api owns the forms of what Wherry's API has beyond the Docker Engine
// API; docs/extensions.md describes them.
package api

import "time"

// Why is the answer to GET /containers/{name}/why: what ended a container, and
// what to do about it. The sentences are for people; clients that act on the
// answer look at Ended.
type Why struct {
	ID     string
	Name   string
	Image  string
	Status string   // as in inspect
	Reason string   // one sentence
	More   []string // what else is known
	Advice []string
	Ended  *Ended   `json:",omitempty"` // nil: it has not run to an end yet
	Log    []string // the last lines, oldest first
}

// Kinds of ends.
const (
	KindExit     = "exit"     // by itself, with a code
	KindSignal   = "signal"   // by a signal that nobody asked the engine for
	KindRequest  = "request"  // stop, kill, restart or rm
	KindHealth   = "health"   // --health-on-failure
	KindOOM      = "oom"      // for want of memory
	KindShutdown = "shutdown" // with the engine
	KindUnknown  = "unknown"  // host restart, or all was killed at once
	KindStart    = "start"    // it could not be started
)

// Ended is the last end.
type Ended struct {
	Kind      string
	At        time.Time
	StartedAt time.Time
	ExitCode  int
	Signal    string `json:",omitempty"` // as KILL
	By        string `json:",omitempty"` // the client that asked
	Request   string `json:",omitempty"` // stop, kill, restart, rm
	Forced    bool   `json:",omitempty"` // SIGKILL after the time given
	Process   string `json:",omitempty"` // the victim of an OOM kill
	Limit     int64  `json:",omitempty"` // bytes of memory
}
