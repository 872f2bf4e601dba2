package wire

import (
	"syscall"
	"time"

	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
)

// Version is that of the messages below. Hello, Welcome, Failure and Upgrade
// never change their form, so that a newer engine can always talk an older
// keeper into becoming the newer one.
const Version = 4

// StateVersion is that of what a keeper hands on to the program that it becomes,
// which must understand this version and those before it. 2: logs have Buffer.
const StateVersion = 2

// Types of frames. Requests are answered by a frame of type Done or Failed
// with the same id; the others stand for themselves and have id 0.
const (
	TypeHello    = iota + 1 // Hello -> Welcome; the first frame of a connection
	TypeUpgrade             // Upgrade + program; answered only when it fails
	TypeInit                // Text (the program's hash) + program
	TypeAdopt               // -> one Held for each process, then Done
	TypeHandOver            // Process + its descriptors, of a keeper that died
	TypeStart               // Start + extra files + clients -> Process + its descriptors
	TypeRelease             // Target
	TypeAttach              // Target + client
	TypeResize              // Target
	TypeSignal              // Target
	TypeForget              // Target
	TypeList                // -> Processes

	TypeDone   = 64 + iota - 12 // answer: what the request says
	TypeFailed                  // answer: Failure
	TypeHeld                    // Process + its descriptors
	TypeExit                    // Exit
	TypeEnd                     // AttachEnd
	TypeLogError
	TypeStdinClosed // Target: drop the duplicate of its stdin
	TypeReplaced    // another engine has connected; this connection ends
)

// Fields makes a Key part of messages.
func (k *Key) Fields(c *Coder) { c.Str(&k.Container); c.Str(&k.Exec) }

// Hello is what an engine says first.
type Hello struct{ Version uint8 }

// Fields implements Message.
func (h *Hello) Fields(c *Coder) { c.U8(&h.Version) }

// Welcome is the answer to Hello.
type Welcome struct {
	Version, State uint8 // of the messages, and of what an upgrade hands on
	Build, Init    string
	PID            int
}

// Fields implements Message.
func (w *Welcome) Fields(c *Coder) {
	c.U8(&w.Version)
	c.U8(&w.State)
	c.Str(&w.Build)
	c.Str(&w.Init)
	c.Int(&w.PID)
}

// Upgrade asks the keeper to become another program.
type Upgrade struct {
	State uint8 // newest state that the other program understands
	Build string
}

// Fields implements Message.
func (u *Upgrade) Fields(c *Coder) { c.U8(&u.State); c.Str(&u.Build) }

// Text is a message of one string.
type Text struct{ S string }

// Fields implements Message.
func (t *Text) Fields(c *Coder) { c.Str(&t.S) }

// Kinds of failures.
const (
	FailOther = iota
	FailNotFound
	FailConflict
	FailUnavailable
	FailStart // of the program itself: Step, Message, Errno of a sandbox.StartError
)

// Failure is an error on its way to the engine.
type Failure struct {
	Kind          uint8
	Step, Message string
	Errno         int
}

// Fields implements Message.
func (f *Failure) Fields(c *Coder) {
	c.U8(&f.Kind)
	c.Str(&f.Step)
	c.Str(&f.Message)
	c.Int(&f.Errno)
}

// Target names a process and what should happen to it.
type Target struct {
	Key        Key
	Signal     int
	Rows, Cols uint16
	Client     *Client // TypeAttach
}

// Fields implements Message.
func (t *Target) Fields(c *Coder) {
	t.Key.Fields(c)
	c.Int(&t.Signal)
	c.U16(&t.Rows)
	c.U16(&t.Cols)
	Maybe(c, &t.Client, func(a *Client) { a.Fields(c) })
}

// Client is an attached client; its connection travels beside it.
type Client struct {
	Stdin, Stdout, Stderr, Framed bool
	DetachKeys, ReadAhead         []byte
	Token                         string
}

// Fields implements Message.
func (a *Client) Fields(c *Coder) {
	c.Bool(&a.Stdin)
	c.Bool(&a.Stdout)
	c.Bool(&a.Stderr)
	c.Bool(&a.Framed)
	c.Bytes(&a.DetachKeys)
	c.Bytes(&a.ReadAhead)
	c.Str(&a.Token)
}

// Start is a process to start. The descriptors beside it are Extra extra
// files, then the connections of Attach.
type Start struct {
	Key              Key
	Plan             sandbox.Plan
	Extra            int
	Stdin, StdinOnce bool
	KillOnDisconnect bool
	Log              logs.Target
	Attach           []Client
}

// Fields implements Message.
func (s *Start) Fields(c *Coder) {
	s.Key.Fields(c)
	codePlan(c, &s.Plan)
	c.Int(&s.Extra)
	c.Bool(&s.Stdin)
	c.Bool(&s.StdinOnce)
	c.Bool(&s.KillOnDisconnect)
	codeLog(c, &s.Log)
	List(c, &s.Attach, 16, func(a *Client) { a.Fields(c) })
}

