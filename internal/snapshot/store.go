// Package snapshot owns the unpacked layers of images and the writable layers
// of containers.
//
// Layers are containerd snapshots, named by their chain id and recorded in the
// metadata database that the caller brings along; they are the slow, synced
// side. Writable layers are plain directories that no database knows of, for
// they are made and removed with each container:
//
//	<root>/driver                       name of the storage driver
//	<root>/metadata.db, snapshots/<n>   the snapshotter's own
//	<root>/empty                        lower directory of an image without layers
//	<root>/rw/<first 2 of id>/<id>/     lower (text, see writeLower), fs, work
//	<root>/trash/                       removed writable layers, being deleted
//
// Format 1. Nothing under rw is ever synced on purpose: after a power failure
// a container's last seconds may be lost, as with every overlay.
package snapshot

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/wherry-engine/wherry/internal/linux/quota"
)

// Labels on snapshots. labelDir is relative to the base, as data roots move.
const (
	labelDir  = "wherry.dir"
	labelSize = "wherry.size"
)

// Config says what a Store is made of.
type Config struct {
	Driver *Driver
	// Snapshotter is Driver's, as seen through the metadata database.
	Snapshotter snapshots.Snapshotter
	// Hold keeps an existing chain alive as long as the lease in ctx.
	Hold func(ctx context.Context, chain digest.Digest) error
	// Limits for one layer; the zero value means DefaultLimits.
	Limits Limits
}

// Store is safe for use by several goroutines.
type Store struct {
	root, base, empty, driver string
	quotas                    bool // the file system keeps them: what is removed may have one

	sn     snapshots.Snapshotter
	hold   func(context.Context, digest.Digest) error
	limits Limits
	trash  *trash
	closer io.Closer

	// placed counts the layers whose files were written, each before it can be
	// seen; a Sync that began when there were n of them leaves n+1 in synced.
	// What an earlier process has placed is not known to be durable.
	placed, synced atomic.Uint64

	mu     sync.RWMutex
	chains map[digest.Digest]Lower
	round  uint64 // of collections: what was read before one is not remembered after it

	// gate orders new writable layers against collections: the layer is on
	// disk before the collection looks for it, or waits for its end.
	gate       sync.RWMutex
	collecting chan struct{}          // closed at the end; nil when none runs
	spared     map[digest.Digest]bool // chains that the running one will not take

	busyMu sync.Mutex
	busy   map[digest.Digest]chan struct{} // chains being unpacked
	slots  chan struct{}                   // one for each layer that may be written at a time
	gcMu   sync.Mutex                      // held by the running collection
}

