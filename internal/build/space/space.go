// Package space owns the cap of the build cache while builds run: when the
// cache is emptied, and what is done again that had no space left.
package space

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/llbsolver/errdefs"
	"golang.org/x/sys/unix"
)

// Cache is what is kept small.
type Cache struct {
	Root   string                    // a directory of its file system
	Files  []string                  // databases that emptying the cache writes to
	Policy func() []client.PruneInfo // empty: nothing goes by itself
	// Worth gives the rules with which something would go, all of them if the
	// file system is too full.
	Worth func(ctx context.Context, policy []client.PruneInfo, tight bool) ([]client.PruneInfo, error)
	Prune func(ctx context.Context, policy []client.PruneInfo) (records int, bytes uint64, err error)
}

// Room keeps the cache below its cap, also while builds run: before each build
// and each step, after each build, and every other second in between; where the
// file system is nearly full more often.
type Room struct {
	cache Cache
	open  context.Context // ends with Close
	end   context.CancelFunc

	mu     sync.Mutex // held by whoever empties, at times for long
	last   time.Time
	counts sync.Mutex
	held   map[string]int64 // sizes of the files when space was held for them
	builds int
	stop   chan struct{}
	pinned pinned
}

// New makes the room of a cache.
func New(c Cache) *Room {
	r := &Room{cache: c, held: map[string]int64{}}
	r.open, r.end = context.WithCancel(context.Background())
	return r
}

// Close has nothing be removed any more. The cache may be closed then.
func (r *Room) Close() {
	r.end()
	r.mu.Lock() // whoever empties stops with the record that it is at
	defer r.mu.Unlock()
}

// leastHeld is what a database has at least, in bytes.
const leastHeld = 1 << 20

// hold takes space ahead for the databases, which are sparse and grow: on a
// full disk nothing could be removed if its removal cannot be written down. A
// file system that cannot do that is used as it is. counts is locked.
func (r *Room) hold() {
	for _, name := range r.cache.Files {
		st, err := os.Stat(name)
		if err != nil || r.held[name] == st.Size() {
			continue
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			continue
		}
		if unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, max(2*st.Size(), leastHeld)) != unix.ENOSPC {
			r.held[name] = st.Size()
		}
		f.Close()
	}
}

const (
	// between lie two looks at the size of the cache while builds run.
	between = 2 * time.Second
	// often is how far apart they are where there is little space.
	often = 100 * time.Millisecond
)

// Enter notes a build; the function that it returns ends it, with how it went.
// What an earlier build has left does not take its space.
func (r *Room) Enter(ctx context.Context) func(error) {
	tight := r.Tight()
	if tight {
		r.empty(ctx, often)
	}
	r.counts.Lock()
	defer r.counts.Unlock()
	r.hold()
	if r.builds++; r.builds == 1 {
		r.stop = make(chan struct{})
		go r.watch(r.stop)
	}
	return func(err error) {
		r.counts.Lock()
		if r.builds--; r.builds == 0 {
			close(r.stop)
			r.pinned.release()
		}
		r.counts.Unlock()
		if r.Tight() {
			r.restore(err != nil && !tight || lacked(err))
		}
	}
}

// Idle calls f if no build runs; none begins meanwhile.
func (r *Room) Idle(f func()) {
	r.counts.Lock()
	defer r.counts.Unlock()
	if r.builds == 0 {
		f()
	}
}

// lacked tells whether a build failed for want of space; not all of them keep
// the kernel's error on their way through the frontend.
func lacked(err error) bool {
	return err != nil && (errors.Is(err, unix.ENOSPC) || strings.Contains(err.Error(), unix.ENOSPC.Error()))
}

// A build that filled the disk is answered when what it wrote is gone, or after
// this time.
const (
	restoring = time.Second
	pause     = 10 * time.Millisecond
)

