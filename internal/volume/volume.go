// Package volume owns named and anonymous volumes: directories that outlive
// the containers that mount them.
//
// # On disk
//
//	<data-root>/volumes/<name>/_data        what containers see
//	<data-root>/volumes/<name>/volume.json  labels and options, "Version": 1
//
// A volume exists when its volume.json does; a directory without one is what a
// crash left of a creation or removal and is taken away by Open.
package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/id"
)

// DriverLocal is the name of the only driver there is.
const DriverLocal = "local"

// Volume is one volume. Its fields do not change once it exists.
type Volume struct {
	Version   int
	Name      string
	Driver    string
	Labels    map[string]string `json:",omitempty"`
	Anonymous bool              `json:",omitempty"`
	Created   time.Time

	path string
}

// Path is the directory to mount.
func (v *Volume) Path() string { return filepath.Join(v.path, "_data") }

// Store holds all volumes below one directory.
type Store struct {
	root    string
	publish func(events.Message)

	mu     sync.Mutex
	byName map[string]*Volume
	users  map[string]map[string]struct{} // volume -> containers that mount it
}

// Open reads the volumes below root. publish receives the events of volumes.
func Open(root string, publish func(events.Message)) (*Store, error) {
	if err := os.MkdirAll(root, 0o701); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	s := &Store{root: root, publish: publish, byName: map[string]*Volume{}, users: map[string]map[string]struct{}{}}
	for _, e := range entries {
		path := filepath.Join(root, e.Name())
		data, err := os.ReadFile(filepath.Join(path, "volume.json"))
		if errors.Is(err, fs.ErrNotExist) {
			if err := os.RemoveAll(path); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		v := &Volume{path: path}
		if err := json.Unmarshal(data, v); err != nil {
			return nil, fmt.Errorf("%s/volume.json: %w", path, err)
		}
		s.byName[v.Name] = v
	}
	return s, nil
}

// Create returns the volume of that name, making it when it does not exist;
// an empty name makes an anonymous one. fresh tells whether it was made, which
// is durable on return.
func (s *Store) Create(name, driver string, labels map[string]string) (v *Volume, fresh bool, err error) {
	if driver != "" && driver != DriverLocal {
		return nil, false, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("error looking up volume plugin %s: plugin %q not found", driver, driver))
	}
	anonymous := name == ""
	if anonymous {
		name = id.New()
	} else if !id.ValidName(name) {
		return nil, false, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("create %s: %q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", name, name))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.byName[name]; v != nil {
		return v, false, nil
	}
	v = &Volume{Version: 1, Name: name, Driver: DriverLocal, Labels: labels, Anonymous: anonymous, Created: time.Now().UTC(), path: filepath.Join(s.root, name)}
	data, err := json.Marshal(v)
	if err != nil {
		return nil, false, err
	}
	if err := os.MkdirAll(v.Path(), 0o755); err != nil {
		return nil, false, err
	}
	durability := atomicfile.Synced
	if anonymous {
		durability = atomicfile.Cached // no older than the container that it belongs to
	}
	if err := atomicfile.Write(filepath.Join(v.path, "volume.json"), data, 0o600, durability); err != nil {
		os.RemoveAll(v.path)
		return nil, false, err
	}
	s.byName[name] = v
	s.event(events.ActionCreate, name, map[string]string{"driver": v.Driver})
	return v, true, nil
}

// Get finds a volume by name.
func (s *Store) Get(name string) (*Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.byName[name]; v != nil {
		return v, nil
	}
	return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("get %s: no such volume", name))
}

// Use notes that a container mounts the volume, so that it cannot be removed.
func (s *Store) Use(name, container string) {
	s.mu.Lock()
	defer s.mu.Unlock()
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

// Remove deletes a volume that nobody uses.
func (s *Store) Remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.byName[name]
	if v == nil {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("get %s: no such volume", name))
	}
	for user := range s.users[name] {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("remove %s: volume is in use - [%s]", name, user))
	}
	// The description goes first: a crash in between leaves what Open removes.
	if err := os.Remove(filepath.Join(v.path, "volume.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(s.byName, name)
	if err := os.RemoveAll(v.path); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	s.event(events.ActionDestroy, name, map[string]string{"driver": v.Driver})
	return nil
}

func (s *Store) event(action events.Action, name string, attributes map[string]string) {
	s.publish(events.Message{Type: events.VolumeEventType, Action: action, Actor: events.Actor{ID: name, Attributes: attributes}})
}
