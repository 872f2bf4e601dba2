// Package daemon owns the wiring of the engine: which parts there are, in
// which order they open, come back to life and close. It has no behaviour of
// its own, so that it never becomes the object that everything hangs on.
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/build"
	"github.com/wherry-engine/wherry/internal/config"
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/embedded"
	"github.com/wherry-engine/wherry/internal/event"
	"github.com/wherry-engine/wherry/internal/health"
	"github.com/wherry-engine/wherry/internal/httpapi"
	"github.com/wherry-engine/wherry/internal/httpapi/listen"
	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/lifecycle"
	"github.com/wherry-engine/wherry/internal/linux/cgroup"
	"github.com/wherry-engine/wherry/internal/logs/ship"
	"github.com/wherry-engine/wherry/internal/network"
	"github.com/wherry-engine/wherry/internal/plugin"
	"github.com/wherry-engine/wherry/internal/query"
	"github.com/wherry-engine/wherry/internal/secret"
	"github.com/wherry-engine/wherry/internal/session"
	"github.com/wherry-engine/wherry/internal/supervise"
	"github.com/wherry-engine/wherry/internal/transfer"
	"github.com/wherry-engine/wherry/internal/volume"
)

// Build says what program this is.
type Build struct{ Version, Commit string }

// System is a running engine. The fields are its parts, in the order in which
// they are opened.
type System struct {
	build  Build
	config *config.Config
	lock   *os.File

	server    *httpapi.Server
	listeners []net.Listener
	failed    chan error

	events     *event.Bus
	cgroups    *cgroup.Hierarchy
	images     *image.Store
	registries *transfer.Client
	store      *container.Store
	volumes    *volume.Store
	networks   *network.Manager
	keeper     *supervise.Client
	sessions   *session.Manager
	probes     *health.Monitor
	shipper    *ship.Shipper
	secrets    *secret.Store
	engine     *lifecycle.Engine
	view       *query.View
	plugins    *plugin.Set
	builder    *build.Builder
	listening  sync.WaitGroup
	loop       sync.WaitGroup
	reloading  sync.Mutex // guards config once New has returned
}

// New opens the engine. The API answers /_ping as soon as the data root is
// locked and everything else once New has returned.
func New(ctx context.Context, cfg *config.Config, b Build) (s *System, err error) {
	logLibraries()
	s = &System{build: b, config: cfg, failed: make(chan error, 1)}
	defer func() {
		if err != nil {
			s.Close(context.WithoutCancel(ctx))
			s = nil
		}
	}()
	for _, step := range []func(context.Context) error{s.setProxies, s.lockRoot, s.listen, s.openStores, s.openRegistries, s.openHost, s.restore} {
		if err := step(ctx); err != nil {
			return s, err
		}
	}
	s.server.Ready(s.backends())
	return s, nil
}

// lockRoot makes sure that one engine at a time uses the data root.
func (s *System) lockRoot(context.Context) error {
	for dir, mode := range map[string]os.FileMode{s.config.DataRoot: 0o711, s.config.ExecRoot: 0o711} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return err
		}
		if err := os.Chmod(dir, mode); err != nil {
			return err
		}
	}
	path := filepath.Join(s.config.DataRoot, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("another wherryd uses the data root %s (its lock is held); stop it or give this one its own --data-root", s.config.DataRoot)
		}
		return fmt.Errorf("lock %s: %w", path, err)
	}
	s.lock = f
	return nil
}

// listen starts to answer.
func (s *System) listen(context.Context) error {
	var err error
	s.server, err = httpapi.New(httpapi.Options{Version: s.build.Version, MinAPIVersion: s.config.MinAPIVersion})
	if err != nil {
		return err
	}
	if s.listeners, err = listen.Open(s.config); err != nil {
		return err
	}
	for _, l := range s.listeners {
		s.listening.Go(func() {
			if err := s.server.Serve(l); err != nil {
				select {
				case s.failed <- err:
				default:
				}
			}
		})
		slog.Info("API listens", "address", l.Addr().String())
	}
	return nil
}

