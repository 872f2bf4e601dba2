package progress

import (
	"fmt"
	"testing"

	"github.com/moby/moby/api/types/jsonstream"
)

// TestStalled: a client that does not read keeps nobody from working, gets all
// but how far layers were when it does, in order, and nothing after the end.
func TestStalled(t *testing.T) {
	read, closed := make(chan struct{}), make(chan struct{})
	var got []string
	r := New(func(m jsonstream.Message) {
		<-read
		got = append(got, m.ID+" "+m.Status)
	})
	const layers = 500
	r.Line("", "Pulling")
	for i := range layers {
		r.State(fmt.Sprint(i), "Waiting")
	}
	for i := range 10 * stuck {
		r.Bytes("x", "Downloading", int64(i), int64(i))
	}
	if len(r.waiting) > layers+1 {
		t.Errorf("%d messages wait", len(r.waiting))
	}
	go func() {
		r.Close()
		close(closed)
	}()
	select {
	case <-closed:
		t.Error("it was closed before all was sent")
	default:
	}
	close(read)
	<-closed
	r.Line("", "too late")
	r.Close()
	if len(got) != layers+1 || got[0] != " Pulling" {
		t.Errorf("%d messages, the first %q", len(got), got[0])
	}
	for i, m := range got[1:] {
		if m != fmt.Sprint(i)+" Waiting" {
			t.Errorf("message %d is %q", i, m)
		}
	}
}

// TestFarBehind: one that never reads does not have the engine remember without end.
func TestFarBehind(t *testing.T) {
	read, told := make(chan struct{}), make(chan int, 3*stuck)
	r := New(func(jsonstream.Message) { <-read })
	go func() {
		for i := range 3 * stuck {
			r.Line("", "line")
			told <- i
		}
		close(told)
	}()
	for range stuck {
		<-told
	}
	r.mu.Lock()
	if n := len(r.waiting); n > stuck {
		t.Errorf("%d lines wait", n)
	}
	r.mu.Unlock()
	close(read)
	for range told {
		continue
	}
	r.Close()
}
