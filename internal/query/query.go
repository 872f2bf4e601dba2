// Package query owns the read views of the engine: list, inspect, top, logs,
// info and version. Nothing here changes anything.
package query

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/event"
	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/linux/cgroup"
	"github.com/wherry-engine/wherry/internal/network"
	"github.com/wherry-engine/wherry/internal/snapshot"
	"github.com/wherry-engine/wherry/internal/stats"
)

// Execs tells which execs of a container have not ended; session knows.
type Execs interface {
	ExecIDs(containerID string) []string
}

// View answers questions. Use New.
type View struct {
	store     *container.Store
	images    *image.Store
	snapshots *snapshot.Store
	cgroups   *cgroup.Hierarchy
	execs     Execs
	host      atomic.Pointer[Host]
	stats     stats.Sampler
	events    *event.Bus // for the events that dockerd has of looking, too
}

// New makes a view over the engine's stores.
func New(store *container.Store, images *image.Store, snapshots *snapshot.Store, cgroups *cgroup.Hierarchy, execs Execs, bus *event.Bus, host Host) *View {
	v := &View{store: store, images: images, snapshots: snapshots, cgroups: cgroups, execs: execs, events: bus}
	v.host.Store(&host)
	return v
}

// Reload takes over what the engine says of itself from now on.
func (v *View) Reload(host Host) { v.host.Store(&host) }

// ListOptions are those of GET /containers/json.
type ListOptions struct {
	All     bool
	Limit   int // the newest so many, also those that do not run; <= 0 is no limit
	Size    bool
	Filters filter.Args
}

var listFilters = []string{"ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name", "network", "publish", "since", "status", "volume"}

// List returns the containers that pass, newest first.
func (v *View) List(ctx context.Context, o ListOptions) ([]*apicontainer.Summary, error) {
	match, err := v.matcher(ctx, &o)
	if err != nil {
		return nil, err
	}
	all := v.store.All()
	records := make([]container.Record, 0, len(all))
	for _, c := range all {
		records = append(records, c.Snapshot())
	}
	slices.SortFunc(records, func(a, b container.Record) int {
		if d := b.Created.Compare(a.Created); d != 0 {
			return d
		}
		return cmp.Compare(a.ID, b.ID)
	})
	links := map[string][]string{} // the names by which others call a container, by its id
	for i := range records {
		for _, l := range records[i].Links() {
			links[l.Target] = append(links[l.Target], "/"+records[i].Name+"/"+l.Alias)
		}
	}
	out := []*apicontainer.Summary{}
	now := time.Now()
	for i := range records {
		r := &records[i]
		if !r.State.Running && !o.All && o.Limit <= 0 {
			continue
		}
		if !match(r) {
			continue
		}
		s, err := v.summary(ctx, r, now, o.Size)
		if err != nil {
			return nil, err
		}
		s.Names = append(s.Names, links[r.ID]...)
		out = append(out, s)
		if o.Limit > 0 && len(out) == o.Limit {
			break
		}
	}
	return out, nil
}

