package buildcontext

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/contenthash"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/source"

	"github.com/wherry-engine/wherry/internal/archive"
)

// Posted is the name of the directory that a session has which brings its
// files in an archive.
const Posted = "context"

// Offer has a session's directory Posted be what the archive in body contains,
// plain or compressed. It is read once, with the first use, straight into the
// cache. Of what an earlier archive with the same key brought only what differs
// is written. A session has one at a time.
func (d *Directories) Offer(session, key string, body io.Reader) (withdraw func(), err error) {
	p := &posted{all: d, key: Posted + ":posted:" + key, body: body}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.posted[session] != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage("the session " + session + " has a build that brought a context already: take another session for this one")
	}
	d.posted[session] = p
	return func() {
		d.mu.Lock()
		delete(d.posted, session)
		d.mu.Unlock()
		p.drop()
	}, nil
}

func (d *Directories) postedBy(session string) *posted {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.posted[session]
}

// posted is an archive that came with a request.
type posted struct {
	all  *Directories
	key  string
	body io.Reader

	mu  sync.Mutex
	ref cache.ImmutableRef // once it was read
	err error
}

// unpacked is a posted archive as a source of builds.
type unpacked struct {
	source.SourceInstance
	*posted
}

// Snapshot gives the directory.
func (u unpacked) Snapshot(ctx context.Context, _ solver.JobContext) (cache.ImmutableRef, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ref == nil && u.err == nil {
		u.ref, u.err = u.read(ctx)
	}
	if u.err != nil {
		return nil, u.err
	}
	return u.ref.Clone(), nil
}

var errWithdrawn = errors.New("the build that brought this context is over")

func (p *posted) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ref != nil {
		if err := p.ref.Release(context.Background()); err != nil {
			slog.Warn("a build context cannot be released", "error", err)
		}
	}
	p.ref, p.err = nil, errWithdrawn
}

func (p *posted) read(ctx context.Context) (cache.ImmutableRef, error) {
	return p.all.renew(ctx, p.key, Posted, func(dir string, hashes contenthash.CacheContext, changing func() error) (bool, error) {
		ctx, stop := context.WithCancelCause(ctx)
		defer stop(nil)
		body := newAhead(ctx, p.body)
		plain, _, err := archive.Decompress(body)
		if err != nil {
			return false, err
		}
		defer plain.Close()
		u := &unpacker{hashes: hashes, changing: changing, stop: stop}
		if err := u.unpack(ctx, plain, dir); err != nil {
			return false, err
		}
		_, err = io.Copy(io.Discard, body) // what is behind the archive's end
		return !u.again, err
	})
}
