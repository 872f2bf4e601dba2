package executor

import (
	"context"

	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
)

// Cancellable are the records of the cache for steps: what a step has written
// does not become a result once its build is cancelled. BuildKit drops such a
// result without giving it back, and nothing would remove its files.
func Cancellable(m cache.Manager) cache.Manager { return cancellable{m} }

type cancellable struct{ cache.Manager }

// New makes a record that is written to.
func (c cancellable) New(ctx context.Context, parent cache.ImmutableRef, s session.Group, opts ...cache.RefOption) (cache.MutableRef, error) {
	ref, err := c.Manager.New(ctx, parent, s, opts...)
	if err != nil {
		return nil, err
	}
	return written{ref}, nil
}

type written struct{ cache.MutableRef }

// Commit ends the writing.
func (w written) Commit(ctx context.Context) (cache.ImmutableRef, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return w.MutableRef.Commit(ctx)
}
