// Package secret owns the secrets of plain containers: files that a container
// sees in memory only, and that nothing else of the engine ever shows.
//
//	<data-root>/secrets/<id>.json         0600; Version 1, name, labels, value
//	<exec-root>/secrets/<container>/<n>   what a running container has; on a
//	                                      tmpfs, gone when it ends
//
// The second directory is the exec root's own when that is a tmpfs already, as
// /run is; else one is mounted there while any container needs it.
package secret

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/api"
	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/id"
)

const (
	version = 1
	maxSize = 500 << 10 // bytes of one secret, as docker's
	dir     = "/run/secrets"
)

var validName = regexp.MustCompile(`^[a-zA-Z0-9]+(?:[a-zA-Z0-9-_.]*[a-zA-Z0-9])?$`)

// Store holds the secrets. Use Open.
type Store struct {
	root, run string
	mounted   bool // run is a mount of ours

	mu   sync.Mutex
	byID map[string]*record
}

type record struct {
	Version int
	api.Secret
	Data []byte
}

// Open reads the secrets of a data root; execRoot is where running containers
// get theirs.
func Open(dataRoot, execRoot string) (*Store, error) {
	s := &Store{root: filepath.Join(dataRoot, "secrets"), run: filepath.Join(execRoot, "secrets"), byID: map[string]*record{}}
	files, err := filepath.Glob(filepath.Join(s.root, "*.json"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		var r record
		if err := json.Unmarshal(data, &r); err != nil || r.Version != version {
			return nil, fmt.Errorf("%s: not a secret of version %d", f, version)
		}
		s.byID[r.ID] = &r
	}
	var st, above unix.Stat_t
	if unix.Stat(s.run, &st) == nil && unix.Stat(execRoot, &above) == nil {
		s.mounted = st.Dev != above.Dev
	}
	return s, nil
}

// Create stores a secret; it is on disk on return.
func (s *Store) Create(r api.SecretRequest) (*api.Secret, error) {
	switch {
	case len(r.Name) > 64 || !validName.MatchString(r.Name):
		return nil, errdefs.ErrInvalidArgument.WithMessage("invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]")
	case len(r.Data) == 0 || len(r.Data) > maxSize:
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("secret data must be larger than 0 and less than %d bytes", maxSize))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.byID {
		if o.Name == r.Name {
			return nil, errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("secret %s already exists", r.Name))
		}
	}
	n := &record{Version: version, Secret: api.Secret{ID: id.New()[:25], Name: r.Name, Labels: r.Labels, CreatedAt: time.Now().UTC()}, Data: r.Data}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	data, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return nil, err
	}
	if err := atomicfile.Write(s.file(n.ID), data, 0o600, atomicfile.Synced); err != nil {
		return nil, err
	}
	s.byID[n.ID] = n
	return &n.Secret, nil
}

func (s *Store) file(id string) string { return filepath.Join(s.root, id+".json") }

// List gives all secrets by name.
func (s *Store) List() []api.Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]api.Secret, 0, len(s.byID))
	for _, r := range s.byID {
		out = append(out, r.Secret)
	}
	slices.SortFunc(out, func(a, b api.Secret) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Inspect finds a secret by name, id, or the unique beginning of an id.
func (s *Store) Inspect(ref string) (*api.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	return &r.Secret, nil
}

func (s *Store) find(ref string) (*record, error) {
	var found []*record
	for _, r := range s.byID {
		switch {
		case r.Name == ref || r.ID == ref:
			return r, nil
		case ref != "" && strings.HasPrefix(r.ID, ref):
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("secret %s not found", ref))
	case 1:
		return found[0], nil
	}
	return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("secret %s is ambiguous (%d matches found)", ref, len(found)))
}

// Remove deletes a secret. Running containers keep theirs until they end.
func (s *Store) Remove(ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.find(ref)
	if err != nil {
		return err
	}
	if err := os.Remove(s.file(r.ID)); err != nil {
		return err
	}
	delete(s.byID, r.ID)
	return nil
}

// Ref is a secret that a container wants.
type Ref struct {
	Source, Target string // Target is absolute
	UID, GID       int
	Mode           fs.FileMode
}