// matcher compiles the filters. Some of them ask for stopped containers too.
func (v *View) matcher(ctx context.Context, o *ListOptions) (func(*container.Record) bool, error) {
	f := o.Filters
	if err := f.Validate(listFilters...); err != nil {
		return nil, err
	}
	exited := map[int]bool{}
	for _, text := range f["exited"] {
		code, err := strconv.Atoi(text)
		if err != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter 'exited=%s': %v", text, err))
		}
		exited[code] = true
	}
	for _, s := range f["status"] {
		if err := apicontainer.ValidateContainerState(apicontainer.ContainerState(s)); err != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter 'status=%s': %v", s, err))
		}
	}
	for _, s := range f["health"] {
		if err := apicontainer.ValidateHealthStatus(apicontainer.HealthStatus(s)); err != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter 'health=%s': %v", s, err))
		}
	}
	if f.Has("status") || f.Has("exited") {
		o.All = true
	}
	if isTask, err := f.Bool("is-task", false); err != nil {
		return nil, err
	} else if isTask {
		return func(*container.Record) bool { return false }, nil
	}
	bound := func(key string) (*container.Record, error) {
		if !f.Has(key) {
			return nil, nil
		}
		o.All = true
		c, err := v.store.Get(f[key][0])
		if err != nil {
			return nil, err
		}
		r := c.Snapshot()
		return &r, nil
	}
	before, err := bound("before")
	if err != nil {
		return nil, err
	}
	since, err := bound("since")
	if err != nil {
		return nil, err
	}
	ancestors := map[string]bool{}
	for _, ref := range f["ancestor"] {
		img, err := v.images.Resolve(ctx, ref)
		if err != nil {
			if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
				continue
			}
			return nil, err
		}
		ancestors[img.ID.String()] = true
	}
	published, err := ports("publish", f["publish"])
	if err != nil {
		return nil, err
	}
	exposed, err := ports("expose", f["expose"])
	if err != nil {
		return nil, err
	}
	return func(r *container.Record) bool {
		switch {
		case f.Has("id") && !f.Match("id", r.ID) && !f.Prefix("id", r.ID),
			f.Has("name") && !f.Match("name", r.Name) && !f.Match("name", "/"+r.Name),
			!f.Labels("label", r.Config.Labels),
			!f.Exact("status", string(r.State.Status())),
			len(exited) > 0 && (r.State.Running || r.State.StartedAt.IsZero() || !exited[r.State.ExitCode]),
			before != nil && !r.Created.Before(before.Created),
			since != nil && !r.Created.After(since.Created),
			f.Has("ancestor") && !ancestors[r.ImageID],
			!f.Exact("health", string(healthOf(r))),
			f.Has("volume") && !hasVolume(f, r),
			f.Has("network") && !onNetwork(f, r),
			len(published)+len(exposed) > 0 && !anyPort(published, exposed, portSummaries(r)):
			return false
		}
		return true
	}, nil
}

func healthOf(r *container.Record) apicontainer.HealthStatus {
	if r.State.Health == nil {
		return apicontainer.NoHealthcheck
	}
	return r.State.Health.Status
}

func hasVolume(f filter.Args, r *container.Record) bool {
	return slices.ContainsFunc(r.Mounts, func(m container.Mount) bool {
		return f.Exact("volume", m.Destination) || m.Name != "" && f.Exact("volume", m.Name) || m.Type == mount.TypeBind && f.Exact("volume", m.Source)
	})
}

func onNetwork(f filter.Args, r *container.Record) bool {
	for name, ep := range r.Networks {
		if f.Exact("network", name) || ep != nil && ep.NetworkID != "" && f.Prefix("network", ep.NetworkID) {
			return true
		}
	}
	return false
}

// networks are those that a container has, or will have when it runs.
func networks(r *container.Record) map[string]*apinetwork.EndpointSettings {
	if r.State.Running && !r.State.Restarting {
		return r.Networks
	}
	out := make(map[string]*apinetwork.EndpointSettings, len(r.Networks))
	for name, ep := range r.Networks {
		out[name] = network.AtRest(ep)
	}
	return out
}

// ports reads the values "80", "80/udp" and "8000-8010/tcp" of a filter.
func ports(key string, specs []string) (map[apinetwork.Port]bool, error) {
	set := map[apinetwork.Port]bool{}
	for _, text := range specs {
		pr, err := apinetwork.ParsePortRange(text)
		if strings.Contains(text, ":") {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("filter for '%s' should not contain ':': %s", key, text))
		}
		if err != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("error while looking up for %s %s: %v", key, text, err))
		}
		for p := range pr.All() {
			set[p] = true
		}
	}
	return set, nil
}

// anyPort reports whether one of the ports that a container has while it runs
// is published as one of the first or exposed as one of the second.
func anyPort(published, exposed map[apinetwork.Port]bool, have []apicontainer.PortSummary) bool {
	is := func(set map[apinetwork.Port]bool, number uint16, proto string) bool {
		p, ok := apinetwork.PortFrom(number, apinetwork.IPProtocol(proto))
		return ok && set[p]
	}
	return slices.ContainsFunc(have, func(p apicontainer.PortSummary) bool {
		return is(published, p.PublicPort, p.Type) || is(exposed, p.PrivatePort, p.Type)
	})
}

