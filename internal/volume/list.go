package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"

	"github.com/wherry-engine/wherry/internal/filter"
)

// api is the volume as the Engine API shows it.
func (v *Volume) api() volume.Volume {
	out := volume.Volume{
		CreatedAt: v.Created.Format(time.RFC3339), Driver: v.Driver, Mountpoint: v.Path(), Name: v.Name, Scope: "local",
	}
	if len(v.Labels) > 0 {
		out.Labels = maps.Clone(v.Labels)
	}
	if len(v.Options) > 0 {
		out.Options = maps.Clone(v.Options)
	}
	return out
}

// Inspect describes one volume.
func (s *Store) Inspect(ctx context.Context, name string) (*volume.Volume, error) {
	v, err := s.Get(name)
	if err != nil {
		all, _, _ := plugged(s).list(ctx) // one that its driver has and no container had yet
		if out, ok := all[name]; ok {
			return &out, nil
		}
		return nil, err
	}
	out, err := plugged(s).describe(ctx, v)
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// New is Create as the API has it.
func (s *Store) New(ctx context.Context, r volume.CreateRequest) (*volume.Volume, error) {
	if r.ClusterVolumeSpec != nil {
		return nil, errdefs.ErrUnavailable.WithMessage(`This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`)
	}
	v, err := s.Create(ctx, Request{Name: r.Name, Driver: r.Driver, Options: r.DriverOpts, Labels: r.Labels})
	if err != nil {
		return nil, err
	}
	out, err := plugged(s).describe(ctx, v)
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// Delete is Remove as the API has it: with force, a volume that does not exist
// is no error.
func (s *Store) Delete(ctx context.Context, name string, force bool) error {
	v, err := s.Get(name)
	switch {
	case err != nil:
		if all, _, _ := plugged(s).list(ctx); all[name].Driver != "" {
			if v, err = s.Create(ctx, Request{Name: name, Driver: all[name].Driver}); err == nil {
				err = plugged(s).remove(ctx, v, force)
			}
		}
	case v.remote():
		err = plugged(s).remove(ctx, v, force)
	default:
		err = s.Remove(name)
	}
	if force && errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// List gives the volumes that match (dangling, driver, label, name), by name,
// and says which drivers did not answer.
func (s *Store) List(ctx context.Context, f filter.Args) (volume.ListResponse, error) {
	out := volume.ListResponse{Volumes: []volume.Volume{}}
	if err := f.Validate("dangling", "driver", "label", "name"); err != nil {
		return out, err
	}
	dangling, err := f.Bool("dangling", false)
	if err != nil {
		return out, err
	}
	theirs, silent, warnings := plugged(s).list(ctx)
	out.Warnings = warnings
	match := func(v *Volume, users int) bool {
		return (!f.Has("dangling") || dangling == (users == 0)) && f.Exact("driver", v.Driver) && f.Labels("label", v.Labels) && f.Match("name", v.Name)
	}
	for _, v := range s.find(func(v *Volume, users int) bool {
		told, there := theirs[v.Name]
		there = there && told.Driver == v.Driver
		if there {
			delete(theirs, v.Name)
		}
		return match(v, users) && (!v.remote() || there || silent[v.Driver] || users > 0)
	}) {
		out.Volumes = append(out.Volumes, v.api())
	}
	for _, t := range theirs {
		if match(&Volume{Name: t.Name, Driver: t.Driver}, 0) {
			out.Volumes = append(out.Volumes, t)
		}
	}
	slices.SortFunc(out.Volumes, func(a, b volume.Volume) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// find gives the volumes that match, by name; users is how many containers
// have the volume.
func (s *Store) find(match func(v *Volume, users int) bool) []*Volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Volume
	for _, v := range s.byName {
		if match(v, len(s.users[v.Name])) {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b *Volume) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Prune removes the volumes that no container has and that match (label,
// label!): anonymous ones, or with the filter all=true every one. Volumes with
// options stay, for their data are elsewhere.
func (s *Store) Prune(ctx context.Context, f filter.Args) (volume.PruneReport, error) {
	report := volume.PruneReport{VolumesDeleted: []string{}}
	if !s.pruning.CompareAndSwap(false, true) {
		return report, errdefs.ErrConflict.WithMessage("a prune operation is already running")
	}
	defer s.pruning.Store(false)
	if err := f.Validate("label", "label!", "all"); err != nil {
		return report, err
	}
	all, err := f.Bool("all", false)
	if err != nil {
		return report, err
	}
	for _, v := range s.find(func(v *Volume, users int) bool {
		_, anonymous := v.Labels[AnonymousLabel]
		return users == 0 && (all || anonymous) && v.Driver == DriverLocal && len(v.Options) == 0 &&
			f.Labels("label", v.Labels) && (!f.Has("label!") || !f.Labels("label!", v.Labels))
	}) {
		if ctx.Err() != nil {
			break
		}
		size, err := v.size(ctx)
		if err == nil {
			err = s.Remove(v.Name)
		}
		if err != nil {
			slog.Warn("prune", "volume", v.Name, "error", err)
			continue
		}
		report.SpaceReclaimed += uint64(size)
		report.VolumesDeleted = append(report.VolumesDeleted, v.Name)
	}
	s.event(events.ActionPrune, "", map[string]string{"reclaimed": fmt.Sprint(report.SpaceReclaimed)})
	return report, nil
}

// DiskUsage says what the volumes hold on the engine's disk, largest effort of
// all views: every file is looked at. Volumes with options are elsewhere.
func (s *Store) DiskUsage(ctx context.Context) (*volume.DiskUsage, error) {
	u := &volume.DiskUsage{Items: []volume.Volume{}}
	users := map[string]int{}
	for _, v := range s.find(func(v *Volume, n int) bool {
		users[v.Name] = n
		return v.Driver == DriverLocal && len(v.Options) == 0
	}) {
		size, err := v.size(ctx)
		if err != nil {
			return nil, fmt.Errorf("size of volume %s: %w", v.Name, err)
		}
		one := v.api()
		one.UsageData = &volume.UsageData{RefCount: int64(users[v.Name]), Size: size}
		u.Items = append(u.Items, one)
		u.TotalCount++
		u.TotalSize += size
		if users[v.Name] > 0 {
			u.ActiveCount++
		} else {
			u.Reclaimable += size
		}
	}
	return u, nil
}

// size sums the sizes of the files, hard links once. Files that go away during
// the walk are passed over.
func (v *Volume) size(ctx context.Context) (int64, error) {
	var total int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(v.Path(), func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case d.IsDir():
			return nil
		}
		var st syscall.Stat_t
		if syscall.Lstat(path, &st) != nil || st.Nlink > 1 && seen[st.Ino] {
			return nil
		}
		if st.Nlink > 1 {
			seen[st.Ino] = true
		}
		total += st.Size
		return nil
	})
	return total, err
}
