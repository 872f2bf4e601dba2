// Package logs owns the log files of processes: the json-file format written
// by the keeper, its rotation, and reading and following it from elsewhere.
//
// On disk, for a Target with Path P and MaxFile 3:
//
//	P        the newest lines, appended to
//	P.1      the file before it   (P.1.gz when Compress is set)
//	P.2      the oldest one
//
// A rotated file is compressed behind its writer's back; while lines come in
// faster than that, it stays as it is: MaxSize * MaxFile holds at any moment.
//
// A line is {"log":TEXT,"stream":"stdout"|"stderr"[,"attrs":{..}],"time":T}
// with T in RFC 3339, nanoseconds, UTC. TEXT ends in a newline exactly if the
// process wrote one there: output longer than MaxLine without a newline is cut
// into pieces of MaxLine bytes that have the time of the first, and so is the
// rest that is there when the process ends. Bytes that are not UTF-8 become
// U+FFFD. Nothing is synced: log lines survive the end of every process, not
// the loss of power.
//
// The package is linked into the keeper: it must not import encoding/json,
// net or anything that starts goroutines by itself.
package logs

import "time"

// MaxLine is the length in bytes at which a line without a newline is cut.
const MaxLine = 16 << 10

// Driver names that a Target can have.
const (
	DriverNone     = ""
	DriverJSONFile = "json-file"
	DriverLocal    = "local" // the same form of lines; not shown as a file to users
)

// Stream says which output of the process a line came from.
type Stream byte

// The two streams; the values are those of docker's stream framing. A process
// on a terminal has Stdout only.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// String gives the word that the log file uses.
func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// Target says where the output of a process is kept.
type Target struct {
	Driver   string            // one of the names above
	Path     string            // of the newest file; its directory must exist
	MaxSize  int64             // bytes at which a file is full; <= 0 means never
	MaxFile  int               // files kept in all; < 2 means that a full file is emptied
	Compress bool              // gzip the rotated ones
	Attrs    map[string]string // written with every line
	Buffer   int64             // bytes of output that wait for the disk before lines are dropped; 0: the process waits
}

// Position is a place between two lines of a log. It stays true when the files
// are renamed and compressed; the zero value is the beginning.
type Position struct {
	File uint64 // a hash of the file's first line
	Off  int64  // bytes into the file's text
}

// Entry is one line, or one piece of a line that was longer than MaxLine.
type Entry struct {
	Stream  string // "stdout" or "stderr"
	Time    time.Time
	Line    []byte // with its newline if it has one; valid until fn returns
	Attrs   map[string]string
	Partial bool     // Line does not end in a newline
	Next    Position // behind this entry; only with ReadOptions.Positions
}

// ReadOptions selects what Read delivers. The zero value reads nothing of the
// past, for Tail is the number of lines: use -1 for all of them.
type ReadOptions struct {
	Since, Until time.Time // both inclusive; zero means unbounded
	Tail         int       // last lines of the files, before Since and Until are looked at; -1: all
	Follow       bool
	// Done, with Follow, is closed once nothing more will be written. What was
	// written before that is still delivered; then Read returns nil.
	Done <-chan struct{}
	// Idle, if set, is called with Follow when all that is there was delivered.
	Idle func() error
	// Positions asks for Entry.Next and starts behind From. When the lines
	// behind From were rotated away, Lost is called and the oldest line that is
	// left comes first.
	Positions bool
	From      Position
	Lost      func()
}
