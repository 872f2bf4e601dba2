// Package fileop owns the copies of builds (COPY, and ADD of what is not an
// archive): they go straight into the directory that becomes the layer, without
// an overlay in between. A file of a large copy is not written a second time:
// the layer gets a hard link to it. Both sides are never written to again, as
// BuildKit replaces files instead of changing them, but for what it unpacks: in
// one step with that nothing is linked.
//
// What this package does not understand (links on the way to the destination,
// patterns, owners by name, ...) is BuildKit's own copy's, which also finds the
// words for what is wrong. It can take over at any point.
//
// One layer's file is never linked into a layer above it: in a container both
// would be the same file. For that a layer that has such links is marked by a
// file "linked" beside its directory.
package fileop

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/llbsolver/file"
	"github.com/moby/buildkit/solver/llbsolver/ops"
	"github.com/moby/buildkit/solver/llbsolver/ops/fileoptypes"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/worker"
	"github.com/tonistiigi/fsutil/copy"
)

// Files is where copies go.
type Files struct {
	Worker worker.Worker
	// Mounts gives the mounts of a record of the cache that is being written.
	Mounts func(ctx context.Context, record string) ([]mount.Mount, error)
}

// Wrap gives the operation of a vertex, which does its copies this way.
func (f *Files) Wrap(v solver.Vertex, op solver.Op) solver.Op {
	def, ok := v.Sys().(*pb.Op)
	if !ok || def.GetFile() == nil {
		return op
	}
	copies, unpacks := 0, false
	for _, a := range def.GetFile().Actions {
		if byName(ownerOf(a)) {
			return op // to be looked up in files of the build
		}
		if c := a.GetCopy(); c != nil {
			copies++
			unpacks = unpacks || c.AttemptUnpackDockerCompatibility
		}
	}
	if copies == 0 {
		return op
	}
	// An archive gives the file of a link, which another action may have made, an
	// owner, a mode and attributes.
	return &operation{Op: op, files: f, actions: def.GetFile().Actions, name: v.Name(), link: !unpacks || copies == 1}
}

func ownerOf(a *pb.FileAction) *pb.ChownOpt {
	switch a := a.Action.(type) {
	case *pb.FileAction_Copy:
		return a.Copy.GetOwner()
	case *pb.FileAction_Mkdir:
		return a.Mkdir.GetOwner()
	case *pb.FileAction_Mkfile:
		return a.Mkfile.GetOwner()
	case *pb.FileAction_Symlink:
		return a.Symlink.GetOwner()
	}
	return nil
}

func byName(o *pb.ChownOpt) bool {
	return o.GetUser().GetByName() != nil || o.GetGroup().GetByName() != nil
}

// numbers gives the owner that is asked for, nil for that of the source.
func numbers(o *pb.ChownOpt, _, _ snapshot.Mountable) (*fs.User, error) {
	if o == nil {
		return nil, nil
	}
	if byName(o) {
		return nil, errors.New("the owner of a copy is not a number")
	}
	u := &fs.User{}
	if o.User != nil {
		u.UID = int(o.User.GetByID())
		u.GID = u.UID
	}
	if o.Group != nil {
		u.GID = int(o.Group.GetByID())
	}
	return u, nil
}

type operation struct {
	solver.Op
	files   *Files
	actions []*pb.FileAction
	name    string
	link    bool // files may be linked
}

// Exec does the actions, in BuildKit's order.
func (o *operation) Exec(ctx context.Context, job solver.JobContext, inputs []solver.Result) ([]solver.Result, error) {
	var refs []fileoptypes.Ref
	for _, in := range inputs {
		r, ok := in.Sys().(*worker.WorkerRef)
		if !ok {
			return nil, fmt.Errorf("unexpected input %T of a copy", in.Sys())
		}
		refs = append(refs, r.ImmutableRef)
	}
	kit, err := file.NewFileOpBackend(numbers)
	if err != nil {
		return nil, err
	}
	t := &targets{cache: o.files.Worker.CacheManager(), name: o.name, records: map[fileoptypes.Mount]string{}}
	b := &backend{Backend: kit, files: o.files, targets: t, link: o.link}
	outs, err := ops.NewFileOpSolver(o.files.Worker, b, t).Solve(ctx, refs, o.actions, job.Session())
	if err != nil {
		return nil, err
	}
	var results []solver.Result
	for _, out := range outs {
		ref, ok := out.(cache.ImmutableRef)
		if !ok {
			return nil, fmt.Errorf("unexpected output %T of a copy", out)
		}
		results = append(results, worker.NewWorkerRefResult(ref, o.files.Worker))
	}
	return results, nil
}

// targets makes what is written to, and remembers which record of the cache it is.
type targets struct {
	cache cache.Manager
	name  string

	mu      sync.Mutex
	records map[fileoptypes.Mount]string
}

// Prepare makes a reference ready to be read or to be built upon.
func (t *targets) Prepare(ctx context.Context, ref fileoptypes.Ref, readonly bool, g session.Group) (fileoptypes.Mount, error) {
	made := &noting{Manager: t.cache}
	m, err := file.NewRefManager(made, t.name).Prepare(ctx, ref, readonly, g)
	if err == nil && made.record != "" {
		t.mu.Lock()
		t.records[m] = made.record
		t.mu.Unlock()
	}
	return m, err
}

// Commit ends the writing.
func (t *targets) Commit(ctx context.Context, m fileoptypes.Mount) (fileoptypes.Ref, error) {
	t.mu.Lock()
	delete(t.records, m)
	t.mu.Unlock()
	return file.NewRefManager(t.cache, t.name).Commit(ctx, m)
}

func (t *targets) record(m fileoptypes.Mount) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.records[m]
}

// noting keeps the name of the record that is made.
type noting struct {
	cache.Manager
	record string
}

// New makes a record.
func (n *noting) New(ctx context.Context, parent cache.ImmutableRef, g session.Group, opts ...cache.RefOption) (cache.MutableRef, error) {
	ref, err := n.Manager.New(ctx, parent, g, opts...)
	if err == nil {
		n.record = ref.ID()
	}
	return ref, err
}

// backend does the actions: copies itself where it can, the others as BuildKit does.
type backend struct {
	*file.Backend
	files   *Files
	targets *targets
	link    bool
}

// Copy copies from one mount to another.
func (b *backend) Copy(ctx context.Context, from, to, user, group fileoptypes.Mount, a *pb.FileActionCopy) error {
	err := b.direct(ctx, from, to, a)
	if errors.Is(err, errOther) {
		return b.Backend.Copy(ctx, from, to, user, group, a)
	}
	return err
}

// errOther says that a copy is not one for this package.
var errOther = errors.New("not a plain copy")

func (b *backend) direct(ctx context.Context, from, to fileoptypes.Mount, a *pb.FileActionCopy) error {
	source, ok := from.(*file.Mount)
	record := b.targets.record(to)
	if !ok || record == "" || !plain(a) {
		return errOther
	}
	if source.Mountable().IdentityMapping() != nil {
		return errOther
	}
	mounts, release, err := source.Mountable().Mount()
	if err != nil {
		return err
	}
	defer release() //nolint:errcheck // nothing is mounted
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		return errOther
	}
	target, err := b.files.Mounts(ctx, record)
	if err != nil {
		return err
	}
	layers, ok := directories(target)
	if !ok {
		return errOther
	}
	owner, err := numbers(a.Owner, nil, nil)
	if err != nil {
		return err
	}
	return copyTree(ctx, mounts[0].Source, a.Src, a.AttemptUnpackDockerCompatibility, layers, a.Dest, owner, b.link)
}
