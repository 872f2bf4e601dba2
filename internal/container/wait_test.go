package container

import (
	"context"
	"testing"
	"time"
)

// FirstWords ends with the container, and does not wait for one that runs long or
// not at all.
func TestFirstWords(t *testing.T) {
	c := &Container{}
	c.FirstWords(t.Context())
	c.State = State{Running: true, StartedAt: time.Now().Add(-time.Hour)}
	c.FirstWords(t.Context())
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	c.State.StartedAt = time.Now().Add(time.Hour) // so that only the end of the wait can be the reason
	c.FirstWords(gone)
	begun, done := make(chan struct{}), make(chan struct{})
	go func() {
		close(begun)
		c.FirstWords(t.Context())
		close(done)
	}()
	<-begun
	c.Lock()
	c.SetExited(0, false, false, time.Now())
	c.Unlock()
	<-done
	if len(c.waiters) != 0 {
		t.Errorf("%d waiters are left", len(c.waiters))
	}
}
