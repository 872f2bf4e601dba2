package volume

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
)

// Run is one mount of a volume by a run of a container.
type Run struct {
	Volume, Container, Destination string
	Subpath                        string // of the volume; "" is all of it
	ReadOnly                       bool
	// Visit is the id of who only looks at a container's files, which is told
	// to nobody; "" for the container itself.
	Visit string
}

// holder is who has the volume mounted.
func (r *Run) holder() string {
	if r.Visit != "" {
		return r.Visit
	}
	return r.Container
}

// Place is where the runtime finds what to bind.
type Place struct {
	Source string
	// Mountpoint is where a plugin has mounted the volume; "" for the engine's own.
	Mountpoint string
	Device     uint64 // number of the file system, 0 for a directory of the host; see Adopt
	at         string // where it is in the chamber, "" outside
	once       string // attached for this start only
}

// Mount makes a volume available to a run of a container. The run ends with
// Unmount; what only its start needs ends with Started.
func (s *Store) Mount(ctx context.Context, r Run) (Place, error) {
	v, err := s.Get(r.Volume)
	if err != nil {
		return Place{}, err
	}
	v.mounting.Lock()
	defer v.mounting.Unlock()
	p := Place{Source: v.Path()}
	if v.remote() {
		if p, err = plugged(s).mount(ctx, v, r.holder()); err != nil {
			return Place{}, err
		}
	}
	if v.needsMount() {
		if err := s.mount(ctx, v); err != nil {
			return Place{}, fmt.Errorf("error while mounting volume '%s': %w", v.Path(), err)
		}
		p.Source, p.at = s.chamber.source(v.place), v.place
		p.Device, err = s.chamber.device(v.place)
	}
	if err == nil && r.Subpath != "" {
		if p.once, err = s.attachSubpath(v, r.Subpath); err == nil {
			p.Source, p.at = s.chamber.source(p.once), p.once
		}
	}
	if err != nil {
		s.unmountUnused(v)
		if _, ok := v.runs[r.holder()]; v.remote() && !ok {
			plugged(s).unmount(v, r.holder())
		}
		return Place{}, err
	}
	if v.runs == nil {
		v.runs = map[string]struct{}{}
	}
	v.runs[r.holder()] = struct{}{}
	if r.Visit != "" {
		return p, nil
	}
	s.event(events.ActionMount, v.Name, map[string]string{
		"driver": v.Driver, "container": r.Container, "destination": r.Destination, "read/write": strconv.FormatBool(!r.ReadOnly), "propagation": "",
	})
	return p, nil
}

// Layers makes an image, or the part at subpath of it, available to one start.
// dirs are its layers, top first; dir is its root where it is a plain directory.
func (s *Store) Layers(dirs []string, dir, subpath string) (Place, error) {
	if dir != "" {
		dirs = []string{dir}
	}
	tree := -1
	err := apart(func() error {
		root, err := merged(dirs)
		if err != nil {
			return err
		}
		defer unix.Close(root)
		tree, err = part(root, subpath, "image:")
		return err
	})
	if err != nil {
		return Place{}, err
	}
	defer unix.Close(tree)
	place, err := s.chamber.attach(tree)
	if err != nil {
		return Place{}, err
	}
	return Place{Source: s.chamber.source(place), at: place, once: place}, nil
}

// Tree gives what Mount, Layers or Mapped have made available, or a directory
// or file of the host, as a detached tree of the caller's own, from which no
// mount spreads.
func Tree(s *Store, p Place, recursive bool) (tree int, err error) {
	if p.at != "" {
		tree, err = s.chamber.take(p.at)
	} else {
		tree, err = mount.Clone(unix.AT_FDCWD, p.Source, recursive)
	}
	if err != nil {
		return -1, err
	}
	if err := mount.Change(tree, 0, 0, unix.MS_PRIVATE, true); err != nil {
		unix.Close(tree)
		return -1, err
	}
	return tree, nil
}

// Started takes away what was attached for one start: the container, if it
// started, has it by now.
func (s *Store) Started(places ...Place) {
	for _, p := range places {
		s.chamber.detach(p.once)
	}
}