// New opens the store below the driver's root and goes on deleting what an
// earlier process had removed.
func New(c Config) (*Store, error) {
	root := c.Driver.Root
	s := &Store{
		root: root, base: filepath.Join(root, "snapshots"), empty: filepath.Join(root, "empty"), driver: c.Driver.Name,
		sn: c.Snapshotter, hold: c.Hold, closer: c.Driver.Snapshotter, limits: c.Limits.orDefault(),
		chains: map[digest.Digest]Lower{}, busy: map[digest.Digest]chan struct{}{},
		slots: make(chan struct{}, max(2, runtime.GOMAXPROCS(0))),
	}
	for _, d := range []string{s.empty, filepath.Join(root, "rw")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	s.quotas = quota.Supported(filepath.Join(root, "rw")) == nil
	var err error
	s.trash, err = openTrash(filepath.Join(root, "trash"))
	return s, err
}

// Driver returns the name of the storage driver.
func (s *Store) Driver() string { return s.driver }

// Close waits until removed layers are deleted and closes the driver.
func (s *Store) Close() error {
	s.trash.wait()
	return s.closer.Close()
}

// Settle waits until removed layers are deleted.
func (s *Store) Settle() { s.trash.wait() }

// Layers returns the directories of an unpacked chain; "" is the empty image.
// The second call for a chain is answered from memory.
func (s *Store) Layers(ctx context.Context, chain digest.Digest) (Lower, error) {
	if chain == "" {
		return Lower{}, nil
	}
	s.mu.RLock()
	l, ok := s.chains[chain]
	round := s.round
	s.mu.RUnlock()
	if ok {
		return l, nil
	}
	l = Lower{Chain: chain}
	for name := chain.String(); name != ""; {
		info, err := s.sn.Stat(ctx, name)
		if err != nil {
			return Lower{}, fmt.Errorf("layer %s: %w", name, err)
		}
		dir := info.Labels[labelDir]
		if dir == "" || !filepath.IsLocal(dir) {
			return Lower{}, fmt.Errorf("layer %s: its directory is not recorded", name)
		}
		if s.driver != VFS || len(l.Dirs) == 0 {
			l.Dirs = append(l.Dirs, filepath.Join(s.base, dir))
		}
		n, _ := strconv.ParseInt(info.Labels[labelSize], 10, 64)
		l.Size += n
		name = info.Parent
	}
	s.mu.Lock()
	if s.round == round {
		s.chains[chain] = l
	}
	s.mu.Unlock()
	return l, nil
}

// Collect runs collect, which removes unused chains, and forgets what was
// remembered about them. collect gets the chains that writable layers stand
// on. One collection runs at a time.
func (s *Store) Collect(collect func(inUse map[digest.Digest]bool) error) error {
	s.gcMu.Lock()
	defer s.gcMu.Unlock()
	s.gate.Lock()
	used, err := s.chainsInUse()
	if err != nil {
		s.gate.Unlock()
		return err
	}
	end := make(chan struct{})
	s.collecting, s.spared = end, maps.Clone(used)
	s.gate.Unlock()

	err = collect(used)
	s.mu.Lock()
	clear(s.chains)
	s.round++
	s.mu.Unlock()
	s.gate.Lock()
	s.collecting, s.spared = nil, nil
	s.gate.Unlock()
	close(end)
	return err
}

// settled makes sure that a running collection, which may not have seen the
// layer that was just made, has not taken away what it stands on.
func (s *Store) settled(end <-chan struct{}, lower Lower) error {
	if end == nil {
		return nil
	}
	<-end
	for _, d := range lower.Dirs {
		if _, err := os.Stat(d); err != nil {
			return gone(lower)
		}
	}
	return nil
}

// directories finds in a snapshot's mounts the directory to unpack into and,
// for an overlay, the ones below it.
func directories(mounts []mount.Mount) (upper string, parents []string, overlaid bool, err error) {
	if len(mounts) != 1 {
		return "", nil, false, fmt.Errorf("snapshot of %d mounts", len(mounts))
	}
	m := mounts[0]
	if m.Type == "bind" {
		return m.Source, nil, false, nil
	}
	for _, o := range m.Options {
		if v, ok := strings.CutPrefix(o, "upperdir="); ok {
			upper = v
		} else if v, ok := strings.CutPrefix(o, "lowerdir="); ok {
			parents = strings.Split(v, ":")
		}
	}
	if upper == "" {
		return "", nil, false, errdefs.ErrNotImplemented.WithMessage("snapshot without a directory to write to: " + m.Type)
	}
	return upper, parents, true, nil
}

// Total returns the bytes of all layers' files, each layer once.
func (s *Store) Total(ctx context.Context) (n int64, err error) {
	err = s.sn.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		size, _ := strconv.ParseInt(info.Labels[labelSize], 10, 64)
		n += size
		return nil
	})
	return n, err
}

// Layer names the snapshot that has the files of one, and tells how many bytes
// of it Total counts.
func (s *Store) Layer(ctx context.Context, name string) (files string, size int64, err error) {
	info, err := s.sn.Stat(ctx, name)
	if err != nil {
		return "", 0, err
	}
	size, _ = strconv.ParseInt(info.Labels[labelSize], 10, 64)
	return Stands(info), size, nil
}
