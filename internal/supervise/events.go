package supervise

import "sync"

// eventQueue is a channel that never blocks its writer: the reader of the
// connection has to go on, for answers come the same way.
type eventQueue struct {
	out  chan Event
	mu   sync.Mutex
	list []Event
	more chan struct{} // has one element when list may not be empty
	done chan struct{}
	once sync.Once
}

func newEventQueue() *eventQueue {
	q := &eventQueue{out: make(chan Event), more: make(chan struct{}, 1), done: make(chan struct{})}
	go q.pump()
	return q
}

func (q *eventQueue) put(e Event) {
	q.mu.Lock()
	q.list = append(q.list, e)
	q.mu.Unlock()
	select {
	case q.more <- struct{}{}:
	default:
	}
}

func (q *eventQueue) close() { q.once.Do(func() { close(q.done) }) }

func (q *eventQueue) pump() {
	defer close(q.out)
	for {
		q.mu.Lock()
		list := q.list
		q.list = nil
		q.mu.Unlock()
		for _, e := range list {
			select {
			case q.out <- e:
			case <-q.done:
				return
			}
		}
		if len(list) > 0 {
			continue
		}
		select {
		case <-q.more:
		case <-q.done:
			return
		}
	}
}
