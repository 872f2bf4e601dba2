package volume

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/id"
)

// keyed are locks by name.
type keyed struct {
	mu sync.Mutex
	m  map[string]*lock
}

type lock struct {
	sync.Mutex
	wanted int
}

func (k *keyed) lock(name string) (unlock func()) {
	k.mu.Lock()
	l := k.m[name]
	if l == nil {
		if k.m == nil {
			k.m = map[string]*lock{}
		}
		l = &lock{}
		k.m[name] = l
	}
	l.wanted++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.wanted--; l.wanted == 0 {
			delete(k.m, name)
		}
	}
}

// remotes is the store's side of volumes whose drivers are plugins.
type remotes struct{ *Store }

func plugged(s *Store) remotes { return remotes{s} }

// driverFor says which driver a request means: the one it names, else that of
// the volume that there is, here or with a plugin, else the engine's own.
func (s remotes) driverFor(ctx context.Context, r Request) (string, error) {
	if r.Driver != "" || r.Name == "" {
		if r.Driver == "" || r.Driver == DriverLocal {
			return DriverLocal, nil
		}
		if v, err := s.Get(r.Name); err == nil && v.Driver != r.Driver {
			return DriverLocal, nil // Create says that it is another's
		}
		if _, err := s.drivers.get(ctx, r.Driver); err != nil {
			name := cmp.Or(r.Name, id.New()) // docker names an anonymous volume before it looks
			if errdefs.IsNotFound(err) {
				return "", errdefs.ErrNotFound.WithMessage(fmt.Sprintf("create %s: error looking up volume plugin %s: %v", name, r.Driver, err))
			}
			return "", fmt.Errorf("create %s: error looking up volume plugin %s: %w", name, r.Driver, err)
		}
		return r.Driver, nil
	}
	if v, err := s.Get(r.Name); err == nil {
		return v.Driver, nil
	}
	for _, driver := range s.drivers.all(ctx) {
		ctx, cancel := wait(ctx, probeWait)
		found, err := s.drivers.find(ctx, driver, r.Name)
		cancel()
		if err != nil {
			// Whether it has such a volume cannot be known: as docker, go on.
			slog.Warn("ask a volume driver", "driver", driver, "volume", r.Name, "error", err)
		} else if found != nil {
			return driver, nil
		}
	}
	return DriverLocal, nil
}

// create is Create for a volume of a plugin.
func (s remotes) create(ctx context.Context, driver string, r Request) (*Volume, error) {
	v, err := newVolume(driver, r)
	if err != nil {
		return nil, err
	}
	defer s.names.lock(v.Name)()
	if have, err := s.Get(v.Name); err == nil {
		if have.Driver != driver {
			return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("create %s: driver '%s' already has volume '%s': volume name must be unique", v.Name, have.Driver, v.Name))
		}
		s.Use(v.Name, r.For)
		return have, nil
	}
	found, err := s.drivers.find(ctx, driver, v.Name)
	made := false
	if err == nil && found == nil {
		made = true
		err = s.drivers.create(ctx, driver, v.Name, v.Options)
	}
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", v.Name, err)
	}
	if found != nil {
		v.shown.Store(found.Mountpoint)
		if at, err := time.Parse(time.RFC3339, found.CreatedAt); err == nil {
			v.Created = at
		}
	}
	v.path = filepath.Join(s.root, v.Name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := v.write(); err != nil {
		return nil, err
	}
	s.byName[v.Name] = v
	s.use(v.Name, r.For)
	if made {
		s.event(events.ActionCreate, v.Name, map[string]string{"driver": v.Driver})
	}
	return v, nil
}

