package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/registry/sweep"
)

// collects tells whether the server removes blobs that nothing needs.
func (o Options) collects(c *configuration.Configuration) bool {
	switch {
	case o.GC != "":
		return o.GC == "on"
	case c.Proxy.RemoteURL != "":
		return false // a cache has its own rule: what is old goes
	case remembers(c):
		return false
	}
	return c.Storage.Type() == "filesystem" || c.Storage.Type() == "inmemory"
}

// checkCollection refuses settings under which a collection would take what
// another process needs, or would be believed to be there when it is not.
func checkCollection(o Options, c *configuration.Configuration) error {
	if o.GC != "" && o.GC != "on" && o.GC != "off" {
		return fmt.Errorf("--gc is %q, not on or off", o.GC)
	}
	if o.GCGrace < 0 {
		return errors.New("--gc-grace cannot be negative")
	}
	if o.GC != "on" {
		return nil
	}
	if c.Proxy.RemoteURL != "" {
		return errors.New("--gc on: a cache of another registry removes what is old (proxy.ttl), not what is unused")
	}
	if remembers(c) {
		return errors.New("--gc on: storage.cache redis would remember blobs that were removed")
	}
	return nil
}

// remembers tells whether blobs are looked up in a memory outside of the
// storage, which would go on telling of those that were removed.
func remembers(c *configuration.Configuration) bool {
	cache := c.Storage["cache"]
	return cache["blobdescriptor"] == "redis" || cache["layerinfo"] == "redis"
}

// errInUse tells what to do about it; Collect has other words.
var errInUse = errors.New("several can share a directory if all are served with --gc off")

// lockFile lies in the directory of the images. Whoever collects holds it
// alone, other servers share it.
const lockFile = ".wherry-registry.lock"

// claim makes sure that no other process writes to the storage while this one
// collects. Only directories can be claimed.
func claim(c *configuration.Configuration, alone bool) (release func(), err error) {
	if c.Storage.Type() != "filesystem" {
		return func() {}, nil
	}
	dir := fmt.Sprint(c.Storage.Parameters()["rootdirectory"])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	how := unix.LOCK_SH
	if alone {
		how = unix.LOCK_EX
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
		if alone {
			return nil, fmt.Errorf("%w (a directory that cannot be written to is served with --gc off)", err)
		}
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by another wherry-registry: %w", dir, errInUse)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// keepClean loads the ledger and then removes, now and again, what has been
// unused for grace. It ends with ctx.
func keepClean(ctx context.Context, l *sweep.Ledger, grace time.Duration) {
	every := min(max(grace/4, time.Second), 5*time.Minute)
	loaded := false
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if !loaded {
			err := l.Load(ctx)
			if loaded = err == nil; !loaded && ctx.Err() == nil {
				slog.Error("nothing is collected until all manifests can be read", "error", err)
			}
		}
		if loaded {
			if n, err := l.Sweep(ctx, grace); err != nil && ctx.Err() == nil {
				slog.Error("collection stopped", "removed", n, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// DefaultGrace is how long a blob may be without a manifest.
const DefaultGrace = time.Hour

// Collect removes the blobs that no manifest refers to, and with untagged also
// the manifests that no tag leads to. With dryRun it only writes to out what
// would go. No server may write meanwhile: for a directory that is checked, for
// another storage a warning says so.
func Collect(ctx context.Context, o Options, dryRun, untagged bool, out io.Writer) error {
	c, err := settings(o)
	if err != nil {
		return err
	}
	if c.Proxy.RemoteURL != "" {
		return errors.New("a cache of another registry removes what is old by itself (proxy.ttl): there is nothing to collect")
	}
	if remembers(c) && !dryRun {
		return errors.New("the Redis of storage.cache would go on telling of blobs that were removed: collect with a configuration without storage.cache, and empty that Redis before the server starts again")
	}
	if c.Storage.Type() == "filesystem" {
		if _, err := os.Stat(fmt.Sprint(c.Storage.Parameters()["rootdirectory"])); err != nil {
			return err // the claim would make the directory
		}
	}
	release, err := claim(c, true)
	if errors.Is(err, errInUse) {
		return fmt.Errorf("%v is served by a wherry-registry: stop it first, or let it collect by itself (serve --gc on)", c.Storage.Parameters()["rootdirectory"])
	}
	if err != nil {
		return err
	}
	defer release()
	if c.Storage.Type() != "filesystem" && !dryRun {
		slog.Warn("nobody can tell whether a server writes to this storage: what it is given meanwhile may be removed", "storage", c.Storage.Type())
	}
	driver, err := factory.Create(ctx, c.Storage.Type(), c.Storage.Parameters())
	if err != nil {
		return err
	}
	r, err := storage.NewRegistry(ctx, driver)
	if err != nil {
		return err
	}
	l := sweep.New(r, driver)
	if err := l.Load(ctx); err != nil {
		return err
	}
	if untagged {
		list, err := l.Untagged(ctx)
		if err != nil {
			return err
		}
		for _, m := range list {
			if dryRun {
				fmt.Fprintf(out, "manifest eligible for deletion: %s@%s\n", m.Repository, m.Digest)
			}
			if err := l.RemoveManifest(ctx, m, dryRun); err != nil {
				return err
			}
		}
	}
	if dryRun {
		list := l.Idle(0)
		for _, d := range list {
			fmt.Fprintf(out, "blob eligible for deletion: %s\n", d)
		}
		fmt.Fprintf(out, "%d blobs eligible for deletion\n", len(list))
		return nil
	}
	_, err = l.Sweep(ctx, 0)
	return err
}
