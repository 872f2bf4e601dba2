package sandbox

// PID is the process that waits, 0 when there is none.
func (r *Reserve) PID() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil {
		return 0
	}
	return r.waiting.PID
}
