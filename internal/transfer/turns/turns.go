// Package turns owns who waits for whom when transfers want the same: a place
// among those that go on at a time, or to send a blob that another is sending.
package turns

import (
	"context"
	"sync"
)

// Places are for as many at a time as the channel holds.
type Places chan struct{}

// Enter takes a place; waits, unless nil, is called before it has to wait for
// one. The place is another's after leave. The error is the context's cause.
func (p Places) Enter(ctx context.Context, waits func()) (leave func(), err error) {
	select {
	case p <- struct{}{}:
		return func() { <-p }, nil
	default:
	}
	if waits != nil {
		waits()
	}
	select {
	case p <- struct{}{}:
		return func() { <-p }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Keyed lets one at a time do what has a key. It is safe for use by several
// goroutines.
type Keyed struct {
	mu sync.Mutex
	m  map[string]*door
}

// door is for one; it is there while somebody is inside or before it.
type door struct {
	Places
	wanted int
}

// Enter is as that of Places with one place for each key.
func (k *Keyed) Enter(ctx context.Context, key string, waits func()) (leave func(), err error) {
	k.mu.Lock()
	d := k.m[key]
	if d == nil {
		d = &door{Places: make(Places, 1)}
		if k.m == nil {
			k.m = map[string]*door{}
		}
		k.m[key] = d
	}
	d.wanted++
	k.mu.Unlock()
	gone := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if d.wanted--; d.wanted == 0 {
			delete(k.m, key)
		}
	}
	out, err := d.Places.Enter(ctx, waits)
	if err != nil {
		gone()
		return nil, err
	}
	return func() {
		out()
		gone()
	}, nil
}
