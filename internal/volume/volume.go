// Package volume owns named and anonymous volumes: directories, or file systems
// mounted on demand, that outlive the containers that mount them.
//
// # On disk
//
//	<data-root>/volumes/<name>/_data        what containers see
//	<data-root>/volumes/<name>/_fill        a copy of image content under way
//	<data-root>/volumes/<name>/volume.json  labels and options, "Version": 1
//	<data-root>/volumes/.gone-*             removed volumes, being deleted
//
// A volume exists when its volume.json does; a directory without one is what a
// crash left of a creation and is taken away by Open, as are _fill and .gone-*.
// A removal is one rename, and content is copied in by one rename where nobody
// can have the empty directory open, so that both happen wholly or not at all.
//
// # Mounts
//
// A volume with options type, o and device is a file system of its own. It is
// mounted when the first container that uses it starts and unmounted when the
// last one ends, in a mount namespace that belongs to the engine alone (see
// chamber): the host's mount table never shows it.
package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/quota"
	"github.com/wherry-engine/wherry/internal/plugin"
)

const (
	// DriverLocal is the name of the engine's own driver.
	DriverLocal = "local"
	// AnonymousLabel marks the volumes that were made without a name, as in dockerd.
	AnonymousLabel = "com.docker.volume.anonymous"

	version = 1
)

// Volume is one volume. Its exported fields do not change once it exists.
type Volume struct {
	Version   int
	Name      string
	Driver    string
	Labels    map[string]string `json:",omitempty"`
	Options   map[string]string `json:",omitempty"`
	Anonymous bool              `json:",omitempty"`
	Created   time.Time

	path string

	// mounting orders mounts, unmounts and fillings of this volume, which may
	// take as long as a file server takes to answer.
	mounting sync.Mutex
	place    string              // where it is in the chamber; "" when not mounted there
	shown    atomic.Value        // string: where its driver, a plugin, has it mounted
	runs     map[string]struct{} // containers that run with it
}

// Path is the directory that belongs to the volume; of one whose driver is a
// plugin, where that has mounted it last.
func (v *Volume) Path() string {
	if v.remote() {
		at, _ := v.shown.Load().(string)
		return at
	}
	return filepath.Join(v.path, "_data")
}

// remote tells a volume of a plugin from the engine's own.
func (v *Volume) remote() bool { return v.Driver != DriverLocal }

// needsMount tells a file system of its own from a plain directory.
func (v *Volume) needsMount() bool {
	return !v.remote() && (v.Options["type"] != "" || v.Options["device"] != "")
}

// Store holds all volumes below one directory.
type Store struct {
	root    string
	publish func(events.Message)
	drivers drivers
	chamber chamber
	names   keyed // held by who makes or removes a volume of a plugin
	pruning atomic.Bool
	waste   sync.WaitGroup // removed volumes being deleted

	mu     sync.Mutex
	byName map[string]*Volume
	users  map[string]map[string]struct{} // volume -> containers that have it, running or not
}

// Open reads the volumes below root. publish receives the events of volumes.
// plugins are further drivers; nil is none.
func Open(root string, publish func(events.Message), plugins *plugin.Set) (*Store, error) {
	if err := os.MkdirAll(root, 0o701); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	s := &Store{root: root, publish: publish, drivers: drivers{plugins}, byName: map[string]*Volume{}, users: map[string]map[string]struct{}{}}
	for _, e := range entries {
		v, err := read(filepath.Join(root, e.Name()))
		if err != nil {
			return nil, err
		}
		if v != nil {
			s.byName[v.Name] = v
		}
	}
	return s, nil
}

// read gives the volume in a directory, or nil when there is none any more.
func read(path string) (*Volume, error) {
	file := filepath.Join(path, "volume.json")
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || strings.HasPrefix(filepath.Base(path), ".") {
		return nil, os.RemoveAll(path)
	}
	if err != nil {
		return nil, err
	}
	v := &Volume{path: path}
	if err := json.Unmarshal(data, v); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	switch {
	case v.Version != version:
		return nil, fmt.Errorf("%s: version %d is not known to this engine (it knows %d)", file, v.Version, version)
	case v.Name != filepath.Base(path):
		return nil, fmt.Errorf("%s: describes the volume %q", file, v.Name)
	}
	return v, os.RemoveAll(filepath.Join(path, "_fill"))
}

// Request says which volume is wanted.
type Request struct {
	Name    string // "" makes an anonymous one
	Driver  string // "" is whichever has it, else local
	Options map[string]string
	Labels  map[string]string
	// For is the container that will have it: from then on it cannot be
	// removed until Leave. "" for none.
	For string
}

// Create returns the volume of that name, making it when it does not exist.
// What it made is durable on return.
func (s *Store) Create(ctx context.Context, r Request) (*Volume, error) {
	if driver, err := plugged(s).driverFor(ctx, r); err != nil || driver != DriverLocal {
		if err != nil {
			return nil, err
		}
		return plugged(s).create(ctx, driver, r)
	}
	v, err := newVolume(DriverLocal, r)
	if err != nil {
		return nil, err
	}
	if err := checkOptions(v.Options); err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("create %s: %v", v.Name, err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.byName[v.Name]; have != nil {
		if r.Driver != "" && r.Driver != have.Driver {
			return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("create %s: driver '%s' already has volume '%s': volume name must be unique", v.Name, have.Driver, v.Name))
		}
		s.use(v.Name, r.For)
		return have, nil
	}
	v.path = filepath.Join(s.root, v.Name)
	if err := v.write(); err != nil {
		return nil, err
	}
	s.byName[v.Name] = v
	s.use(v.Name, r.For)
	s.event(events.ActionCreate, v.Name, map[string]string{"driver": v.Driver})
	return v, nil
}

