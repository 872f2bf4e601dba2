package build

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// written is a writer that counts, and fails at one of its writes.
type written struct {
	text   strings.Builder
	writes int
	fails  int // at which, 0 for none
	done   chan struct{}
}

var errFull = errors.New("no space left")

func (w *written) Write(p []byte) (int, error) {
	if w.writes++; w.writes == w.fails {
		return 0, errFull
	}
	n, err := w.text.Write(p)
	if w.done != nil && strings.HasSuffix(w.text.String(), "end\n") {
		close(w.done)
	}
	return n, err
}

func TestGather(t *testing.T) {
	to := &written{}
	g := &gather{w: to}
	var want strings.Builder
	for n := range 10_000 {
		fmt.Fprintln(g, "line", n)
		fmt.Fprintln(&want, "line", n)
	}
	g.flush()
	g.flush()
	if to.text.String() != want.String() {
		t.Error("it is another text")
	}
	if to.writes > 1000 {
		t.Errorf("%d writes of %d lines", to.writes, 10_000)
	}
}

// TestGatherWaits has nothing wait for what may never come.
func TestGatherWaits(t *testing.T) {
	to := &written{done: make(chan struct{})}
	fmt.Fprintln(&gather{w: to}, "the end")
	<-to.done
}

func TestGatherFails(t *testing.T) {
	g := &gather{w: &written{fails: 1}}
	fmt.Fprintln(g, "one")
	g.flush()
	if _, err := fmt.Fprintln(g, "two"); !errors.Is(err, errFull) {
		t.Error(err)
	}
}