// Refs reads a container's annotations; sorted by target.
func Refs(annotations map[string]string) ([]Ref, error) {
	var out []Ref
	for _, k := range slices.Sorted(maps.Keys(annotations)) {
		target, ok := strings.CutPrefix(k, api.AnnotationSecret)
		if !ok {
			continue
		}
		r := Ref{Target: path.Join(dir, target), Mode: 0o444}
		if path.IsAbs(target) {
			r.Target = path.Clean(target)
		} else if r.Target == dir || !strings.HasPrefix(r.Target, dir+"/") {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid secret target %q", target))
		}
		for _, kv := range strings.Split(annotations[k], ",") {
			if err := r.set(kv); err != nil {
				return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid secret %q: %v", annotations[k], err))
			}
		}
		if r.Source == "" {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid secret %q: source is required", annotations[k]))
		}
		out = append(out, r)
	}
	return out, nil
}

func (r *Ref) set(kv string) error {
	k, v, _ := strings.Cut(kv, "=")
	var err error
	switch k {
	case "source":
		r.Source = v
	case "uid":
		r.UID, err = strconv.Atoi(v)
	case "gid":
		r.GID, err = strconv.Atoi(v)
	case "mode":
		var m uint64
		m, err = strconv.ParseUint(v, 8, 12)
		r.Mode = fs.FileMode(m)
	default:
		err = fmt.Errorf("unknown field %q", k)
	}
	return err
}

// Check tells whether a container can have what its annotations ask for.
func (s *Store) Check(annotations map[string]string) error {
	refs, err := Refs(annotations)
	if err != nil {
		return err
	}
	for _, r := range refs {
		if _, err := s.Inspect(r.Source); err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(err.Error()) // "not found" would mean the image to clients
		}
	}
	return nil
}

// Placed is a file or directory to bind into a container, read-only.
type Placed struct{ Source, Destination string }

// Place makes the files of a container that is about to start; Release takes
// them away again.
func (s *Store) Place(container string, annotations map[string]string) ([]Placed, error) {
	refs, err := Refs(annotations)
	if err != nil || len(refs) == 0 {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ready(); err != nil {
		return nil, err
	}
	base := filepath.Join(s.run, container)
	if err := os.RemoveAll(base); err != nil {
		return nil, err
	}
	var out []Placed
	for i, r := range refs {
		secret, err := s.find(r.Source)
		if err != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
		file := filepath.Join(base, strconv.Itoa(i))
		below, inside := strings.CutPrefix(r.Target, dir+"/")
		if inside {
			file = filepath.Join(base, "dir", below)
		}
		if err := write(file, secret.Data, r); err != nil {
			return nil, err
		}
		if !inside {
			out = append(out, Placed{file, r.Target})
		} else if len(out) == 0 || out[0].Destination != dir {
			out = append([]Placed{{filepath.Join(base, "dir"), dir}}, out...)
		}
	}
	return out, nil
}

func write(file string, data []byte, r Ref) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chown(r.UID, r.GID), f.Chmod(r.Mode), f.Close())
}

// ready makes sure that run is in memory.
func (s *Store) ready() error {
	if err := os.MkdirAll(s.run, 0o700); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.run, &st); err != nil {
		return err
	}
	if st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC {
		return nil
	}
	if err := unix.Mount("wherry-secrets", s.run, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount %s: %w", s.run, err)
	}
	s.mounted = true
	return nil
}

// Release takes away what a container has that does not run any more, and
// after the last one the mount.
func (s *Store) Release(container string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.RemoveAll(filepath.Join(s.run, container)); err != nil {
		return err
	}
	return s.tidy()
}

// Sweep releases all but the running containers'.
func (s *Store) Sweep(running func(container string) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, err := os.ReadDir(s.run)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range list {
		if !running(e.Name()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.run, e.Name())))
		}
	}
	return errors.Join(err, s.tidy())
}

func (s *Store) tidy() error {
	if list, err := os.ReadDir(s.run); err != nil || len(list) > 0 {
		return nil //nolint:nilerror // there is none
	}
	if s.mounted {
		if err := unix.Unmount(s.run, 0); err != nil {
			return fmt.Errorf("unmount %s: %w", s.run, err)
		}
		s.mounted = false
	}
	return os.Remove(s.run)
}