// newVolume is what a request makes with a driver, named if it is anonymous.
func newVolume(driver string, r Request) (*Volume, error) {
	v := &Volume{
		Version: version, Name: r.Name, Driver: driver, Labels: maps.Clone(r.Labels), Options: maps.Clone(r.Options),
		Anonymous: r.Name == "", Created: time.Now().UTC(),
	}
	if v.Anonymous {
		v.Name = id.New()
		if v.Labels == nil {
			v.Labels = map[string]string{}
		}
		v.Labels[AnonymousLabel] = ""
	}
	return v, checkName(v.Name)
}

// checkName refuses in dockerd's words what cannot be a volume's name.
func checkName(name string) error {
	switch {
	case len(name) == 1:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("create %s: volume name is too short, names should be at least two alphanumeric characters", name))
	case len(name) > 255:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("create %s: volume name is too long, names should be at most 255 characters", name))
	case !id.ValidName(name):
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("create %s: %q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", name, name))
	}
	return nil
}

// write makes the volume exist. An anonymous one is not waited for: it is no
// older than the container that it belongs to.
func (v *Volume) write() error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(v.path, 0o701); err != nil {
		return err
	}
	if !v.remote() {
		err = v.furnish()
	}
	if err != nil {
		os.RemoveAll(v.path)
		return err
	}
	durability := atomicfile.Synced
	if v.Anonymous {
		durability = atomicfile.Cached
	}
	if err = atomicfile.Write(filepath.Join(v.path, "volume.json"), data, 0o600, durability); err == nil && durability == atomicfile.Synced {
		err = atomicfile.SyncDir(filepath.Dir(v.path))
	}
	if err != nil {
		os.RemoveAll(v.path)
	}
	return err
}

// furnish makes the directory for the content, within its limit.
func (v *Volume) furnish() error {
	r, err := rootOf(v.Options)
	if err != nil {
		return err
	}
	if r.size > 0 {
		err := quota.Limit(v.path, uint64(r.size))
		if errors.Is(err, quota.ErrUnsupported) {
			err = errdefs.ErrInvalidArgument.WithMessage("quota size requested but no quota support: " + err.Error())
		}
		if err != nil {
			return err
		}
	}
	if err := os.Mkdir(v.Path(), 0o755); err != nil {
		return err
	}
	return errors.Join(os.Chmod(v.path, 0o701), r.apply(v.Path(), true))
}

// Get finds a volume by name.
func (s *Store) Get(name string) (*Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.byName[name]; v != nil {
		return v, nil
	}
	return nil, noSuch(name)
}

func noSuch(name string) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("get %s: no such volume", name))
}

// Use notes that a container has the volume, so that it cannot be removed.
func (s *Store) Use(name, container string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.use(name, container)
}

func (s *Store) use(name, container string) {
	if container == "" {
		return
	}
	if s.users[name] == nil {
		s.users[name] = map[string]struct{}{}
	}
	s.users[name][container] = struct{}{}
}

// Leave takes a note of Use back.
func (s *Store) Leave(name, container string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.users[name], container)
	if len(s.users[name]) == 0 {
		delete(s.users, name)
	}
}

// Remove deletes a volume that nobody uses. It is gone at once; its files are
// deleted behind the answer. For one of a plugin, the plugin does it.
func (s *Store) Remove(name string) error {
	if v, err := s.Get(name); err == nil && v.remote() {
		return plugged(s).remove(context.Background(), v, false)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.unused(name)
	if err != nil {
		return err
	}
	return s.discard(v)
}

// unused finds a volume that nobody uses; s.mu is held.
func (s *Store) unused(name string) (*Volume, error) {
	v := s.byName[name]
	if v == nil {
		return nil, noSuch(name)
	}
	if users := s.users[name]; len(users) > 0 {
		ids := slices.Sorted(maps.Keys(users))
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("remove %s: volume is in use - [%s]", name, strings.Join(ids, ", ")))
	}
	return v, nil
}

// discard takes a volume and its files away; s.mu is held.
func (s *Store) discard(v *Volume) error {
	name := v.Name
	if v.Options["size"] != "" && !v.remote() {
		if err := quota.Release(v.path); err != nil {
			slog.Warn("take the limit of a volume away", "volume", name, "error", err)
		}
	}
	gone := filepath.Join(s.root, ".gone-"+id.New())
	if err := os.Rename(v.path, gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	delete(s.byName, name)
	s.waste.Go(func() {
		if err := os.RemoveAll(gone); err != nil {
			slog.Error("delete the files of a volume", "volume", name, "error", err)
		}
	})
	s.event(events.ActionDestroy, name, map[string]string{"driver": v.Driver})
	return nil
}

// Close waits until removed volumes are deleted and gives the mounts back.
func (s *Store) Close() {
	s.waste.Wait()
	s.chamber.close()
}

func (s *Store) event(action events.Action, name string, attributes map[string]string) {
	s.publish(events.Message{Type: events.VolumeEventType, Action: action, Actor: events.Actor{ID: name, Attributes: attributes}})
}
