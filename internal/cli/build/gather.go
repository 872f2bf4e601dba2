package build

import (
	"io"
	"sync"
	"time"
)

// gather writes what comes in many small pieces, as lines of progress do, in
// few large ones. It is safe for use by several goroutines.
type gather struct {
	w io.Writer

	mu      sync.Mutex
	pieces  []byte
	pending bool  // a flush is on its way
	err     error // of an earlier write
}

const (
	// wait is how long a piece waits for others, too short to be seen.
	wait = 5 * time.Millisecond
	// full is how many bytes do not wait.
	full = 32 << 10
)

// Write takes a piece. An error may be that of an earlier one.
func (g *gather) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return 0, g.err
	}
	g.pieces = append(g.pieces, p...)
	switch {
	case len(g.pieces) >= full:
		g.write()
	case !g.pending:
		g.pending = true
		time.AfterFunc(wait, g.flush)
	}
	return len(p), nil
}

// flush writes what there is.
func (g *gather) flush() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pending = false
	g.write()
}

func (g *gather) write() {
	if g.err == nil && len(g.pieces) > 0 {
		_, g.err = g.w.Write(g.pieces)
	}
	g.pieces = g.pieces[:0]
}
