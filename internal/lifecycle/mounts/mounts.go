// Package mounts owns what containers have mounted: it makes the volumes and the
// layers of images that a request asks for, gives them to a run, and takes them
// back after it and with the container.
package mounts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/api"
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/lifecycle/mountspec"
	kmount "github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/snapshot"
	"github.com/wherry-engine/wherry/internal/undo"
	"github.com/wherry-engine/wherry/internal/volume"
)

// Mounts are the mounts of all containers. Its methods may be called
// concurrently, for one container by whoever holds its Op.
type Mounts struct {
	containers *container.Store
	images     *image.Store
	snapshots  *snapshot.Store
	volumes    *volume.Store
	owners     func(c *container.Container, text string) volume.Owners
}

// New returns them. owners tells how a mount's files are owned in a container
// by the words of its IDMap.
func New(containers *container.Store, images *image.Store, snapshots *snapshot.Store, volumes *volume.Store, owners func(c *container.Container, text string) volume.Owners) *Mounts {
	return &Mounts{containers, images, snapshots, volumes, owners}
}

// resolver collects the mounts of a container that is being made.
type resolver struct {
	*Mounts
	c      *container.Container
	byDest map[string]container.Mount
	claims map[string]bool
	taken  []container.Mount // everything that was made or is noted as used
}

// Resolve turns what the user and the image ask for into mounts, making
// the volumes that do not exist. Later kinds win over earlier ones at the same
// destination, as in dockerd: --volumes-from, then -v, then --mount and --tmpfs,
// then the image's VOLUMEs. c.Mounts holds all that has to be given back, also
// when it fails.
func (a *Mounts) Resolve(ctx context.Context, c *container.Container) error {
	r := &resolver{Mounts: a, c: c, byDest: map[string]container.Mount{}, claims: map[string]bool{}}
	if err := r.resolve(ctx); err != nil {
		c.Mounts = r.taken
		return err
	}
	for _, m := range r.byDest {
		c.Mounts = append(c.Mounts, m)
	}
	// Parents before children, so that /a is mounted before /a/b.
	slices.SortFunc(c.Mounts, func(a, b container.Mount) int {
		if d := strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/"); d != 0 {
			return d
		}
		return strings.Compare(a.Destination, b.Destination)
	})
	for _, m := range r.taken {
		if !slices.ContainsFunc(c.Mounts, func(o container.Mount) bool { return o.Name == m.Name && o.Layer == m.Layer }) {
			a.drop(c.ID, m, true) // another one took its place
		}
	}
	return nil
}

