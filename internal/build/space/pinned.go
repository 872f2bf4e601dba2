package space

import (
	"context"
	"sync"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/worker"
	"github.com/opencontainers/go-digest"
)

// pinned are the directories in which operations have looked for what is not
// there. BuildKit's error has one more reference to such a directory for whoever
// would look into it, and nobody gives that back: a context would stay in use,
// be sent anew for the next build, and never go. Release does it for the error
// that a build ends with; other errors of it nobody has seen. So all are given
// back when no build runs, to whom they could belong, some of them once more,
// which changes nothing.
type pinned struct {
	mu   sync.Mutex
	refs map[*worker.WorkerRef]struct{}
}

func (p *pinned) add(res solver.Result) {
	ref, ok := res.Sys().(*worker.WorkerRef)
	if !ok {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refs == nil {
		p.refs = map[*worker.WorkerRef]struct{}{}
	}
	p.refs[ref] = struct{}{}
}

func (p *pinned) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ref := range p.refs {
		ref.Release(context.Background()) //nolint:errcheck // that it was given back already
	}
	p.refs = nil
}

// CacheMap tells what the operation is known by in the cache, and notes where it
// has looked for that in vain.
func (a *again) CacheMap(ctx context.Context, j solver.JobContext, index int) (*solver.CacheMap, bool, error) {
	m, done, err := a.Op.CacheMap(ctx, j, index)
	if m == nil {
		return m, done, err
	}
	for i := range m.Deps {
		find := m.Deps[i].ComputeDigestFunc
		if find == nil {
			continue
		}
		m.Deps[i].ComputeDigestFunc = func(ctx context.Context, res solver.Result, g session.Group) (digest.Digest, error) {
			d, err := find(ctx, res, g)
			if err != nil {
				a.room.pinned.add(res)
			}
			return d, err
		}
	}
	return m, done, err
}