// openStores opens what lies on disk.
func (s *System) openStores(ctx context.Context) error {
	s.events = event.New()
	hello, err := embedded.Hello()
	if err != nil {
		return err
	}
	s.images, err = image.Open(ctx, image.Config{
		Root: s.config.DataRoot, Driver: s.config.StorageDriver, Events: s.events.Publish,
		Builtin: map[string]func() []byte{"hello-world": func() []byte { return hello }},
	})
	if err != nil {
		return err
	}
	if s.config.WritableSize > 0 {
		if err := s.images.Snapshots().Limits(); err != nil {
			return fmt.Errorf("--storage-opt overlay2.size: %w", err)
		}
	}
	// The engine's own directory keeps its plugins apart from others' on the host.
	s.plugins = plugin.New(plugin.Dirs(filepath.Join(s.config.ExecRoot, "plugins")))
	if s.volumes, err = volume.Open(filepath.Join(s.config.DataRoot, "volumes"), s.events.Publish, s.plugins); err != nil {
		return err
	}
	s.store, err = container.Open(filepath.Join(s.config.DataRoot, "containers"), s.orphan, func(err error) {
		slog.Error("a container's record cannot be used", "error", err)
	})
	if err != nil {
		return err
	}
	s.images.SetUsers(s.usersOf)
	return nil
}

// orphan removes what a crash left of a container that has no record.
func (s *System) orphan(id string) {
	dir := filepath.Join(s.config.DataRoot, "containers", id[:2], id)
	if err := errors.Join(s.images.Snapshots().RemoveWritable(id), os.RemoveAll(dir)); err != nil {
		slog.Error("cannot remove what is left of a container", "container", id, "error", err)
	}
}

// usersOf lists the containers that were made from an image.
func (s *System) usersOf(imageID string) []image.Use {
	var out []image.Use
	for _, c := range s.store.All() {
		if r := c.Snapshot(); r.ImageID == imageID {
			out = append(out, image.Use{Container: r.ID, Running: r.State.Running})
		}
	}
	return out
}

// openHost opens what lies in the kernel, and the keeper.
func (s *System) openHost(ctx context.Context) error {
	h, err := cgroup.Probe()
	if err != nil {
		return err
	}
	if d := cgroup.Driver(s.config.CgroupDriver); d != "" {
		if h, err = h.WithDriver(d); err != nil {
			return err
		}
	}
	s.cgroups = h
	nc, err := networkConfig(s.config, s.plugins)
	if err != nil {
		return err
	}
	if s.networks, err = network.Open(ctx, nc); err != nil {
		return err
	}
	keeper, err := embedded.Keeper()
	if err != nil {
		return err
	}
	init, err := embedded.Init()
	if err != nil {
		return err
	}
	if err := atomicfile.Write(initPath(s.config), init, 0o555, atomicfile.Cached); err != nil {
		return err
	}
	s.keeper, err = supervise.Connect(ctx, supervise.Config{
		Dir: filepath.Join(s.config.ExecRoot, "keeper"), Keeper: keeper, Init: init,
		Logf: func(format string, args ...any) { slog.Warn("keeper: " + fmt.Sprintf(format, args...)) },
	})
	return err
}

// restore joins the parts and brings them to the state of the world.
func (s *System) restore(ctx context.Context) error {
	lc, err := lifecycleConfig(s.config)
	if err != nil {
		return err
	}
	s.sessions = session.New(s.store, s.keeper, s.events)
	s.shipper = ship.New()
	if s.secrets, err = secret.Open(s.config.DataRoot, s.config.ExecRoot); err != nil {
		return err
	}
	s.probes = health.New(s.sessions, s.events)
	s.engine = lifecycle.New(lc, lifecycle.Parts{
		Containers: s.store, Images: s.images, Snapshots: s.images.Snapshots(), Networks: s.networks, Volumes: s.volumes,
		Cgroups: s.cgroups, Keeper: s.keeper, Events: s.events, Attached: s.sessions, Probes: s.probes, Shipper: s.shipper, Secrets: s.secrets,
	})
	s.sessions.Use(s.engine)
	s.probes.React(lifecycle.Health{Engine: s.engine})
	host, err := s.host()
	if err != nil {
		return err
	}
	s.view = query.New(s.store, s.images, s.images.Snapshots(), s.cgroups, s.sessions, s.events, host)
	if err := s.engine.Restore(ctx, s.sessions.Adopt); err != nil {
		return err
	}
	s.loop.Go(s.follow)
	s.openBuilder()
	return nil
}

// follow hands on what the keeper reports, until it is closed. Each container's
// exit is worked on beside the others: one may wait for a start under way.
func (s *System) follow() {
	for e := range s.keeper.Events() {
		switch e := e.(type) {
		case supervise.Exit:
			if e.Unknown != "" {
				slog.Warn("exit code unknown", "container", e.Key.Container, "reason", e.Unknown)
			}
			if e.Key.Exec != "" {
				s.loop.Go(func() { s.sessions.Exited(e) })
			} else {
				s.loop.Go(func() { s.engine.Exited(e) })
			}
		case supervise.AttachEnd:
			s.sessions.AttachEnded(e)
		case supervise.LogError:
			slog.Error("log lines lost", "container", e.Key.Container, "dropped", e.Dropped, "error", e.Message)
		}
	}
}

