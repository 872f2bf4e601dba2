package turns

import (
	"context"
	"errors"
	"testing"
)

// TestKeyed: who comes second waits, and is told; who goes away while he waits
// leaves the turn to others, and nothing is kept of keys that nobody wants.
func TestKeyed(t *testing.T) {
	var k Keyed
	leave, err := k.Enter(t.Context(), "a", func() { t.Error("the first waits") })
	if err != nil {
		t.Fatal(err)
	}
	other, err := k.Enter(t.Context(), "b", func() { t.Error("another key waits") })
	if err != nil {
		t.Fatal(err)
	}
	other()
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	if _, err := k.Enter(ctx, "a", func() { cancel(why) }); !errors.Is(err, why) {
		t.Error(err)
	}
	waits, in := make(chan struct{}), make(chan error)
	go func() {
		second, err := k.Enter(t.Context(), "a", func() { close(waits) })
		if err == nil {
			second()
		}
		in <- err
	}()
	<-waits
	select {
	case <-in:
		t.Error("two have one turn")
	default:
	}
	leave()
	if err := <-in; err != nil {
		t.Error(err)
	}
	if len(k.m) > 0 {
		t.Errorf("%d keys are kept", len(k.m))
	}
}

func TestPlaces(t *testing.T) {
	p := make(Places, 2)
	for range 2 {
		if _, err := p.Enter(t.Context(), func() { t.Error("there is a place") }); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := p.Enter(ctx, cancel); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
