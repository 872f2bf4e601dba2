// Package event owns the engine's ordered event bus.
//
// Guarantees: every subscriber sees the events in the order in which they were
// published, none twice; the history handed out by Subscribe ends exactly where
// its live channel begins. The bus keeps the newest events in memory only, like
// dockerd's. A subscriber that does not read falls behind by at most its buffer
// and is then cut off (its channel is closed) instead of slowing the engine.
package event

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/filter"
)

const (
	historySize = 1024 // events kept for `since`
	bufferSize  = 4096 // events a live subscriber may lag behind
)

// Keys are the filters that Subscribe understands.
var Keys = []string{"config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "secret", "service", "type", "volume"}

// Bus distributes events. Use New.
type Bus struct {
	mu      sync.Mutex
	history []events.Message
	subs    map[*subscriber]struct{}
	last    int64 // TimeNano of the newest event; times strictly increase
}

type subscriber struct {
	match filter.Args
	ch    chan events.Message
}

// New returns an empty bus.
func New() *Bus { return &Bus{subs: map[*subscriber]struct{}{}} }

// Publish stamps the message with the time, when it has none, and hands it to
// every subscriber. It never blocks.
func (b *Bus) Publish(m events.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.TimeNano == 0 {
		m.TimeNano = max(time.Now().UnixNano(), b.last+1)
		m.Time = m.TimeNano / int64(time.Second)
	}
	b.last = max(b.last, m.TimeNano)
	if m.Scope == "" {
		m.Scope = "local"
	}
	if len(b.history) == 2*historySize {
		b.history = slices.Clone(b.history[historySize:])
	}
	b.history = append(b.history, m)
	for s := range b.subs {
		if !Match(s.match, m) {
			continue
		}
		select {
		case s.ch <- m:
		default:
			close(s.ch)
			delete(b.subs, s)
		}
	}
}

// Container publishes an event of a container with its labels as attributes.
func (b *Bus) Container(action events.Action, id string, attributes map[string]string) {
	b.Publish(events.Message{Type: events.ContainerEventType, Action: action, Actor: events.Actor{ID: id, Attributes: attributes}})
}

// Subscribe returns the kept events from since to until (a zero time is no
// bound; without since there is no history) that match, and a channel of those
// to come. The channel is closed when ctx ends, when until has passed, or when
// the subscriber fell too far behind.
func (b *Bus) Subscribe(ctx context.Context, since, until time.Time, match filter.Args) ([]events.Message, <-chan events.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var past []events.Message
	if !since.IsZero() {
		for _, m := range b.history {
			t := time.Unix(0, m.TimeNano)
			if t.Before(since) || !until.IsZero() && t.After(until) || !Match(match, m) {
				continue
			}
			past = append(past, m)
		}
	}
	s := &subscriber{match, make(chan events.Message, bufferSize)}
	if !until.IsZero() && !until.After(time.Now()) {
		close(s.ch)
		return past, s.ch
	}
	b.subs[s] = struct{}{}
	go func() {
		if !until.IsZero() {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, until)
			defer cancel()
		}
		<-ctx.Done()
		b.mu.Lock()
		defer b.mu.Unlock()
		if _, ok := b.subs[s]; ok {
			delete(b.subs, s)
			close(s.ch)
		}
	}()
	return past, s.ch
}

// Listeners counts the live subscribers.
func (b *Bus) Listeners() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.subs)
}

// Match reports whether a message passes the filters of `events`.
func Match(a filter.Args, m events.Message) bool {
	if len(a) == 0 {
		return true
	}
	actor := func(key string, typ events.Type) bool {
		return !a.Has(key) || m.Type == typ &&
			(a.Prefix(key, m.Actor.ID) || a.Prefix(key, m.Actor.Attributes["name"]))
	}
	return matchAction(a, m) && a.Exact("type", string(m.Type)) && a.Exact("scope", m.Scope) &&
		actor("container", events.ContainerEventType) && actor("daemon", events.DaemonEventType) &&
		actor("plugin", events.PluginEventType) && actor("volume", events.VolumeEventType) &&
		actor("network", events.NetworkEventType) && actor("node", events.NodeEventType) &&
		actor("service", events.ServiceEventType) && actor("secret", events.SecretEventType) &&
		actor("config", events.ConfigEventType) && matchImage(a, m) && a.Labels("label", m.Actor.Attributes)
}

// matchAction also takes the word in front of the colon of actions that carry
// a command or a state behind it ("exec_create: sh", "health_status: healthy").
func matchAction(a filter.Args, m events.Message) bool {
	if a.Exact("event", string(m.Action)) {
		return true
	}
	word, _, ok := strings.Cut(string(m.Action), ":")
	return ok && a.Exact("event", word)
}

// matchImage takes an image by id or name, with or without its tag, and also
// the events of containers made from it.
func matchImage(a filter.Args, m events.Message) bool {
	if !a.Has("image") {
		return true
	}
	name := m.Actor.Attributes["name"]
	if m.Type != events.ImageEventType {
		name = m.Actor.Attributes["image"]
	} else if a.Exact("image", m.Actor.ID) {
		return true
	}
	return name != "" && (a.Exact("image", name) || a.Exact("image", untagged(name)))
}

func untagged(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarName(ref)
}
