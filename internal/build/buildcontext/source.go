// Package buildcontext owns the way of build contexts and other directories of
// the client's into the cache: BuildKit's protocol (fsutil's), spoken by any of
// its clients, of which a directory that was sent before only what changed
// travels, and the archives that clients of the classic API post.
//
// A file is written once, when all of it is there, by name within its open
// directory. Files that are there are never written to: layers may have links
// to them (see fileop). While a tree is being changed the record has no name,
// so that a kill leaves nothing that a later build would take for whole.
package buildcontext

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/contenthash"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/source"
	"github.com/moby/buildkit/source/local"
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto" // names need not be UTF-8, buffers are used again
	"github.com/moby/buildkit/util/progress"
	"github.com/tonistiigi/fsutil"

	"github.com/wherry-engine/wherry/internal/build/lending"
	_ "github.com/wherry-engine/wherry/internal/grpcbuffers" // for files
)

// Directories are those of clients, as a source of builds.
type Directories struct {
	source.Source
	cache   cache.Accessor
	desk    *lending.Desk
	collect func()
	settle  func(context.Context) error

	mu     sync.Mutex
	posted map[string]*posted  // by session
	asked  map[string]*request // by session; see askAhead
}

// New makes the source of directories of clients, which may lend it files at the desk. It calls collect when files
// have become garbage, and settle to wait for builds that were answered and
// still hold a directory.
func New(c cache.Accessor, desk *lending.Desk, collect func(), settle func(context.Context) error) (*Directories, error) {
	kit, err := local.NewSource(local.Opt{CacheAccessor: c})
	if err != nil {
		return nil, err
	}
	return &Directories{Source: kit, cache: c, desk: desk, collect: collect, settle: settle, posted: map[string]*posted{}, asked: map[string]*request{}}, nil
}

// Resolve gives one directory. Requests for names of files alone are BuildKit's.
func (d *Directories) Resolve(ctx context.Context, id source.Identifier, sm *session.Manager, v solver.Vertex) (source.SourceInstance, error) {
	kit, err := d.Source.Resolve(ctx, id, sm, v)
	if err != nil {
		return nil, err
	}
	dir, ok := id.(*local.LocalIdentifier)
	if ok && dir.Name == Posted {
		if p := d.postedBy(dir.SessionID); p != nil {
			return unpacked{kit, p}, nil
		}
	}
	if !ok || dir.MetadataOnly {
		return settled{kit, d.settle}, nil
	}
	return &instance{kit, d, *dir, sm}, nil
}

// settled is BuildKit's, which takes a new record where the one that it knows is
// still held by a build that was answered.
type settled struct {
	source.SourceInstance
	settle func(context.Context) error
}

// Snapshot fetches the files.
func (s settled) Snapshot(ctx context.Context, job solver.JobContext) (cache.ImmutableRef, error) {
	if err := s.settle(ctx); err != nil {
		return nil, err
	}
	return s.SourceInstance.Snapshot(ctx, job)
}

type instance struct {
	source.SourceInstance
	all      *Directories
	dir      local.LocalIdentifier
	sessions *session.Manager
}

// patience is how long a session may take to appear.
const patience = 5 * time.Second

// Snapshot fetches the directory from the client that the build names, or from
// another of its clients.
func (i *instance) Snapshot(ctx context.Context, job solver.JobContext) (cache.ImmutableRef, error) {
	if i.dir.SessionID != "" {
		wait, cancel := context.WithTimeout(ctx, patience)
		caller, err := i.sessions.Get(wait, i.dir.SessionID, false)
		cancel()
		if err == nil {
			ref, err := i.fetch(ctx, caller)
			if invalid := (filesync.InvalidSessionError{}); err == nil || !errors.As(err, &invalid) {
				return ref, err
			}
		}
	}
	var ref cache.ImmutableRef
	err := i.sessions.Any(ctx, job.Session(), func(ctx context.Context, _ string, caller session.Caller) (err error) {
		ref, err = i.fetch(ctx, caller)
		return err
	})
	return ref, err
}

func (i *instance) fetch(ctx context.Context, caller session.Caller) (cache.ImmutableRef, error) {
	r := &receiver{progress: report(ctx, "transferring "+i.dir.Name+":")}
	if lending.Lends(caller) {
		r.loans = &loans{dir: i.dir.Name, open: func(ctx context.Context) (*lending.Borrower, error) { return i.all.desk.Open(ctx, caller) }}
	}
	return i.all.renew(ctx, i.dir.Name+":"+i.dir.SharedKeyHint+":"+caller.SharedKey(), i.dir.Name,
		func(dir string, hashes contenthash.CacheContext, changing func() error) (bool, error) {
			r.hashes, r.changing = hashes, changing
			return true, i.receive(ctx, caller, dir, r)
		})
}

// receive asks the client for the directory.
func (i *instance) receive(ctx context.Context, caller session.Caller, dir string, r *receiver) error {
	r.every = i.dir.Differ == fsutil.DiffNone
	q := i.all.askedFor(i.dir)
	if q == nil {
		var err error
		if q, err = ask(ctx, caller, i.dir); err != nil {
			return err
		}
	}
	defer q.end(errEnded)
	defer context.AfterFunc(ctx, func() { q.end(context.Cause(ctx)) })()
	i.all.askAhead(ctx, caller, i.dir)
	r.abort = q.end
	if err := r.run(q.ctx, q.stream, dir); err != nil {
		return err
	}
	return q.stream.CloseSend()
}

// between lie two reports of how much has come.
const between = 100 * time.Millisecond

// report tells the client how much has come.
func report(ctx context.Context, id string) func(bytes int, last bool) {
	w, _, _ := progress.NewFromContext(ctx)
	started := time.Now() // st's, and whoever is told
	said := started
	st := progress.Status{Started: &started, Action: "transferring"}
	w.Write(id, st) //nolint:errcheck // nobody looks
	return func(bytes int, last bool) {
		t := time.Now()
		if !last && t.Sub(said) < between {
			return
		}
		said, st.Current = t, bytes
		if last {
			st.Completed = &t
		}
		w.Write(id, st) //nolint:errcheck // nobody looks
		if last {
			w.Close() //nolint:errcheck // see above
		}
	}
}

func outOfOrder(format string, args ...any) error {
	return fmt.Errorf("unexpected message of the client: "+format, args...)
}
