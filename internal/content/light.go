package content

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/id"
)

// labelBuild marks the leases of the builder that end with their operation.
const labelBuild = "buildkit/lease.temporary"

const (
	labelExpire     = "containerd.io/gc.expire"
	typeContent     = "content"
	prefixSnapshots = "snapshots/"
	// nodeLight is the collector's kind of resource that stands for light leases.
	nodeLight = gc.ResourceType(0x1e)
)

// light keeps temporary leases in memory for as long as they only hold what is
// there already. Many a build writes nothing at all, and none of these should
// wait for the disk. With the first thing that is written under it a lease gets
// its record in the database; a killed process leaves no more than that.
//
// Each hold is taken under mu, which a collection has from its look at the
// roots until its end: hold first, look then, and what is seen stays.
type light struct {
	leases.Manager // the database's

	mu sync.Mutex
	m  map[string]*lease
}

// lease is a temporary one.
type lease struct {
	leases.Lease
	expires time.Time // zero for never
	held    map[leases.Resource]bool

	record sync.Mutex // held while the record is made
	made   bool
	gone   bool
}

// Create makes a lease; a temporary one has no record yet.
func (l *light) Create(ctx context.Context, opts ...leases.Opt) (leases.Lease, error) {
	one := leases.Lease{CreatedAt: time.Now()}
	for _, o := range opts {
		if err := o(&one); err != nil {
			return one, err
		}
	}
	_, ours := one.Labels[labelTemporary]
	_, builds := one.Labels[labelBuild]
	if !ours && !builds {
		return l.Manager.Create(ctx, opts...)
	}
	if one.ID == "" {
		one.ID = "tmp-" + id.New()[:24]
	}
	n := &lease{Lease: one, held: map[leases.Resource]bool{}}
	if text, ok := one.Labels[labelExpire]; ok {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return one, errdefs.ErrInvalidArgument.WithMessage("the end of a lease: " + err.Error())
		}
		n.expires = at
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m[one.ID] != nil {
		return one, errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("lease %q already exists", one.ID))
	}
	if l.m == nil {
		l.m = map[string]*lease{}
	}
	l.m[one.ID] = n
	return one, nil
}

func (l *light) get(name string) *lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.m[name]
}

// any tells whether there are temporary leases.
func (l *light) any() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.m) > 0
}

// Delete ends a lease.
func (l *light) Delete(ctx context.Context, one leases.Lease, opts ...leases.DeleteOpt) error {
	n := l.get(one.ID)
	if n == nil {
		return l.Manager.Delete(ctx, one, opts...)
	}
	n.record.Lock()
	defer n.record.Unlock()
	n.gone = true
	var err error
	if n.made {
		err = l.Manager.Delete(ctx, one, opts...)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.m, one.ID)
	return err
}

// AddResource holds something for a lease.
func (l *light) AddResource(ctx context.Context, one leases.Lease, r leases.Resource) error {
	if l.hold(one.ID, r) {
		return nil
	}
	if err := l.written(ctx, one.ID); err != nil {
		return err
	}
	return l.Manager.AddResource(ctx, one, r)
}

// hold notes it in memory, if that is possible.
func (l *light) hold(name string, r leases.Resource) bool {
	if r.Type != typeContent && !strings.HasPrefix(r.Type, prefixSnapshots) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.m[name]
	if n != nil {
		n.held[r] = true
	}
	return n != nil
}

// DeleteResource lets go of something.
func (l *light) DeleteResource(ctx context.Context, one leases.Lease, r leases.Resource) error {
	n := l.get(one.ID)
	if n == nil {
		return l.Manager.DeleteResource(ctx, one, r)
	}
	n.record.Lock()
	defer n.record.Unlock()
	if n.made {
		if err := l.Manager.DeleteResource(ctx, one, r); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(n.held, r)
	return nil
}

// ListResources lists what a lease holds.
func (l *light) ListResources(ctx context.Context, one leases.Lease) ([]leases.Resource, error) {
	n := l.get(one.ID)
	if n == nil {
		return l.Manager.ListResources(ctx, one)
	}
	n.record.Lock()
	defer n.record.Unlock()
	var list []leases.Resource
	if n.made {
		var err error
		if list, err = l.Manager.ListResources(ctx, one); err != nil {
			return nil, err
		}
	}
	l.mu.Lock()
	held := maps.Clone(n.held)
	l.mu.Unlock()
	for _, r := range list {
		delete(held, r)
	}
	for r := range held {
		list = append(list, r)
	}
	return list, nil
}

// written gives the lease of that name its record, before the first thing is
// written under it.
func (l *light) written(ctx context.Context, name string) error {
	n := l.get(name)
	if n == nil {
		return nil
	}
	n.record.Lock()
	defer n.record.Unlock()
	if n.made {
		return nil
	}
	if n.gone {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("lease %q is over", name))
	}
	if _, err := l.Manager.Create(ctx, leases.WithID(name), leases.WithLabels(n.Labels)); err != nil {
		return err
	}
	n.made = true
	return nil
}

