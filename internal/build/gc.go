package build

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"golang.org/x/sys/unix"
)

// Rule says what of the cache may go when it is too large: what Filters match
// and has not been used for Keep, least recently used first, until the cache is
// below MaxUsed and the file system has MinFree; Reserved stays in any case.
// Sizes are in bytes, 0 says nothing.
type Rule struct {
	All                        bool // also what the frontend keeps for itself
	Filters                    []string
	Keep                       time.Duration
	Reserved, MaxUsed, MinFree int64
}

// Limits bound the cache. With Rules the other sizes are not looked at.
type Limits struct {
	Off                        bool // nothing goes by itself
	Reserved, MaxUsed, MinFree int64
	Rules                      []Rule
}

// The default cap is a tenth of the file system, within these bounds.
const (
	leastCap = 2 << 30
	mostCap  = 50 << 30
)

const day = 24 * time.Hour

// policy is the order in which the cache is emptied: what is cheap to have
// again first.
func (l Limits) policy(root string) []client.PruneInfo {
	if l.Off {
		return nil
	}
	var out []client.PruneInfo
	for _, r := range l.Rules {
		out = append(out, client.PruneInfo{
			All: r.All, Filter: r.Filters, KeepDuration: r.Keep, ReservedSpace: r.Reserved, MaxUsedSpace: r.MaxUsed, MinFreeSpace: r.MinFree,
		})
	}
	if len(out) > 0 {
		return out
	}
	most, free := l.MaxUsed, l.MinFree
	if st := (unix.Statfs_t{}); unix.Statfs(root, &st) == nil {
		disk := int64(st.Blocks) * st.Bsize
		if most == 0 {
			most = min(max(disk/10, leastCap), mostCap, max(disk/2, 1))
		}
		if free == 0 {
			free = disk / 20
		}
	}
	one := client.PruneInfo{ReservedSpace: l.Reserved, MaxUsedSpace: most, MinFreeSpace: free}
	sources, old, all := one, one, one
	sources.Filter = []string{"type==source.local,type==exec.cachemount,type==source.git.checkout"}
	sources.KeepDuration, sources.MaxUsedSpace = 2*day, min(512<<20, most)
	old.KeepDuration = 60 * day
	all.All = true
	return []client.PruneInfo{sources, old, one, all}
}

// Two looks at the size of the cache lie so far apart while builds run.
const between = 2 * time.Second

// room keeps the cache below its cap, also while builds run: before each step,
// after each build and every other second in between.
type room struct {
	e *engine

	mu     sync.Mutex // held by whoever empties
	last   time.Time
	counts sync.Mutex
	builds int
	stop   chan struct{}
}

// enter notes a build; the function that it returns ends it.
func (r *room) enter() func() {
	r.counts.Lock()
	defer r.counts.Unlock()
	if r.builds++; r.builds == 1 {
		r.stop = make(chan struct{})
		go r.watch(r.stop)
	}
	return func() {
		r.counts.Lock()
		if r.builds--; r.builds == 0 {
			close(r.stop)
		}
		r.counts.Unlock()
	}
}

// watch runs while there are builds, and once after the last.
func (r *room) watch(stop <-chan struct{}) {
	t := time.NewTicker(between)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			r.make(context.Background(), between/2)
		case <-stop:
			// A build that is over lets its records go a little later.
			for range 10 {
				if r.make(context.Background(), 0) {
					return
				}
				<-t.C
			}
			return
		}
	}
}

// make empties the cache as the policy says unless that was done a moment ago.
// It reports whether there was nothing to do.
func (r *room) make(ctx context.Context, unless time.Duration) bool {
	policy := r.e.worker.GCPolicy()
	if len(policy) == 0 {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if unless > 0 && time.Since(r.last) < unless {
		return true
	}
	policy, err := r.worth(ctx, policy)
	if err != nil || len(policy) == 0 {
		r.last = time.Now()
		return err == nil
	}
	report, err := r.e.prune(ctx, policy...)
	r.last = time.Now()
	if err != nil && ctx.Err() == nil {
		slog.Warn("cannot empty the build cache", "error", err)
		return false
	}
	if n := len(report.CachesDeleted); n > 0 {
		slog.Debug("build cache emptied", "records", n, "bytes", report.SpaceReclaimed)
	}
	return false
}

// worth gives the rules with which something would go: what images have, too,
// is no part of the cap.
func (r *room) worth(ctx context.Context, policy []client.PruneInfo) ([]client.PruneInfo, error) {
	list, err := r.e.worker.DiskUsage(ctx, client.DiskUsageInfo{})
	if err != nil {
		return nil, err
	}
	var total int64
	for _, u := range list {
		total += max(u.Size, 0)
	}
	bound := true
	for _, p := range policy {
		bound = bound && p.MaxUsedSpace > 0 && p.MaxUsedSpace >= total
	}
	if bound && !r.tight(policy) {
		return nil, nil
	}
	if list, err = r.e.records(ctx); err != nil {
		return nil, err
	}
	var common int64
	for _, u := range list {
		if u.Shared {
			common += max(u.Size, 0)
		}
	}
	out := slices.Clone(policy)
	for i := range out {
		if out[i].MaxUsedSpace > 0 && len(out[i].Filter) == 0 {
			out[i].MaxUsedSpace += common
		}
	}
	return out, nil
}

// tight tells whether the file system has less free than a rule asks for.
func (r *room) tight(policy []client.PruneInfo) bool {
	var st unix.Statfs_t
	if unix.Statfs(r.e.b.cfg.Root, &st) != nil {
		return true
	}
	return slices.ContainsFunc(policy, func(p client.PruneInfo) bool { return p.MinFreeSpace > int64(st.Bavail)*st.Bsize })
}

// before is called by each step that is about to start.
func (r *room) before(ctx context.Context) { r.make(ctx, between/4) }
