package executor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"

	"github.com/moby/buildkit/executor"
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
	if err != nil || e.owners == nil {
		return tree, err
	}
	if err := e.owners.Map(tree, path); err != nil {
		return -1, err
	}
	return tree, nil
}

// unshared gives the mount behind one that BuildKit has mounted already, to
// share it between steps: an overlay cannot be mapped any more, its layers can.
func unshared(m executor.MountableRef) executor.MountableRef {
	v := reflect.ValueOf(m)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return m
	}
	if inner := v.Elem().FieldByName("Mountable"); inner.IsValid() && inner.CanInterface() {
		if raw, ok := inner.Interface().(executor.MountableRef); ok {
			return raw
		}
	}
	return m
}

// overlays are the writable overlays that running steps have beside their
// roots (cache mounts), by their upper directory: two mounts of one would not
// see each other's changes. They are mounted where the threads of all steps
// find them, in the directory for temporary files, which the next start sweeps.
type overlays struct {
	mu sync.Mutex
	m  map[string]*shared
}

type shared struct {
	users int
	dir   string
}

// use mounts the overlays of a step, until done is called.
func (e *Executor) use(s *sources) (done func(), err error) {
	o := &e.overlays
	var uppers []string
	done = func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, u := range uppers {
			if one := o.m[u]; one.users > 1 {
				one.users--
			} else {
				unix.Unmount(one.dir, unix.MNT_DETACH) //nolint:errcheck // the next start sweeps
				os.Remove(one.dir)
				delete(o.m, u)
			}
		}
	}
	for i := range s.other {
		one := &s.other[i]
		if upper := one.upper(); upper != "" {
			if one.mount.Source, err = o.open(upper, func(dir string) error { return e.place(one.mount, dir) }); err != nil {
				done()
				return nil, err
			}
			one.mapped, uppers = true, append(uppers, upper)
		}
	}
	return done, nil
}

// open gives the directory at which an overlay is mounted.
func (o *overlays) open(upper string, place func(dir string) error) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if one := o.m[upper]; one != nil {
		one.users++
		return one.dir, nil
	}
	dir, err := os.MkdirTemp("", "mapped")
	if err != nil {
		return "", err
	}
	if err := place(dir); err != nil {
		return "", errors.Join(err, os.Remove(dir))
	}
	if o.m == nil {
		o.m = map[string]*shared{}
	}
	o.m[upper] = &shared{1, dir}
	return dir, nil
}

// upper is the upper directory of an overlay, "" of another mount.
func (s *source) upper() string {
	for _, o := range s.mount.Options {
		if upper, ok := strings.CutPrefix(o, "upperdir="); ok && s.mount.Type == "overlay" {
			return upper
		}
	}
	return ""
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
