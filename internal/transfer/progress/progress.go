// Package progress owns the messages that tell a client how far a transfer is, as
// dockerd words them.
package progress

import (
	"sync"
	"time"

	"github.com/moby/moby/api/types/jsonstream"
)

// every is how often the progress of one layer is told.
const every = 100 * time.Millisecond

// Reporter sends dockerd's progress messages, one at a time.
type Reporter struct {
	mu   sync.Mutex
	send func(jsonstream.Message)
	last map[string]time.Time // id and status -> when it was told
	shut bool
}

// New returns a reporter that sends through a function.
func New(send func(jsonstream.Message)) *Reporter {
	return &Reporter{send: send, last: map[string]time.Time{}}
}

// Message sends any other.
func (r *Reporter) Message(m jsonstream.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.shut {
		r.send(m)
	}
}

// Close makes sure that nothing is sent after it has returned.
func (r *Reporter) Close() {
	r.mu.Lock()
	r.shut = true
	r.mu.Unlock()
}

// Line is a message of its own; id may be "".
func (r *Reporter) Line(id, status string) { r.Message(jsonstream.Message{ID: id, Status: status}) }

// State changes what is shown of one layer.
func (r *Reporter) State(id, status string) {
	r.Message(jsonstream.Message{ID: id, Status: status, Progress: &jsonstream.Progress{}})
}

// Bytes tells how far a layer is, not more often than anyone can see.
func (r *Reporter) Bytes(id, status string, done, total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.shut || done < total && now.Sub(r.last[id+status]) < every {
		return
	}
	r.last[id+status] = now
	r.send(jsonstream.Message{ID: id, Status: status, Progress: &jsonstream.Progress{Current: done, Total: total}})
}