// StartCollection keeps what is held from being collected; see metadata.Collector.
func (l *light) StartCollection(context.Context) (metadata.CollectionContext, error) {
	l.mu.Lock()
	return roots{l}, nil
}

// ReferenceLabel is none: no record refers to a light lease.
func (l *light) ReferenceLabel() string { return "" }

// roots are the light leases during a collection, which has their lock.
type roots struct{ l *light }

// All names nothing: leases end by themselves.
func (r roots) All(func(gc.Node)) {}

// Active names what is held.
func (r roots) Active(namespace string, fn func(gc.Node)) {
	now := time.Now()
	for _, n := range r.l.m {
		if namespace != Namespace || !n.expires.IsZero() && n.expires.Before(now) {
			continue
		}
		for res := range n.held {
			node := gc.Node{Type: metadata.ResourceContent, Namespace: namespace, Key: res.ID}
			if driver, ok := strings.CutPrefix(res.Type, prefixSnapshots); ok {
				node.Type, node.Key = metadata.ResourceSnapshot, driver+"/"+res.ID
			}
			fn(node)
		}
	}
}

// Leased names nothing: records of leases name their own.
func (r roots) Leased(string, string, func(gc.Node)) {}

// Remove has nothing to remove.
func (r roots) Remove(gc.Node) {}

// Cancel ends the collection.
func (r roots) Cancel() error { return r.Finish() }

// Finish ends the collection.
func (r roots) Finish() error {
	r.l.mu.Unlock()
	return nil
}

// leasedBlobs are the blobs, written under leases that may be light.
type leasedBlobs struct {
	content.Store
	light *light
}

// Writer opens a blob for writing. One that is there is held without a record.
func (b leasedBlobs) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	name, ok := leases.FromContext(ctx)
	if !ok {
		return b.Store.Writer(ctx, opts...)
	}
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	if d := o.Desc.Digest; d != "" && b.light.hold(name, leases.Resource{ID: d.String(), Type: typeContent}) {
		if _, err := b.Info(ctx, d); err == nil {
			return nil, errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("content %v: already exists", d))
		}
	}
	if err := b.light.written(ctx, name); err != nil {
		return nil, err
	}
	return b.Store.Writer(ctx, opts...)
}

// leasedLayers are the snapshots, made under leases that may be light.
type leasedLayers struct {
	snapshots.Snapshotter
	light *light
}

func (s leasedLayers) written(ctx context.Context) error {
	name, ok := leases.FromContext(ctx)
	if !ok {
		return nil
	}
	return s.light.written(ctx, name)
}

// Prepare makes a snapshot to write in.
func (s leasedLayers) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	if err := s.written(ctx); err != nil {
		return nil, err
	}
	return s.Snapshotter.Prepare(ctx, key, parent, opts...)
}

// View makes a snapshot to read.
func (s leasedLayers) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	if err := s.written(ctx); err != nil {
		return nil, err
	}
	return s.Snapshotter.View(ctx, key, parent, opts...)
}

// Commit makes a snapshot final.
func (s leasedLayers) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	if err := s.written(ctx); err != nil {
		return err
	}
	return s.Snapshotter.Commit(ctx, name, key, opts...)
}

// Cleanup removes what collections left; see snapshots.Cleaner.
func (s leasedLayers) Cleanup(ctx context.Context) error {
	if c, ok := s.Snapshotter.(snapshots.Cleaner); ok {
		return c.Cleanup(ctx)
	}
	return errdefs.ErrNotImplemented
}
