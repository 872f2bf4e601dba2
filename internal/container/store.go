package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/id"
)

// Container is one container in memory. Two locks: Op serialises whole
// operations on it (a start against a removal) and may be held long; the
// embedded lock guards the fields and is held for moments only. Op is taken
// first.
type Container struct {
	Op sync.Mutex
	mu sync.Mutex
	Record
	waiters []*waiter
	gone    bool
	root    string
}

// Lock guards the record and the state.
func (c *Container) Lock() { c.mu.Lock() }

// Unlock is the other half of Lock.
func (c *Container) Unlock() { c.mu.Unlock() }

// Dir is the container's directory under the data root.
func (c *Container) Dir() string { return dir(c.root, c.ID) }

// Gone reports whether the container was removed. Callers that waited for Op
// ask it before they go on. The caller holds the lock.
func (c *Container) Gone() bool { return c.gone }

// Save writes the record. The caller holds the lock. Synced for what the user
// configured, Cached for what merely happened; see the package comment.
func (c *Container) Save(d atomicfile.Durability) error {
	if c.gone {
		return nil
	}
	return c.write(c.root, d)
}

// Configure puts another configuration in the place of the container's, which
// views may be reading, and writes the record; after an error it has the one of
// before. apply brings the configuration into force once there is room on the
// disk for the record, which has the old one until then. The caller holds the lock.
func (c *Container) Configure(h *container.HostConfig, d atomicfile.Durability, apply func() error) (err error) {
	before := c.HostConfig
	c.HostConfig = h
	defer func() {
		if err != nil {
			c.HostConfig = before
		}
	}()
	if c.gone {
		return apply()
	}
	s, err := c.stage(c.root, d)
	if err != nil {
		return err
	}
	if err := apply(); err != nil {
		s.Discard()
		return err
	}
	return s.Commit()
}

// Snapshot copies the record for a reader. What it points to is not changed,
// but replaced.
func (c *Container) Snapshot() Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Record
}

// Store indexes all containers by id, id prefix and name.
type Store struct {
	root string

	mu    sync.RWMutex
	byID  map[string]*Container
	names map[string]string // name -> id
	ids   []string          // sorted, for prefixes
}

// Open reads the records below root, <data-root>/containers. Directories
// without a record are what a crash left of a creation or a removal: they are
// given to orphan (which may remove them). Unreadable records are reported
// through problem and left alone.
func Open(root string, orphan func(id string), problem func(error)) (*Store, error) {
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, err
	}
	s := &Store{root: root, byID: map[string]*Container{}, names: map[string]string{}}
	shards, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 2*runtime.GOMAXPROCS(0))
	for _, shard := range shards {
		entries, err := os.ReadDir(filepath.Join(root, shard.Name()))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if !id.Valid(e.Name()) {
				continue
			}
			wg.Add(1)
			slots <- struct{}{}
			go func() {
				defer func() { <-slots; wg.Done() }()
				r, err := read(root, e.Name())
				switch {
				case errors.Is(err, fs.ErrNotExist):
					orphan(e.Name())
				case err != nil:
					problem(err)
				default:
					s.mu.Lock()
					s.byID[r.ID] = &Container{Record: *r, root: root}
					s.names[r.Name] = r.ID
					s.mu.Unlock()
				}
			}()
		}
	}
	wg.Wait()
	for k := range s.byID {
		s.ids = append(s.ids, k)
	}
	slices.Sort(s.ids)
	return s, nil
}

// Reserve takes a name for id, or says whose it is. Free gives it back.
func (s *Store) Reserve(name, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if owner, ok := s.names[name]; ok {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("Conflict. The container name \"/%s\" is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.", name, owner))
	}
	s.names[name] = id
	return nil
}

// Free gives a name back that id holds.
func (s *Store) Free(name, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names[name] == id {
		delete(s.names, name)
	}
}

