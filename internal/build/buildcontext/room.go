package buildcontext

// room is memory that what comes is read into, one message behind the other:
// parts of a large file lie together then, and are written as one.
type room struct {
	all  []byte
	used int
}

const (
	// roomSize is how much of a file is written at once.
	roomSize = 1 << 20
	// rest is what must be left for a further message; a larger one has memory of
	// its own.
	rest = 64 << 10
)

// space gives memory for the next message.
func (r *receiver) space() []byte {
	m := &r.room
	if len(m.all)-m.used < rest {
		m.all, m.used = r.empty(), 0
	}
	return m.all[m.used:m.used]
}

// empty gives a room of which nothing is used.
func (r *receiver) empty() []byte {
	if b, ok := r.rooms.Get().(*[]byte); ok {
		return (*b)[:roomSize]
	}
	return make([]byte, roomSize)
}

// took keeps what a message has brought.
func (r *receiver) took(b []byte) []byte {
	m := &r.room
	if len(b) <= len(m.all)-m.used && &b[0] == &m.all[m.used] {
		m.used += len(b)
	}
	return b[:len(b):len(b)]
}

// join makes one of two parts if the second lies behind the first. One that
// begins a room has all its capacity.
func (m *room) join(a, b []byte) ([]byte, bool) {
	if len(a) == 0 || len(a)+len(b) > m.used {
		return nil, false
	}
	from := m.used - len(a) - len(b)
	if &m.all[from] != &a[0] || &m.all[from+len(a)] != &b[0] {
		return nil, false
	}
	if from == 0 {
		return m.all[:m.used], true
	}
	return m.all[from:m.used:m.used], true
}