func (r *resolver) resolve(ctx context.Context) error {
	h := r.c.HostConfig
	for _, text := range h.VolumesFrom {
		if err := r.volumesFrom(text); err != nil {
			return err
		}
	}
	for _, text := range h.Binds {
		s, err := mountspec.Bind(text, h.VolumeDriver)
		if err == nil {
			err = r.add(ctx, s)
		}
		if err != nil {
			return err
		}
	}
	for i := range h.Mounts {
		s, err := mountspec.Mount(&h.Mounts[i])
		if text, ok := h.Annotations[api.AnnotationIDMap+s.Destination]; err == nil && ok {
			err = s.Owners(text)
		}
		if err == nil {
			err = r.add(ctx, s)
		}
		if err != nil {
			return err
		}
	}
	for key := range h.Annotations {
		target, ours := strings.CutPrefix(key, api.AnnotationIDMap)
		if ours && !slices.ContainsFunc(h.Mounts, func(m mount.Mount) bool { return filepath.Clean(m.Target) == target }) {
			return invalid("annotation %s: nothing is mounted at %q", key, target)
		}
	}
	for dest, options := range h.Tmpfs {
		if !filepath.IsAbs(dest) {
			return invalid("invalid mount path: '%s' mount path must be absolute", dest)
		}
		s := mountspec.Spec{Mount: container.Mount{TmpfsOptions: options}}
		s.Type, s.Destination, s.RW = mount.TypeTmpfs, filepath.Clean(dest), !slices.Contains(strings.Split(options, ","), "ro")
		if err := r.add(ctx, s); err != nil {
			return err
		}
	}
	for dest := range r.c.Config.Volumes {
		given := dest
		// VOLUME data in a Dockerfile means /data.
		if dest = filepath.Join("/", dest); dest == "/" {
			return invalid("invalid volume specification: '%s'", given)
		}
		if _, ok := r.byDest[dest]; ok {
			continue
		}
		s := mountspec.Spec{}
		s.Type, s.Driver, s.Destination, s.RW = mount.TypeVolume, h.VolumeDriver, dest, true
		if err := r.add(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// add takes a mount at a destination that no other was asked for, and makes
// what it stands on.
func (r *resolver) add(ctx context.Context, s mountspec.Spec) (err error) {
	if r.claims[s.Destination] {
		return invalid("Duplicate mount point: %s", s.Destination)
	}
	r.claims[s.Destination] = true
	switch s.Type {
	case mount.TypeVolume:
		err = r.volume(ctx, &s)
	case mount.TypeImage:
		err = r.image(ctx, &s)
	}
	if err != nil {
		return err
	}
	r.byDest[s.Destination] = s.Mount
	return nil
}

// volume makes or finds a volume.
func (r *resolver) volume(ctx context.Context, s *mountspec.Spec) error {
	v, err := r.volumes.Create(ctx, volume.Request{Name: s.Name, Driver: s.Driver, Options: s.Options, Labels: s.Labels, For: r.c.ID})
	if errdefs.IsNotFound(err) {
		return invalid("%v", err) // to the docker CLI, "not found" means the image
	}
	if err != nil {
		return err
	}
	s.Name, s.Source, s.Driver, s.Anonymous = v.Name, v.Path(), v.Driver, s.Name == ""
	if s.Mode == "" && (s.FromSpec || !s.Anonymous) {
		s.Mode = "z" // as dockerd shows it
	}
	r.taken = append(r.taken, s.Mount)
	return nil
}

// image finds an image and holds on to its layers.
func (r *resolver) image(ctx context.Context, s *mountspec.Spec) error {
	img, err := r.images.Resolve(ctx, s.Image)
	if err != nil {
		return invalid("%v", err)
	}
	lower, err := r.images.Layers(ctx, img)
	if err != nil {
		return err
	}
	s.Name, s.Source, s.Layer = s.Image, img.ID.String(), id.New()
	if _, err := r.snapshots.CreateWritable(s.Layer, lower, snapshot.WritableOptions{Volatile: true}); err != nil {
		return err
	}
	r.taken = append(r.taken, s.Mount)
	return nil
}

// volumesFrom takes over the mounts of another container.
func (r *resolver) volumesFrom(text string) error {
	ref, readOnly, err := mountspec.VolumesFrom(text)
	if err != nil {
		return err
	}
	other, err := r.containers.Get(ref)
	if err != nil {
		return invalid("%v", err)
	}
	for _, m := range other.Snapshot().Mounts {
		if m.Type != mount.TypeVolume && m.Type != mount.TypeBind {
			continue
		}
		m.RW = m.RW && !readOnly
		m.Anonymous, m.NoCopy, m.Device = false, true, 0 // it belongs to the other container
		if m.Name != "" {
			r.volumes.Use(m.Name, r.c.ID)
		}
		r.taken = append(r.taken, m)
		r.byDest[m.Destination] = m
	}
	return nil
}

// Populate gives empty volumes what the image has at their destinations.
func (a *Mounts) Populate(ctx context.Context, c *container.Container, layers []string) error {
	for _, m := range c.Mounts {
		if m.Type != mount.TypeVolume || m.NoCopy || m.Subpath != "" {
			continue
		}
		if err := a.volumes.Populate(ctx, m.Name, layers, m.Destination); err != nil {
			return err
		}
	}
	return nil
}

// Drop gives back what a container has, and with remove deletes the
// volumes that only it had (anonymous and not taken over).
func (a *Mounts) Drop(c *container.Container, remove bool) {
	for _, m := range c.Mounts {
		a.drop(c.ID, m, remove)
	}
}

func (a *Mounts) drop(container string, m container.Mount, remove bool) {
	switch {
	case m.Layer != "":
		warn("let go of image "+m.Name, container, a.snapshots.RemoveWritable(m.Layer))
	case m.Type == mount.TypeVolume:
		a.volumes.Leave(m.Name, container)
		if !remove || !m.Anonymous {
			return
		}
		if err := a.volumes.Remove(m.Name); err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
			warn("remove anonymous volume "+m.Name, container, err)
		}
	}
}

// Start gets what the run of a container finds somewhere else than at
// its recorded source. The undo stack ends the run with its volumes; done is
// called when the process has started or failed to.
func (a *Mounts) Start(ctx context.Context, c *container.Container, u *undo.Stack) (sources map[string]string, done func(), err error) {
	sources = map[string]string{}
	var places []volume.Place
	done = func() { a.volumes.Started(places...) }
	for i, m := range c.Mounts {
		if m.Type == mount.TypeBind && m.IDMap == "" {
			continue
		}
		list, err := a.place(ctx, c, m, "", u)
		places = append(places, list...)
		if err != nil {
			done()
			return nil, func() {}, err
		}
		p := list[len(list)-1]
		sources[m.Destination] = p.Source
		if p.Device != m.Device || p.Mountpoint != "" && p.Mountpoint != m.Source {
			c.Lock()
			c.Mounts = slices.Clone(c.Mounts) // views may be reading the old one
			c.Mounts[i].Device = p.Device
			if p.Mountpoint != "" {
				c.Mounts[i].Source = p.Mountpoint
			}
			c.Unlock()
		}
	}
	return sources, done, nil
}

// place makes one mount of a container available; the last of the places is the
// one to take. All are given back with volumes.Started, and the undo stack ends
// the use of a volume. A visit (see volume.Run) is none of the container's runs.
func (a *Mounts) place(ctx context.Context, c *container.Container, m container.Mount, visit string, u *undo.Stack) ([]volume.Place, error) {
	at := volume.Place{Source: m.Source}
	var err error
	switch m.Type {
	case mount.TypeVolume:
		at, err = a.volumes.Mount(ctx, volume.Run{Volume: m.Name, Container: c.ID, Destination: m.Destination, Subpath: m.Subpath, ReadOnly: !m.RW, Visit: visit})
		if err == nil && visit != "" {
			u.Add(func() { volume.EndVisit(a.volumes, m.Name, visit) })
		} else if err == nil {
			u.Add(func() { a.volumes.Unmount(m.Name, c.ID) })
		}
	case mount.TypeImage:
		var w *snapshot.Writable
		if w, err = a.snapshots.OpenWritable(m.Layer, snapshot.Lower{}); err == nil {
			at, err = a.volumes.Layers(w.Lower, w.Dir, m.Subpath)
		}
	}
	if err != nil {
		return nil, err
	}
	places := []volume.Place{at}
	if m.IDMap != "" {
		if at, err = a.volumes.Mapped(at, !m.NonRecursive, a.owners(c, m.IDMap)); err == nil {
			places = append(places, at)
		}
	}
	return places, err
}

// Trees opens, by their destinations, what a start of a container that does not
// run would mount into it, but for temporary file systems, which are empty then.
// They are detached and the caller's own; leave is called when nothing of them
// is in use any more. What is not there is left out: a start makes it, or fails.
// c.Op is held.
func (a *Mounts) Trees(ctx context.Context, c *container.Container) (trees map[string]int, leave func(), err error) {
	visit := "visit-" + id.New()
	var u undo.Stack
	trees = map[string]int{}
	u.Add(func() {
		if err != nil {
			for _, fd := range trees {
				unix.Close(fd)
			}
		}
	})
	leave = u.Run
	for _, m := range c.Mounts {
		if m.Type == mount.TypeTmpfs {
			continue
		}
		places, perr := a.place(ctx, c, m, visit, &u)
		u.Add(func() { a.volumes.Started(places...) })
		tree := -1
		if perr == nil {
			tree, perr = volume.Tree(a.volumes, places[len(places)-1], !m.NonRecursive)
		}
		if errors.Is(perr, unix.ENOENT) {
			continue
		}
		if perr == nil {
			trees[m.Destination] = tree
			if !m.RW {
				perr = kmount.Change(tree, unix.MOUNT_ATTR_RDONLY, 0, 0, !m.NonRecursive)
			}
		}
		if err = perr; err != nil {
			leave()
			return nil, func() {}, err
		}
	}
	return trees, leave, nil
}

// Stop ends a run with its volumes.
func (a *Mounts) Stop(c *container.Container) {
	for _, m := range c.Mounts {
		if m.Type == mount.TypeVolume {
			a.volumes.Unmount(m.Name, c.ID)
		}
	}
}

// Adopt takes note of the volumes of a container that runs.
func (a *Mounts) Adopt(c *container.Container, pid int) {
	for _, m := range c.Mounts {
		if m.Type == mount.TypeVolume {
			device := m.Device
			if m.IDMap != "" {
				device = 0 // what the container has shows other owners than the volume
			}
			warn("adopt volume", c.ID, a.volumes.Adopt(m.Name, c.ID, m.Destination, device, pid))
		}
	}
}

// MakeSources makes the host directories of -v that do not exist.
func MakeSources(ms []container.Mount) error {
	for _, m := range ms {
		if m.Type != mount.TypeBind || !m.CreateSource {
			continue
		}
		if _, err := os.Lstat(m.Source); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.MkdirAll(m.Source, 0o755); err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("error while creating mount source path '%s': %v", m.Source, err))
		}
	}
	return nil
}

// warn reports a failure that nobody waits for.
func warn(what, id string, err error) {
	if err != nil {
		slog.Warn(what, "container", id, "error", err)
	}
}

// invalid is an error that the client can mend.
func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
