package build

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/build/linked"
	"github.com/wherry-engine/wherry/internal/build/space"
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
	// Records of builds that are older go when there are more. Nil is no bound, if
	// not both are, which is BuildKit's own; no entries at all is no history.
	HistoryAge     *time.Duration
	HistoryEntries *int64
}

// records gives BuildKit's words for what stays of the history, nil for its own.
func (l Limits) records() *config.HistoryConfig {
	if l.HistoryAge == nil && l.HistoryEntries == nil {
		return nil
	}
	c := config.HistoryConfig{MaxEntries: l.HistoryEntries}
	if l.HistoryAge != nil {
		c.MaxAge.Duration = *l.HistoryAge
	}
	return &c
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

// room is what keeps the cache below its cap.
func (e *engine) newRoom() *space.Room {
	root := e.b.cfg.Root
	files := []string{filepath.Join(root, "meta.db"), filepath.Join(root, "layers", "metadata.db")}
	for _, name := range []string{"metadata_v2.db", "cache.db", "history.db", "history-meta.db"} {
		files = append(files, filepath.Join(root, "build", name))
	}
	return space.New(space.Cache{
		Root: root, Files: files, Policy: func() []client.PruneInfo { return e.worker.GCPolicy() }, Worth: e.worth,
		Prune: func(ctx context.Context, policy []client.PruneInfo) (int, uint64, error) {
			report, err := e.prune(ctx, policy...)
			return len(report.CachesDeleted), report.SpaceReclaimed, err
		},
	})
}

// worth gives the rules with which something would go: what images have, too,
// is no part of the cap, and what several records have is one's.
func (e *engine) worth(ctx context.Context, policy []client.PruneInfo, tight bool) ([]client.PruneInfo, error) {
	list, err := e.worker.DiskUsage(ctx, client.DiskUsageInfo{})
	if err != nil {
		return nil, err
	}
	var total int64
	for _, u := range list {
		total += max(u.Size, 0)
	}
	bound, capped := true, false
	for _, p := range policy {
		bound = bound && p.MaxUsedSpace > 0 && p.MaxUsedSpace >= total
		capped = capped || len(p.Filter) == 0 && p.MaxUsedSpace > 0 && p.MaxUsedSpace < total
	}
	switch {
	case bound && !tight:
		return nil, nil
	case !capped:
		return policy, nil
	}
	return e.raised(ctx, policy)
}

// raised gives rules for the whole cache in BuildKit's measure, in which what
// images have, too, and what several records have, is a part of the cache's size.
func (e *engine) raised(ctx context.Context, policy []client.PruneInfo) ([]client.PruneInfo, error) {
	if !slices.ContainsFunc(policy, func(p client.PruneInfo) bool { return p.MaxUsedSpace > 0 && len(p.Filter) == 0 }) {
		return policy, nil
	}
	list, err := e.records(ctx)
	if err != nil {
		return nil, err
	}
	account, err := e.common(ctx, list)
	if err != nil {
		return nil, err
	}
	extra := uncounted(list, account)
	out := slices.Clone(policy)
	for i := range out {
		if out[i].MaxUsedSpace > 0 && len(out[i].Filter) == 0 {
			out[i].MaxUsedSpace += extra
		}
	}
	return out, nil
}

// uncounted sums what of BuildKit's sizes is no part of the cache's.
func uncounted(list []*client.UsageInfo, account *linked.Account) (bytes int64) {
	twice := account.Twice()
	for _, u := range list {
		if u.Shared {
			bytes += max(u.Size, 0)
		} else {
			bytes += twice[u.ID]
		}
	}
	return bytes
}

// Prune empties the cache for BuildKit's clients, and by its own collector.
func (w *ownWorker) Prune(ctx context.Context, removed chan client.UsageInfo, policy ...client.PruneInfo) error {
	released(ctx, w.engine)
	policy, err := w.engine.raised(ctx, policy)
	if err != nil {
		return err
	}
	return w.Worker.Prune(ctx, removed, policy...)
}