// restore empties the cache after a build that left little space. What a failed
// one wrote goes a moment later: its references are given back behind its
// answer, and the file that could not be written stays open, though deleted,
// until the collector of garbage closes it.
func (r *Room) restore(failed bool) {
	r.empty(r.open, 0)
	for end := time.Now().Add(restoring); failed && r.Tight() && time.Now().Before(end); {
		runtime.GC()
		time.Sleep(pause)
		r.empty(r.open, 0)
	}
}

// watch runs while there are builds, and once after the last.
func (r *Room) watch(stop <-chan struct{}) {
	t := time.NewTicker(often)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if r.Tight() {
				r.empty(r.open, often)
			} else {
				r.empty(r.open, between)
			}
		case <-stop:
			// A build that is over lets its records go a little later.
			wait := time.NewTicker(between)
			defer wait.Stop()
			for range 10 {
				if r.empty(r.open, 0) {
					return
				}
				<-wait.C
			}
			return
		}
	}
}

// Before is called by each step that is about to start.
func (r *Room) Before(ctx context.Context) {
	if r.Tight() {
		r.empty(ctx, often)
	} else {
		r.empty(ctx, between/4)
	}
}

// empty empties the cache as the policy says unless that was done a moment ago.
// It reports whether there was nothing to do.
func (r *Room) empty(ctx context.Context, unless time.Duration) bool {
	n, err := r.make(ctx, unless)
	if err != nil && ctx.Err() == nil && r.open.Err() == nil {
		slog.Warn("cannot empty the build cache", "error", err)
	}
	return n < 0
}

// make gives the number of removed records, less than 0 if there was nothing
// to do.
func (r *Room) make(ctx context.Context, unless time.Duration) (int, error) {
	policy := r.cache.Policy()
	if len(policy) == 0 {
		return -1, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open.Err() != nil || unless > 0 && time.Since(r.last) < unless {
		return -1, nil
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(r.open, stop)()
	defer func() { r.last = time.Now() }()
	policy, err := r.cache.Worth(ctx, policy, r.Tight())
	if err != nil {
		return 0, err
	}
	if len(policy) == 0 {
		return -1, nil
	}
	n, bytes, err := r.cache.Prune(ctx, policy)
	if n > 0 {
		slog.Debug("build cache emptied", "records", n, "bytes", bytes)
	}
	return n, err
}

// Tight tells whether the file system has less free than a rule asks for.
func (r *Room) Tight() bool {
	var st unix.Statfs_t
	if unix.Statfs(r.cache.Root, &st) != nil {
		return true
	}
	return slices.ContainsFunc(r.cache.Policy(), func(p client.PruneInfo) bool { return p.MinFreeSpace > int64(st.Bavail)*st.Bsize })
}

// Wrap gives the operation of a vertex: one that had no space left is done once
// more if the cache had something to give. So it is with copies, which begin
// from nothing; a step's program has seen the failure, and what it and sources
// are must stay visible to BuildKit, which tells of them in its provenance.
func (r *Room) Wrap(op solver.Op) solver.Op {
	if _, ok := op.(solver.ProvenanceProvider); ok {
		return op
	}
	return &again{op, r}
}

// Release gives back what a failed operation holds for whoever would look into
// it, or the search for a name in a directory that is not there.
func Release(err error) {
	if held := (*errdefs.ExecError)(nil); errors.As(err, &held) {
		held.Release() //nolint:errcheck // what cannot be given back now is found by the collector of garbage
	}
	// See pinned.
	if held := (*solver.SlowCacheError)(nil); errors.As(err, &held) && held.Result != nil {
		held.Result.Release(context.Background()) //nolint:errcheck // that it was given back already
	}
}

type again struct {
	solver.Op
	room *Room
}

// Exec does the operation.
func (a *again) Exec(ctx context.Context, j solver.JobContext, inputs []solver.Result) ([]solver.Result, error) {
	out, err := a.Op.Exec(ctx, j, inputs)
	if err == nil || !errors.Is(err, unix.ENOSPC) || ctx.Err() != nil {
		return out, err
	}
	if n, perr := a.room.make(ctx, 0); perr != nil || n <= 0 {
		return out, err
	}
	Release(err)
	return a.Op.Exec(ctx, j, inputs)
}
