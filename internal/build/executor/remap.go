package executor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	ctdmount "github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/snapshot"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/linux/pidfd"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
)

// With userns-remap a step has a user namespace, as containers have. Its files
// keep the owners that the image gives them; the mounts show them mapped.

func ranges(list []specs.LinuxIDMapping) []sandbox.IDMap {
	var out []sandbox.IDMap
	for _, m := range list {
		out = append(out, sandbox.IDMap{Container: int(m.ContainerID), Host: int(m.HostID), Size: int(m.Size)})
	}
	return out
}

// clone gives a detached copy of a tree, with mapped owners.
func (e *Executor) clone(at int, path string) (int, error) {
	tree, err := mount.Clone(at, path, true)
	if err != nil || e.owners == nil || e.mapped(path) {
		return tree, err
	}
	if err := e.owners.Map(tree, path); err != nil {
		return -1, err
	}
	return tree, nil
}

// mapped tells whether at dir there is an overlay with mapped owners already.
func (e *Executor) mapped(dir string) bool {
	return e.overlays != "" && filepath.Dir(dir) == e.overlays
}

type forStep struct{}

// Layers gives the snapshots as they are, but to steps: the layers of an
// overlay that is mounted cannot be mapped any more, so BuildKit must not mount
// what a step writes to. It gets the overlay mounted, with mapped owners.
func (e *Executor) Layers(s snapshot.Snapshotter) snapshot.Snapshotter {
	if e.owners == nil {
		return s
	}
	return &layers{s, e}
}

type layers struct {
	snapshot.Snapshotter
	e *Executor
}

// Mounts gives what is behind one reference. What a step asked for is kept with
// the reference, which nobody else writes to. BuildKit reads the layer that
// comes of it through another one.
func (l *layers) Mounts(ctx context.Context, key string) (snapshot.Mountable, error) {
	m, err := l.Snapshotter.Mounts(ctx, key)
	if err != nil || ctx.Value(forStep{}) == nil {
		return m, err
	}
	return &overlay{Mountable: m, e: l.e}, nil
}

// overlay is a writable one of a step: its root, or a cache mount, which several
// steps may have at once. They have one mount: two with the same upper directory
// would not see each other's changes.
type overlay struct {
	snapshot.Mountable
	e *Executor

	mu      sync.Mutex
	users   int
	dir     string // where it is mounted, as long as it has users; the next start sweeps
	release func() error
}

// Mount gives the place of the overlay, or a directory that is no overlay as it is.
func (o *overlay) Mount() ([]ctdmount.Mount, func() error, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.users == 0 {
		list, release, err := o.Mountable.Mount()
		if err != nil || len(list) != 1 || list[0].Type != "overlay" {
			return list, release, err
		}
		if o.dir, err = os.MkdirTemp(o.e.overlays, ""); err == nil {
			err = o.e.place(list[0], o.dir)
		}
		if err != nil {
			return nil, nil, errors.Join(err, os.Remove(o.dir), release())
		}
		o.release = release
	}
	o.users++
	return []ctdmount.Mount{{Type: "bind", Source: o.dir, Options: []string{"rbind", "rw"}}}, sync.OnceValue(o.done), nil
}

func (o *overlay) done() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.users--; o.users > 0 {
		return nil
	}
	return errors.Join(unix.Unmount(o.dir, unix.MNT_DETACH), os.Remove(o.dir), o.release())
}

// giveToRoot makes the step's root the owner of one of the step's files.
func (e *Executor) giveToRoot(file string) error {
	if e.owners == nil {
		return nil
	}
	return os.Chown(file, spec.RootOf(e.cfg.UIDs), spec.RootOf(e.cfg.GIDs))
}

// ready does what a held process waits for, its network and the hooks of its
// devices, and lets it go on.
func (e *Executor) ready(ctx context.Context, s *step, n *networking, m *executor.Meta, proc *sandbox.Process) error {
	err := e.prepare(ctx, s, n, m, proc)
	if err == nil {
		return proc.Release()
	}
	pidfd.Signal(proc.PIDFD, unix.SIGKILL) //nolint:errcheck // it may be gone
	pidfd.Wait(proc.PIDFD, false)          //nolint:errcheck // it may be gone
	proc.PIDFD.Close()
	return err
}

func (e *Executor) prepare(ctx context.Context, s *step, n *networking, m *executor.Meta, proc *sandbox.Process) error {
	if n.held {
		var err error
		if n.ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", proc.PID)); err != nil {
			return err
		}
		if err := e.connect(ctx, s, m, n); err != nil {
			return err
		}
		if _, err := e.files(s, m, n); err != nil { // now there are addresses
			return err
		}
	}
	return e.hooks(ctx, s, proc.PID)
}
