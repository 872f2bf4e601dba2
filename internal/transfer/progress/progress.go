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

// How many messages may wait for a client that does not read: with more, how far
// a layer is is not told, and who begins something new has to wait.
const (
	slow  = 64
	stuck = 4096
)

// Reporter sends dockerd's progress messages, one at a time. The work does not
// wait for the client: others may want what this one downloads.
type Reporter struct {
	send func(jsonstream.Message)

	mu      sync.Mutex
	sent    *sync.Cond           // signalled when messages have gone out
	waiting []jsonstream.Message // in order
	sending bool                 // somebody does
	last    map[string]time.Time // id and status -> when it was told
	shut    bool
}

// New returns a reporter that sends through a function.
func New(send func(jsonstream.Message)) *Reporter {
	r := &Reporter{send: send, last: map[string]time.Time{}}
	r.sent = sync.NewCond(&r.mu)
	return r
}

// Message sends any other. It waits for a client that is far behind.
func (r *Reporter) Message(m jsonstream.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.waiting) >= stuck {
		r.sent.Wait()
	}
	r.put(m)
}

// put adds a message to those that wait. The caller holds r.mu.
func (r *Reporter) put(m jsonstream.Message) {
	if r.shut {
		return
	}
	if r.waiting = append(r.waiting, m); !r.sending {
		r.sending = true
		go r.flow()
	}
}

// flow sends until nothing waits.
func (r *Reporter) flow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.waiting) > 0 {
		next := r.waiting[0]
		r.waiting = r.waiting[1:]
		r.mu.Unlock()
		r.send(next)
		r.mu.Lock()
		r.sent.Broadcast()
	}
	r.sending = false
	r.sent.Broadcast()
}

// Close returns when all that was told is sent; nothing is sent after that.
func (r *Reporter) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shut = true
	for r.sending {
		r.sent.Wait()
	}
}

// Line is a message of its own; id may be "".
func (r *Reporter) Line(id, status string) { r.Message(jsonstream.Message{ID: id, Status: status}) }

// State changes what is shown of one layer. It never waits.
func (r *Reporter) State(id, status string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(jsonstream.Message{ID: id, Status: status, Progress: &jsonstream.Progress{}})
}

// Bytes tells how far a layer is, not more often than anyone can see. It never
// waits.
func (r *Reporter) Bytes(id, status string, done, total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if len(r.waiting) >= slow || done < total && now.Sub(r.last[id+status]) < every {
		return
	}
	r.last[id+status] = now
	r.put(jsonstream.Message{ID: id, Status: status, Progress: &jsonstream.Progress{Current: done, Total: total}})
}
