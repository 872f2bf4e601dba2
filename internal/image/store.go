// Package image owns the names of images: which reference stands for which
// manifest, and therefore which blobs and layers of the data root are needed.
//
// An image's id is the digest of its config. What it came as, a manifest or an
// index, is kept byte for byte and is the target of its names. The table lives
// in meta.db (see package content), one row for each name, keyed by
//
//	docker.io/library/busybox:latest          a tag
//	docker.io/library/busybox@sha256:<hex>    the digest a registry knows it by
//	dangling@sha256:<hex of the target>       an image without a name
//
// with the labels wherry.image.id, .manifest and .parent, so that the whole
// table is in memory after Open and no blob has been read. Names are durable
// when a method that sets them returns.
package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"

	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/image/tree"
	"github.com/wherry-engine/wherry/internal/snapshot"
	"github.com/wherry-engine/wherry/internal/undo"
)

// Config says where the store lies and how it behaves.
type Config struct {
	Root   string // the engine's data root
	Driver string // "overlay2", "vfs", or "" for the one that Root has, else overlay2
	// Events gets each image event; it must not block. May be nil.
	Events func(events.Message)
	// Builtin are the programs of images that the engine carries: name ->
	// the static program that the image consists of.
	Builtin map[string]func() []byte
	Limits  snapshot.Limits
}

// Use is a container that uses an image.
type Use struct {
	Container string // id
	Running   bool
}

// Store is safe for use by several goroutines.
type Store struct {
	root      string
	content   *content.Store
	snapshots *snapshot.Store
	events    func(events.Message)
	builtin   map[string]func() []byte

	tree *tree.Tree
	*table

	usersMu sync.RWMutex
	users   func(imageID string) []Use

	stop       context.CancelFunc
	background sync.WaitGroup
}

// Open opens the store, making it when Root is fresh. What a crash left
// half-made is removed in the background.
func Open(ctx context.Context, c Config) (*Store, error) {
	var u undo.Stack
	defer u.Run()
	if err := os.MkdirAll(c.Root, 0o711); err != nil {
		return nil, err
	}
	drv, err := snapshot.OpenDriver(c.Root+"/layers", c.Driver)
	if err != nil {
		return nil, err
	}
	u.Add(func() { drv.Snapshotter.Close() })
	blobs, err := content.Open(ctx, c.Root, map[string]snapshots.Snapshotter{drv.Name: drv.Snapshotter})
	if err != nil {
		return nil, err
	}
	u.Add(func() { blobs.Close() })
	s := &Store{root: c.Root, content: blobs, events: c.Events, builtin: c.Builtin}
	s.snapshots, err = snapshot.New(snapshot.Config{Driver: drv, Snapshotter: blobs.Snapshotter(drv.Name), Limits: c.Limits,
		Hold: func(ctx context.Context, chain digest.Digest) error {
			return blobs.Hold(ctx, leases.Resource{ID: chain.String(), Type: "snapshots/" + drv.Name})
		}})
	if err != nil {
		return nil, fmt.Errorf("layers: %w", err)
	}
	s.tree = &tree.Tree{Content: blobs, Snapshots: s.snapshots}
	s.table = &table{content: blobs, choose: s.tree.Pick, index: newIndex()}
	if err := s.readTable(ctx); err != nil {
		return nil, err
	}
	u.Keep()
	bg, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	s.stop = func() { stop(errors.New("the image store is closed")) }
	s.background.Go(func() {
		if err := s.recover(bg); err != nil && bg.Err() == nil {
			slog.Error("images: cannot remove what an earlier engine left half-made", "error", err)
		}
	})
	return s, nil
}

// Close ends background work and closes the database. Nothing else may run.
func (s *Store) Close() error {
	s.stop()
	s.background.Wait()
	return errors.Join(s.snapshots.Close(), s.content.Close())
}

// Snapshots is where writable layers are made.
func (s *Store) Snapshots() *snapshot.Store { return s.snapshots }

// Content is where blobs are kept.
func (s *Store) Content() *content.Store { return s.content }

// SetUsers says how to find the containers that use an image. Until it is
// called, no image counts as used.
func (s *Store) SetUsers(f func(imageID string) []Use) {
	s.usersMu.Lock()
	s.users = f
	s.usersMu.Unlock()
}

func (s *Store) usedBy(id digest.Digest) []Use {
	s.usersMu.RLock()
	f := s.users
	s.usersMu.RUnlock()
	if f == nil {
		return nil
	}
	return f(id.String())
}

// Layers returns the directories that make the image's root, top first.
func (s *Store) Layers(ctx context.Context, img *Image) (snapshot.Lower, error) {
	return s.snapshots.Layers(content.With(ctx), img.ChainID)
}

// publish sends an event about an image in dockerd's form: the labels of the
// image and its name are the attributes.
func (s *Store) publish(action events.Action, img *Image, id, name string) {
	if s.events == nil {
		return
	}
	attrs := map[string]string{}
	if img != nil {
		for k, v := range img.Config.Config.Labels {
			attrs[k] = v
		}
	}
	if name != "" {
		attrs["name"] = name
	}
	now := time.Now()
	s.events(events.Message{Type: events.ImageEventType, Action: action, Scope: "local",
		Actor: events.Actor{ID: id, Attributes: attrs}, Time: now.Unix(), TimeNano: now.UnixNano()})
}