func codePlan(c *Coder, p *sandbox.Plan) {
	Maybe(c, &p.Runtime, func(r *sandbox.Command) {
		for _, s := range []*string{&r.Path, &r.Dir, &r.PIDFile, &r.Console} {
			c.Str(s)
		}
		List(c, &r.Create, 4, c.Str)
		List(c, &r.Start, 4, c.Str)
	})
	flags, target := int64(p.CloneFlags), int64(p.TargetFlags)
	c.I64(&flags)
	c.I64(&target)
	p.CloneFlags, p.TargetFlags = uintptr(flags), uintptr(target)
	c.Str(&p.PIDNamespace)
	c.Int(&p.UserTarget)
	c.Int(&p.Witnesses)
	for _, m := range []*[]sandbox.IDMap{&p.UIDMappings, &p.GIDMappings} {
		List(c, m, 24, func(m *sandbox.IDMap) { c.Int(&m.Container); c.Int(&m.Host); c.Int(&m.Size) })
	}
	c.Str(&p.CgroupDir)
	for _, s := range []*[]string{&p.CgroupTasks, &p.Open} {
		List(c, s, 4, c.Str)
	}
	List(c, &p.Trees, 6, func(t *sandbox.Tree) { c.Str(&t.Path); c.Bool(&t.Recursive); c.Bool(&t.Mapped) })
	Maybe(c, &p.Root, func(o *mount.Overlay) {
		c.Str(&o.Base)
		c.Str(&o.Data)
		List(c, &o.Paths, 4, c.Str)
	})
	c.Bytes(&p.Program)
	c.Bool(&p.Terminal)
	c.U16(&p.Rows)
	c.U16(&p.Cols)
	Maybe(c, &p.OOMScoreAdj, c.Int)
	c.Bool(&p.Hold)
}

func codeLog(c *Coder, t *logs.Target) {
	c.Str(&t.Driver)
	c.Str(&t.Path)
	c.I64(&t.MaxSize)
	c.Int(&t.MaxFile)
	c.Bool(&t.Compress)
	c.StrMap(&t.Attrs)
	if c.State != 1 {
		c.I64(&t.Buffer)
	}
}

// Exit is the end of a process.
type Exit struct {
	Key          Key
	Code, Signal int
	At           int64 // ns since 1970
	Unknown      string
}

// Fields implements Message.
func (e *Exit) Fields(c *Coder) {
	e.Key.Fields(c)
	c.Int(&e.Code)
	c.Int(&e.Signal)
	c.I64(&e.At)
	c.Str(&e.Unknown)
}

// End tells that an attached client is disconnected.
type End struct {
	Key           Key
	Token, Reason string
}

// Fields implements Message.
func (e *End) Fields(c *Coder) { e.Key.Fields(c); c.Str(&e.Token); c.Str(&e.Reason) }

// LogError tells that lines could not be logged.
type LogError struct {
	Key     Key
	Message string
	Dropped int64
}

// Fields implements Message.
func (e *LogError) Fields(c *Coder) { e.Key.Fields(c); c.Str(&e.Message); c.I64(&e.Dropped) }

// Descriptors that can be beside a Process, in this order.
const (
	HasPIDFD  = 1 << iota
	HasStdin  // the writing end; not with a terminal
	HasStdout // the reading end, or the master of the terminal
	HasStderr
)

// Process is all that is needed to supervise a process that runs.
type Process struct {
	Key              Key
	PID              int
	At               int64 // when it was started, ns since 1970
	Terminal         bool
	StdinOnce        bool
	KillOnDisconnect bool
	Log              logs.Target
	Has              uint8
	Exited           *Exit
}

// Fields implements Message.
func (p *Process) Fields(c *Coder) {
	p.Key.Fields(c)
	c.Int(&p.PID)
	c.I64(&p.At)
	c.Bool(&p.Terminal)
	c.Bool(&p.StdinOnce)
	c.Bool(&p.KillOnDisconnect)
	codeLog(c, &p.Log)
	c.U8(&p.Has)
	Maybe(c, &p.Exited, func(e *Exit) { e.Fields(c) })
}

// Processes is the answer to TypeList; it is without descriptors.
type Processes struct{ List []Process }

// Fields implements Message.
func (p *Processes) Fields(c *Coder) {
	List(c, &p.List, 32, func(p *Process) { p.Fields(c) })
}

// FailureOf turns an error of sandbox.Start into what can travel.
func FailureOf(err error) *Failure {
	switch e := err.(type) { //nolint:errorlint // its own fields are wanted, not those of a cause
	case *sandbox.StartError:
		return &Failure{Kind: FailStart, Step: e.Step, Message: e.Message, Errno: int(e.Errno)}
	case *Failure:
		return e
	case syscall.Errno:
		return &Failure{Message: e.Error(), Errno: int(e)}
	}
	return &Failure{Message: err.Error()}
}

// Error makes a Failure an error on the keeper's side.
func (f *Failure) Error() string { return f.Message }

// Nanos and Time convert between points in time and what is in messages.
func Nanos(t time.Time) int64 { return t.UnixNano() }

// Time is the inverse of Nanos.
func Time(ns int64) time.Time { return time.Unix(0, ns).UTC() }