// Unmount ends a container's run with a volume.
func (s *Store) Unmount(name, container string) {
	if v := end(s, name, container); v != nil {
		s.event(events.ActionUnmount, v.Name, map[string]string{"driver": v.Driver, "container": container})
	}
}

// EndVisit is Unmount for a Run with that Visit.
func EndVisit(s *Store, name, visit string) { end(s, name, visit) }

// end gives the volume if holder had it.
func end(s *Store, name, holder string) *Volume {
	v, err := s.Get(name)
	if err != nil {
		return nil
	}
	v.mounting.Lock()
	defer v.mounting.Unlock()
	if _, ok := v.runs[holder]; !ok {
		return nil
	}
	delete(v.runs, holder)
	s.unmountUnused(v)
	if v.remote() {
		plugged(s).unmount(v, holder)
	}
	return v
}

// mount mounts the volume's own file system unless it is; v.mounting is held.
func (s *Store) mount(ctx context.Context, v *Volume) error {
	if v.place != "" {
		return nil
	}
	tree, err := v.tree(ctx)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	v.place, err = s.chamber.attach(tree)
	return err
}

func (s *Store) unmountUnused(v *Volume) {
	if len(v.runs) == 0 && v.place != "" {
		s.chamber.detach(v.place)
		v.place = ""
	}
}

// open gives the root of a volume's content; v.mounting is held and, for a
// volume with a file system of its own, it is mounted.
func (s *Store) open(v *Volume) (int, error) {
	if v.needsMount() {
		return s.chamber.take(v.place)
	}
	return unix.Open(v.Path(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// attachSubpath puts a part of a volume where a start can take it.
func (s *Store) attachSubpath(v *Volume, sub string) (string, error) {
	if v.needsMount() {
		return s.chamber.attachPart(v.place, sub, v.Path())
	}
	root, err := s.open(v)
	if err != nil {
		return "", err
	}
	defer unix.Close(root)
	tree, err := part(root, sub, v.Path())
	if err != nil {
		return "", err
	}
	defer unix.Close(tree)
	return s.chamber.attach(tree)
}

// part clones what is at sub below root. Links that a container left there
// cannot lead out of it, and nothing can be exchanged between the look and the
// mount.
func part(root int, sub, of string) (int, error) {
	fd, err := mount.OpenIn(root, sub, unix.O_PATH)
	if err != nil {
		return -1, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("cannot access path %s: %v", path.Join(of, sub), errors.Unwrap(err)))
	}
	defer unix.Close(fd)
	return mount.Clone(fd, "", true)
}

// Adopt takes note of a container that runs with a volume since before the
// engine started. A file system of the volume's own is taken over out of the
// container's mount namespace, so that others share it as before: what is at
// destination there, if it is still the file system that was mounted.
func (s *Store) Adopt(name, container, destination string, device uint64, pid int) error {
	v, err := s.Get(name)
	if err != nil {
		return err
	}
	v.mounting.Lock()
	defer v.mounting.Unlock()
	if v.runs == nil {
		v.runs = map[string]struct{}{}
	}
	v.runs[container] = struct{}{}
	if !v.needsMount() || v.place != "" || device == 0 {
		return nil
	}
	var tree int
	err = apart(func() error {
		ns, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(ns)
		if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
			return err
		}
		fd, err := mount.OpenStrict(unix.AT_FDCWD, destination, unix.O_PATH)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if st.Dev != device {
			return fmt.Errorf("another file system is at %s", destination)
		}
		tree, err = mount.Clone(fd, "", false)
		return err
	})
	if err != nil {
		return fmt.Errorf("take over volume %s: %w", name, err)
	}
	defer unix.Close(tree)
	// What the container has may be read-only; the volume is not.
	err = mount.Change(tree, 0, unix.MOUNT_ATTR_RDONLY, unix.MS_PRIVATE, false)
	if err == nil {
		v.place, err = s.chamber.attach(tree)
	}
	return err
}
