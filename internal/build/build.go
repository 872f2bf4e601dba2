// Package build owns builds: BuildKit inside the engine, on the engine's own
// runtime, layers, images, networks and registries, and the API of builds.
//
// There is one content store, one set of layers and one metadata database for
// images and builds (see package content): a base image is not unpacked again,
// and a collection started by either side knows what the other needs. What is
// BuildKit's alone lies below the data root in
//
//	build/workerid           id of this builder, written once
//	build/metadata_v2.db     records of the cache; leases in meta.db keep their layers
//	build/cache.db           the graph of what was built from what
//	build/history.db         builds that were made
//	build/history-meta.db    what belongs to them, blobs in build/history/
//	build/open               id of the boot, synced; there while the builder is open
//	build/tmp/               mounts and files of running builds, swept at the start
//
// All are bbolt files in BuildKit's own formats and are not synced: a crash of
// the engine loses nothing of the cache, one of the machine at most the cache. The
// history of a build is written behind its answer (see package answer): a crash
// of the engine in between loses that record. The builder opens with the first
// request that needs it; until then it costs nothing.
package build

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/build/buildcontext"
	"github.com/wherry-engine/wherry/internal/build/executor"
	"github.com/wherry-engine/wherry/internal/build/lending"
	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/linux/cgroup"
	"github.com/wherry-engine/wherry/internal/transfer"
)

// Config is what a Builder is made of.
type Config struct {
	Root       string // the engine's data root
	ExecRoot   string
	Version    string // of the engine
	Images     *image.Store
	Registries *transfer.Client
	Events     func(events.Message)
	// Steps is called when the builder opens; Root is set by the builder.
	Steps        func() (executor.Config, error)
	Cgroups      *cgroup.Hierarchy
	Limits       Limits
	Entitlements []string // what steps may be granted: network.host, security.insecure, device
}

// Builder serves builds. It is safe for use by several goroutines.
type Builder struct {
	cfg     Config
	uploads buildcontext.Uploads
	desk    lending.Desk

	mu     sync.Mutex
	engine *engine // nil until it is needed
	closed bool
	jobs   jobs
}

// New makes a builder that is not open yet, and removes what builds of a
// killed engine left.
func New(c Config) *Builder {
	b := &Builder{cfg: c}
	if err := b.sweep(); err != nil {
		slog.Warn("cannot remove what is left of earlier builds", "error", err)
	}
	return b
}

// tmp is where BuildKit mounts and unpacks.
func (b *Builder) tmp() string { return filepath.Join(b.cfg.Root, "build", "tmp") }

// steps is where running steps have their files.
func (b *Builder) steps() string { return filepath.Join(b.cfg.ExecRoot, "build") }

// open gives the opened builder.
func (b *Builder) open(ctx context.Context) (*engine, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errClosed
	}
	if b.engine != nil {
		return b.engine, nil
	}
	e, err := openEngine(context.WithoutCancel(ctx), b)
	if err != nil {
		return nil, err
	}
	b.engine = e
	return e, nil
}

// settled gives the opened builder once the builds that were answered are over.
func (b *Builder) settled(ctx context.Context) (*engine, error) {
	e, err := b.open(ctx)
	if err != nil {
		return nil, err
	}
	return e, e.answers.Settle(ctx)
}

// Settle waits for the builds that were answered and still hold what they used.
// Who removes images calls it first.
func (b *Builder) Settle(ctx context.Context) error {
	if e := b.opened(); e != nil {
		return e.answers.Settle(ctx)
	}
	return nil
}

// opened gives the builder if something has opened it.
func (b *Builder) opened() *engine {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.engine
}

// Close ends the builds that run and the builder.
func (b *Builder) Close() error {
	b.mu.Lock()
	e := b.engine
	b.closed, b.engine = true, nil
	b.mu.Unlock()
	if e == nil {
		return nil
	}
	return e.close()
}

// Reloaded forgets where registries were asked: the settings have changed.
func (b *Builder) Reloaded() {
	if b.opened() != nil {
		resolver.DefaultPool.Clear()
	}
}
