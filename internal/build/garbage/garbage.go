// Package garbage owns when Go's collector of garbage runs beside builds: not in
// the first moments of one. A build of which everything is in the cache is over
// by then, and a collection takes as much processor time as all that it does.
package garbage

import (
	"runtime/debug"
	"sync"
	"time"
)

const (
	// percent is how much the heap may grow meanwhile, of what is in use.
	percent = 400
	// moments is how long that is; what was put off is done after it.
	moments = 200 * time.Millisecond
)

var (
	mu     sync.Mutex
	off    *time.Timer // nil: the collector runs as ever
	before int         // percent then
)

// PutOff has the collector wait, until Resume or for some moments. It is the
// whole program's.
func PutOff() {
	mu.Lock()
	defer mu.Unlock()
	if off != nil {
		return
	}
	before = debug.SetGCPercent(percent)
	if before < 0 || before > percent { // as somebody wanted it
		debug.SetGCPercent(before)
		return
	}
	off = time.AfterFunc(moments, Resume)
}

// Resume has the collector run as ever.
func Resume() {
	mu.Lock()
	defer mu.Unlock()
	if off == nil {
		return
	}
	off.Stop()
	off = nil
	debug.SetGCPercent(before)
}
