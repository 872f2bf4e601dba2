package event

import (
	"context"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/filter"
)

func TestHistoryEndsWhereLiveBegins(t *testing.T) {
	b := New()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				b.Container("start", string(rune('a'+i%26)), nil)
			}
			if i > 900 { // fewer than are kept
				return
			}
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	past, live := b.Subscribe(ctx, time.Unix(0, 1), time.Time{}, nil)
	<-done
	close(stop)
	b.Container("die", "last", nil)
	var last int64
	n := 0
	check := func(m events.Message) {
		if m.TimeNano <= last {
			t.Errorf("event at %d after %d", m.TimeNano, last)
		}
		last = m.TimeNano
		n++
	}
	for _, m := range past {
		check(m)
	}
	for m := range live {
		check(m)
		if m.Actor.ID == "last" {
			cancel()
		}
	}
	if n != 903 {
		t.Errorf("%d events, want 903", n)
	}
	if b.Listeners() != 0 {
		t.Errorf("%d listeners left", b.Listeners())
	}
}

func TestUntilInThePast(t *testing.T) {
	b := New()
	b.Container("start", "a", nil)
	past, live := b.Subscribe(context.Background(), time.Unix(1, 0), time.Now(), nil)
	if _, ok := <-live; ok || len(past) != 1 {
		t.Errorf("%d past events, live open: %v", len(past), ok)
	}
}

func TestSlowSubscriberIsCutOff(t *testing.T) {
	b := New()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, live := b.Subscribe(ctx, time.Time{}, time.Time{}, nil)
	for range bufferSize + 1 {
		b.Container("start", "a", nil)
	}
	n := 0
	for range live {
		n++
	}
	if n != bufferSize {
		t.Errorf("%d events before the cut, want %d", n, bufferSize)
	}
}

func TestMatch(t *testing.T) {
	m := events.Message{Type: "container", Action: "exec_start: sh -c true", Scope: "local", Actor: events.Actor{ID: "abcdef", Attributes: map[string]string{
		"name": "web", "image": "debian:12", "tier": "front"}}}
	img := events.Message{Type: "image", Action: "tag", Scope: "local", Actor: events.Actor{ID: "sha256:1", Attributes: map[string]string{"name": "debian:12"}}}
	for _, tt := range []struct {
		m    events.Message
		f    filter.Args
		want bool
	}{
		{m, nil, true},
		{m, filter.Args{"event": {"exec_start"}}, true},
		{m, filter.Args{"event": {"exec"}}, false},
		{m, filter.Args{"container": {"web"}}, true},
		{m, filter.Args{"container": {"abc"}}, true},
		{m, filter.Args{"container": {"db"}}, false},
		{m, filter.Args{"type": {"image"}}, false},
		{m, filter.Args{"image": {"debian"}}, true},
		{m, filter.Args{"image": {"debian:12"}}, true},
		{m, filter.Args{"image": {"debian:11"}}, false},
		{m, filter.Args{"label": {"tier=front"}}, true},
		{m, filter.Args{"label": {"tier=back"}}, false},
		{m, filter.Args{"network": {"web"}}, false},
		{m, filter.Args{"container": {"web"}, "event": {"die"}}, false},
		{img, filter.Args{"image": {"debian"}}, true},
		{img, filter.Args{"image": {"sha256:1"}}, true},
		{img, filter.Args{"container": {"debian"}}, false},
	} {
		if got := Match(tt.f, tt.m); got != tt.want {
			t.Errorf("%v on %s %s: %v", tt.f, tt.m.Type, tt.m.Action, got)
		}
	}
}
