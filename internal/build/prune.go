package build

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/imageutil"
	apibuild "github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sync/errgroup"

	"github.com/wherry-engine/wherry/internal/build/request"
	"github.com/wherry-engine/wherry/internal/filter"
)

// Reduce removes records of the cache that no build uses.
func (b *Builder) Reduce(ctx context.Context, p request.Prune) (*apibuild.CachePruneReport, error) {
	info, err := pruneInfo(p)
	if err != nil {
		return nil, err
	}
	if p.Filters.Has("label") {
		// A record of the cache has no labels, so none has this one. `system prune`
		// gives its filter to everything that it prunes.
		return &apibuild.CachePruneReport{CachesDeleted: []string{}}, nil
	}
	e, err := b.settled(ctx)
	if err != nil {
		return nil, err
	}
	// BuildKit holds base images for some minutes after a build, for the next.
	e.room.Idle(imageutil.CancelCacheLeases)
	released(ctx, e)
	list, err := e.records(ctx)
	if err != nil {
		return nil, err
	}
	if !info.All && len(info.Filter) == 0 {
		// What an image has, too, does not go with the record: nothing is won.
		for _, r := range list {
			if !r.Shared {
				info.Filter = append(info.Filter, "id=="+r.ID)
			}
		}
		if len(info.Filter) == 0 {
			report := &apibuild.CachePruneReport{CachesDeleted: []string{}}
			b.pruned(report)
			return report, nil
		}
	}
	common, err := e.common(ctx, list)
	if err != nil {
		return nil, err
	}
	if info.MaxUsedSpace > 0 {
		info.MaxUsedSpace += uncounted(list, common)
	}
	report, err := e.prune(ctx, info)
	if err == nil {
		gone := map[string]bool{}
		for _, id := range report.CachesDeleted {
			gone[id] = true
		}
		report.SpaceReclaimed -= min(report.SpaceReclaimed, uint64(common.Over(gone)))
		err = b.cfg.Images.Collect(ctx)
	}
	if err == nil {
		b.pruned(report)
	}
	return report, err
}

// BuildKit gives the references of a build back behind its end and tells nobody.
// That is looked at so often, for so long.
const (
	releasing = time.Millisecond
	patient   = 100 * time.Millisecond
)

// released waits until no record is in use, unless builds run.
func released(ctx context.Context, e *engine) {
	used := func() (some bool) {
		e.room.Idle(func() {
			list, err := e.worker.DiskUsage(ctx, client.DiskUsageInfo{})
			some = err == nil && slices.ContainsFunc(list, func(u *client.UsageInfo) bool { return u.InUse })
		})
		return some
	}
	for end := time.Now().Add(patient); used() && time.Now().Before(end) && ctx.Err() == nil; {
		time.Sleep(releasing)
	}
}

// pruned tells of it, also if nothing went.
func (b *Builder) pruned(report *apibuild.CachePruneReport) {
	if b.cfg.Events != nil {
		b.cfg.Events(events.Message{Type: events.BuilderEventType, Action: events.ActionPrune, Actor: events.Actor{Attributes: map[string]string{
			"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10),
		}}})
	}
}

func (e *engine) prune(ctx context.Context, info ...client.PruneInfo) (*apibuild.CachePruneReport, error) {
	report := &apibuild.CachePruneReport{CachesDeleted: []string{}}
	removed := make(chan client.UsageInfo)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(removed)
		return e.worker.Prune(ctx, removed, info...)
	})
	for r := range removed {
		report.CachesDeleted = append(report.CachesDeleted, r.ID)
		report.SpaceReclaimed += uint64(max(r.Size, 0))
	}
	err := g.Wait()
	if err == nil && len(report.CachesDeleted) > 0 {
		// The layers are gone; what the graph says of them is of no use.
		err = e.results.ReleaseUnreferenced(ctx)
	}
	return report, err
}

// pruneKeys are the filters of /build/prune, and what BuildKit calls them.
var pruneKeys = map[string]string{
	"id": "id", "parent": "parents", "type": "type", "description": "description", "inuse": "inuse", "shared": "shared", "private": "private",
	"mutable": "mutable", "immutable": "immutable", "until": "", "unused-for": "", "label": "", "label!": "",
}

// pruneInfo turns the API's words into BuildKit's.
func pruneInfo(p request.Prune) (client.PruneInfo, error) {
	info := client.PruneInfo{All: p.All, ReservedSpace: p.Reserved, MaxUsedSpace: p.MaxUsed, MinFreeSpace: p.MinFree}
	var known []string
	for k := range pruneKeys {
		known = append(known, k)
	}
	slices.Sort(known)
	if err := p.Filters.Validate(known...); err != nil {
		return info, err
	}
	for _, key := range []string{"until", "unused-for"} {
		if !p.Filters.Has(key) {
			continue
		}
		if len(p.Filters[key]) > 1 {
			return info, errdefs.ErrInvalidArgument.WithMessage("filters expect only one value")
		}
		until, err := filter.Args{"until": p.Filters[key]}.Until(p.Now)
		if err != nil {
			return info, err
		}
		info.KeepDuration = p.Now.Sub(until)
	}
	for _, key := range known {
		name := pruneKeys[key]
		if name == "" {
			continue
		}
		for _, value := range p.Filters[key] {
			switch key {
			case "inuse", "shared", "private", "mutable", "immutable":
				switch strings.ToLower(value) {
				case "true", "1", "":
					info.Filter = append(info.Filter, name)
				case "false", "0":
					info.Filter = append(info.Filter, name+"==false")
				default:
					return info, errdefs.ErrInvalidArgument.WithMessage("invalid filter '" + key + "=" + value + "'")
				}
			default:
				info.Filter = append(info.Filter, name+"=="+value)
			}
		}
	}
	if len(info.Filter) > 1 {
		info.Filter = []string{strings.Join(info.Filter, ",")}
	}
	return info, nil
}
