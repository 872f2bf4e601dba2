package early

import (
	"runtime"
	"time"
)

// short is how long most commands take, and more.
const short = 50 * time.Millisecond

var started <-chan struct{} // closed when all processors are used again

// After the init of early.go, as the files' names go: a build is gone by then.
func init() { started = alone(short) }

// alone lets Go use one processor for so long: a short command does next to
// nothing at the same time, and to wake threads for it is a tenth of the
// processor time of a run. The channel is closed when all are used again.
func alone(most time.Duration) <-chan struct{} {
	all := make(chan struct{})
	n := runtime.GOMAXPROCS(1)
	time.AfterFunc(most, func() {
		runtime.GOMAXPROCS(n)
		close(all)
	})
	return all
}