// summary is one row of the list.
func (v *View) summary(ctx context.Context, r *container.Record, now time.Time, size bool) (*apicontainer.Summary, error) {
	s := &apicontainer.Summary{
		ID: r.ID, Names: []string{"/" + r.Name}, Image: v.imageName(ctx, r), ImageID: r.ImageID, ImageManifestDescriptor: r.ImageManifest,
		Command: commandLine(r.Path, r.Args), Created: r.Created.Unix(), Ports: portSummaries(r), Labels: r.Config.Labels,
		State: r.State.Status(), Status: r.State.Sentence(now), Mounts: v.mounts(r),
		NetworkSettings: &apicontainer.NetworkSettingsSummary{Networks: networks(r)},
	}
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	s.HostConfig.NetworkMode, s.HostConfig.Annotations = string(r.HostConfig.NetworkMode), r.HostConfig.Annotations
	s.Health = &apicontainer.HealthSummary{Status: healthOf(r)}
	if h := r.State.Health; h != nil {
		s.Health.FailingStreak = h.FailingStreak
	}
	if size {
		rw, root, err := v.sizes(ctx, r)
		if err != nil {
			return nil, err
		}
		s.SizeRw, s.SizeRootFs = rw, root
	}
	return s, nil
}

// imageName is the reference that the user gave, or the id when that
// reference has moved to another image since.
func (v *View) imageName(ctx context.Context, r *container.Record) string {
	img, err := v.images.Resolve(ctx, r.Config.Image)
	if err != nil || img.ID.String() != r.ImageID {
		return r.ImageID
	}
	return r.Config.Image
}

func (v *View) sizes(ctx context.Context, r *container.Record) (rw, root int64, err error) {
	if rw, err = v.snapshots.Usage(r.ID); err != nil && !errdefs.IsNotFound(err) {
		return 0, 0, err
	}
	root = rw
	if img, err := v.images.Resolve(ctx, r.ImageID); err == nil {
		root += img.Size
	}
	return rw, root, nil
}

// commandLine joins what runs the way `ps` shows it: arguments with blanks in
// single quotes.
func commandLine(path string, args []string) string {
	words := append([]string{path}, args...)
	for i, w := range words {
		if i > 0 && strings.Contains(w, " ") {
			words[i] = "'" + w + "'"
		}
	}
	return strings.Join(words, " ")
}

func (v *View) mounts(r *container.Record) []apicontainer.MountPoint {
	out := make([]apicontainer.MountPoint, 0, len(r.Mounts))
	for _, m := range r.Mounts {
		if m.Type == mount.TypeTmpfs && !m.FromSpec {
			continue
		}
		out = append(out, m.MountPoint)
	}
	return out
}

// portSummaries lists published and exposed ports of a running container.
func portSummaries(r *container.Record) []apicontainer.PortSummary {
	out := []apicontainer.PortSummary{}
	if !r.State.Running {
		return out
	}
	for port, bindings := range r.Ports {
		for _, b := range bindings {
			if b.HostPort == "" { // open at the container's own address
				if one := (apicontainer.PortSummary{PrivatePort: port.Num(), Type: string(port.Proto())}); !slices.Contains(out, one) {
					out = append(out, one)
				}
				continue
			}
			public, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil {
				continue
			}
			out = append(out, apicontainer.PortSummary{IP: b.HostIP, PrivatePort: port.Num(), PublicPort: uint16(public), Type: string(port.Proto())})
		}
	}
	for port := range r.Config.ExposedPorts {
		if len(r.Ports[port]) == 0 {
			out = append(out, apicontainer.PortSummary{PrivatePort: port.Num(), Type: string(port.Proto())})
		}
	}
	slices.SortFunc(out, func(a, b apicontainer.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.Type, b.Type), a.IP.Compare(b.IP), cmp.Compare(a.PublicPort, b.PublicPort))
	})
	return out
}