// Add makes the container's directory, writes its record and lets it be found.
// Its name was reserved before. On return the record is as durable as d says.
func (s *Store) Add(c *Container, d atomicfile.Durability) error {
	c.root, c.Version = s.root, version
	path := c.Dir()
	if err := os.Mkdir(path, 0o710); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(path, 0o710); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := c.write(s.root, d); err != nil {
		os.RemoveAll(path)
		return err
	}
	if d == atomicfile.Synced {
		if err := atomicfile.SyncDir(filepath.Dir(path)); err != nil {
			os.RemoveAll(path)
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[c.ID] = c
	i, _ := slices.BinarySearch(s.ids, c.ID)
	s.ids = slices.Insert(s.ids, i, c.ID)
	return nil
}

// Drop removes the container's record and forgets it; its name is free and its
// waiters are woken when Drop returns without error. The caller calls rest,
// which deletes the directory, when nobody waits any more: a crash before that
// leaves a directory without a record, which the next Open hands over as an orphan.
func (s *Store) Drop(c *Container) (rest func() error, err error) {
	path := c.Dir()
	if err := os.Remove(filepath.Join(path, "config.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s.mu.Lock()
	delete(s.byID, c.ID)
	if s.names[c.Name] == c.ID {
		delete(s.names, c.Name)
	}
	if i, ok := slices.BinarySearch(s.ids, c.ID); ok {
		s.ids = slices.Delete(s.ids, i, i+1)
	}
	s.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	c.SetRemoved()
	return func() error { return os.RemoveAll(path) }, nil
}

// Rename moves the container to a name reserved before and frees the old one.
// The caller holds the container's lock and saves the record.
func (s *Store) Rename(c *Container, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.names, c.Name)
	c.Name = name
}

// Get finds a container by full id, name (a leading slash is allowed), the name
// of a link ("web/db" is what web calls db) or unique prefix of its id, in this
// order, as dockerd does.
func (s *Store) Get(ref string) (*Container, error) {
	c, err := s.find(ref)
	if c == nil && strings.Contains(ref, "/") {
		if c := s.linked(ref); c != nil {
			return c, nil
		}
	}
	return c, err
}

// linked finds a container by the name that another gives it, nil for none.
func (s *Store) linked(ref string) *Container {
	name, alias, _ := strings.Cut(strings.TrimPrefix(ref, "/"), "/")
	s.mu.RLock()
	from := s.byID[s.names[name]]
	s.mu.RUnlock()
	if from == nil {
		return nil
	}
	r := from.Snapshot()
	for _, l := range r.Links() {
		if l.Alias == alias {
			to, _ := s.find(l.Target) // nil when it has gone, and the link with it
			return to
		}
	}
	return nil
}

func (s *Store) find(ref string) (*Container, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := s.byID[ref]; c != nil {
		return c, nil
	}
	if owner, ok := s.names[strings.TrimPrefix(ref, "/")]; ok {
		if c := s.byID[owner]; c != nil {
			return c, nil
		}
	}
	if id.ValidPrefix(ref) {
		i, _ := slices.BinarySearch(s.ids, ref)
		if i < len(s.ids) && strings.HasPrefix(s.ids[i], ref) {
			if i+1 < len(s.ids) && strings.HasPrefix(s.ids[i+1], ref) {
				return nil, errdefs.ErrInvalidArgument.WithMessage("multiple IDs found with provided prefix: " + ref)
			}
			return s.byID[s.ids[i]], nil
		}
	}
	if ref == "" {
		return nil, errdefs.ErrInvalidArgument.WithMessage("bad parameter: invalid container name or ID: value is empty")
	}
	return nil, errdefs.ErrNotFound.WithMessage("No such container: " + ref)
}

// All returns every container, in no particular order.
func (s *Store) All() []*Container {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*Container, 0, len(s.byID))
	for _, c := range s.byID {
		all = append(all, c)
	}
	return all
}