// remove removes a volume of a plugin; with force the record goes also
// when the plugin refuses or is not there.
func (s remotes) remove(ctx context.Context, v *Volume, force bool) error {
	defer s.names.lock(v.Name)()
	s.mu.Lock()
	_, err := s.unused(v.Name)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := s.drivers.remove(ctx, v.Driver, v.Name); err != nil {
		if !force {
			return fmt.Errorf("remove %s: %w", v.Name, err)
		}
		slog.Warn("forget a volume that its driver did not remove", "volume", v.Name, "driver", v.Driver, "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.discard(v)
}

// mount has the driver mount a volume for a container, once for all its
// mounts of it; v.mounting is held.
func (s remotes) mount(ctx context.Context, v *Volume, container string) (Place, error) {
	if _, ok := v.runs[container]; !ok || v.Path() == "" {
		at, err := s.drivers.mount(ctx, v.Driver, v.Name, container)
		if err != nil {
			return Place{}, fmt.Errorf("error while mounting volume '%s': %w", v.Name, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(at, &st); err != nil {
			s.unmount(v, container)
			return Place{}, fmt.Errorf("error while mounting volume '%s': plugin %s has mounted it at %s: %w", v.Name, v.Driver, at, err)
		}
		v.shown.Store(at)
	}
	return Place{Source: v.Path(), Mountpoint: v.Path()}, nil
}

// unmount is the reverse of mount. Nobody waits for its failure:
// the container has ended.
func (s remotes) unmount(v *Volume, container string) {
	if err := s.drivers.unmount(context.Background(), v.Driver, v.Name, container); err != nil {
		slog.Warn("unmount volume", "volume", v.Name, "driver", v.Driver, "container", container, "error", err)
	}
}

// fill copies the directory source into a volume of a plugin that is
// empty; v.mounting is held.
func (s remotes) fill(ctx context.Context, v *Volume, source int) error {
	run := "populate-" + id.Short(id.New())
	at, err := s.drivers.mount(ctx, v.Driver, v.Name, run)
	if err != nil {
		return err
	}
	defer s.unmount(v, run)
	root, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("plugin %s has mounted it at %s: %w", v.Driver, at, err)
	}
	defer unix.Close(root)
	if empty, err := isEmpty(root, "."); err != nil || !empty {
		return err
	}
	return copyInto(ctx, source, root)
}

// list gives the volumes that the plugins have, by name, and what stood in the
// way of knowing. A plugin that does not answer has those of its that are on record.
func (s remotes) list(ctx context.Context) (all map[string]volume.Volume, silent map[string]bool, warnings []string) {
	all, silent = map[string]volume.Volume{}, map[string]bool{}
	for _, driver := range s.drivers.all(ctx) {
		ctx, cancel := wait(ctx, shortWait)
		list, err := s.drivers.list(ctx, driver)
		scope := ""
		if err == nil {
			scope = s.drivers.scope(ctx, driver)
		}
		cancel()
		if err != nil {
			silent[driver] = true
			warnings = append(warnings, err.Error())
			continue
		}
		for _, r := range list {
			all[r.Name] = volume.Volume{Name: r.Name, Driver: driver, Mountpoint: r.Mountpoint, CreatedAt: r.CreatedAt, Scope: scope, Status: r.Status}
		}
	}
	return all, silent, warnings
}

// describe is api with what the driver says.
func (s remotes) describe(ctx context.Context, v *Volume) (volume.Volume, error) {
	out := v.api()
	if !v.remote() {
		return out, nil
	}
	found, err := s.drivers.find(ctx, v.Driver, v.Name)
	if err != nil {
		return out, fmt.Errorf("get %s: %w", v.Name, err)
	}
	if found == nil {
		return out, noSuch(v.Name)
	}
	out.Status, out.Scope = found.Status, s.drivers.scope(ctx, v.Driver)
	if found.Mountpoint != "" {
		out.Mountpoint = found.Mountpoint
	}
	return out, nil
}

// Drivers lists the names of the volume drivers in use.
func (s *Store) Drivers() []string {
	out := []string{DriverLocal}
	if s.drivers.plugins != nil {
		out = append(out, s.drivers.plugins.Known(capability)...)
	}
	return out
}
