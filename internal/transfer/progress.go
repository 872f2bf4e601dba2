package transfer

import (
	"sync"
	"time"

	"github.com/moby/moby/api/types/jsonstream"
)

// every is how often the progress of one layer is told.
const every = 100 * time.Millisecond

// reporter sends dockerd's progress messages, one at a time.
type reporter struct {
	mu   sync.Mutex
	send func(jsonstream.Message)
	last map[string]time.Time // id and status -> when it was told
	shut bool
}

func newReporter(send func(jsonstream.Message)) *reporter {
	return &reporter{send: send, last: map[string]time.Time{}}
}

func (r *reporter) message(m jsonstream.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.shut {
		r.send(m)
	}
}

// close makes sure that nothing is sent after it has returned.
func (r *reporter) close() {
	r.mu.Lock()
	r.shut = true
	r.mu.Unlock()
}

// line is a message of its own; id may be "".
func (r *reporter) line(id, status string) { r.message(jsonstream.Message{ID: id, Status: status}) }

// state changes what is shown of one layer.
func (r *reporter) state(id, status string) {
	r.message(jsonstream.Message{ID: id, Status: status, Progress: &jsonstream.Progress{}})
}

// bytes tells how far a layer is, not more often than anyone can see.
func (r *reporter) bytes(id, status string, done, total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.shut || done < total && now.Sub(r.last[id+status]) < every {
		return
	}
	r.last[id+status] = now
	r.send(jsonstream.Message{ID: id, Status: status, Progress: &jsonstream.Progress{Current: done, Total: total}})
}