// Run serves until ctx ends or a listener fails.
func (s *System) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.failed:
		return err
	}
}

// Reload takes over the settings that can change while running.
func (s *System) Reload(next *config.Config) error {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	merged, reloaded, pending := config.Merge(s.config, next)
	for _, key := range pending {
		slog.Warn("this setting takes effect when wherryd is restarted", "key", key)
	}
	t, err := transferConfig(merged)
	if err == nil {
		err = s.registries.Configure(t)
	}
	if err != nil {
		return err
	}
	s.config = merged
	host, err := s.host()
	if err != nil {
		return err
	}
	s.view.Reload(host)
	s.builder.Reloaded()
	s.engine.Reload(live(merged))
	for _, key := range reloaded {
		slog.Info("reloaded", "key", key)
	}
	now := reloadable(merged)
	now["name"] = s.view.Name()
	s.events.Publish(events.Message{Type: events.DaemonEventType, Action: events.ActionReload, Actor: events.Actor{ID: s.view.ID(), Attributes: now}})
	return nil
}

// reloadable are the settings of a reload as its event tells them.
func reloadable(c *config.Config) map[string]string {
	list := func(of []string) string {
		text := []byte("[]")
		if len(of) > 0 {
			text, _ = json.Marshal(of) // strings can always be encoded
		}
		return string(text)
	}
	return map[string]string{
		"debug": strconv.FormatBool(c.Debug), "labels": list(c.Labels),
		"registry-mirrors": list(c.Registry.Mirrors), "insecure-registries": list(c.Registry.Insecure), "default-runtime": c.DefaultRuntime,
		"max-concurrent-downloads": strconv.Itoa(c.Registry.MaxDownloads), "max-concurrent-uploads": strconv.Itoa(c.Registry.MaxUploads),
		"max-download-attempts": strconv.Itoa(c.Registry.MaxDownloadAttempts), "push-compression": c.Registry.PushCompression,
		"live-restore":     strconv.FormatBool(c.LiveRestore),
		"shutdown-timeout": strconv.Itoa(c.ShutdownTimeout), "default-shm-size": strconv.FormatInt(c.ShmSize, 10), "default-ipc-mode": c.IpcMode,
	}
}

// Close ends the engine. Containers live on unless live-restore is off; with
// none left, nothing of the engine stays in the kernel.
func (s *System) Close(ctx context.Context) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	if t := s.config.ShutdownTimeout; t >= 0 { // -1 waits for ever
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(t)*time.Second+5*time.Second)
		defer cancel()
	}
	if s.server != nil {
		stop, cancel := context.WithTimeout(ctx, time.Second)
		if err := s.server.Shutdown(stop); err != nil {
			slog.Debug("requests were cut off", "error", err)
		}
		cancel()
		s.listening.Wait()
	}
	if s.builder != nil {
		if err := s.builder.Close(); err != nil {
			slog.Warn("close the builder", "error", err)
		}
	}
	if s.probes != nil {
		s.probes.Close()
	}
	if s.engine != nil {
		s.engine.Close(ctx)
	}
	empty := s.store != nil && !s.anythingRuns()
	if s.keeper != nil {
		if err := s.keeper.Close(); err != nil {
			slog.Warn("close keeper", "error", err)
		}
		s.loop.Wait()
	}
	if s.shipper != nil {
		s.shipper.Close()
	}
	if s.networks != nil {
		if err := s.networks.Close(empty); err != nil {
			slog.Warn("close networks", "error", err)
		}
	}
	if empty && s.keeper != nil {
		if err := os.Remove(initPath(s.config)); err != nil {
			slog.Warn("remove the init program", "error", err)
		}
		supervise.LeaveNothing()
	}
	if s.cgroups != nil && empty {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		if err := s.cgroups.Drain(ctx); err != nil {
			slog.Warn("wait for control groups to go", "error", err)
		}
		cancel()
		for _, parent := range []string{cgroupParent(s.config), ""} { // "" stands for containers' own parents
			if err := s.cgroups.Clean(parent); err != nil {
				slog.Warn("clean control groups", "error", err)
			}
		}
	}
	if s.volumes != nil {
		s.volumes.Close()
	}
	if s.images != nil {
		if err := s.images.Close(); err != nil {
			slog.Warn("close images", "error", err)
		}
	}
	if s.lock != nil {
		s.lock.Close()
	}
}

func (s *System) anythingRuns() bool {
	for _, c := range s.store.All() {
		if r := c.Snapshot(); r.State.Running {
			return true
		}
	}
	return false
}
