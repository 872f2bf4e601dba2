package build

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/frontend"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	ctdsnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/version"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/buildkit/worker/label"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"

	"github.com/wherry-engine/wherry/internal/build/answer"
	"github.com/wherry-engine/wherry/internal/build/buildcontext"
	"github.com/wherry-engine/wherry/internal/build/caches"
	"github.com/wherry-engine/wherry/internal/build/classic"
	"github.com/wherry-engine/wherry/internal/build/diff"
	"github.com/wherry-engine/wherry/internal/build/digestref"
	"github.com/wherry-engine/wherry/internal/build/executor"
	"github.com/wherry-engine/wherry/internal/build/garbage"
	"github.com/wherry-engine/wherry/internal/build/history"
	"github.com/wherry-engine/wherry/internal/build/linked"
	"github.com/wherry-engine/wherry/internal/build/space"
	"github.com/wherry-engine/wherry/internal/content"
	"github.com/wherry-engine/wherry/internal/snapshot"
)

var errClosed = errdefs.ErrUnavailable.WithMessage("the engine is shutting down")

// engine is an opened builder.
type engine struct {
	b        *Builder
	sessions *session.Manager
	worker   *base.Worker
	contexts *buildcontext.Directories
	exec     *executor.Executor
	control  *control.Controller
	cache    *bboltcachestorage.Store
	results  solver.CacheManager
	gateway  []netip.Addr    // what host-gateway stands for
	running  context.Context // ends with the engine
	stop     func()
	active   sync.WaitGroup // builds

	caches   *caches.Caches
	history  *history.Store
	answers  answer.Builds
	arrivals answer.Arrivals
	classics classic.Outputs
	refusals refusals
	room     *space.Room
	links    linked.Ledger // of records
	layers   linked.Ledger // of images
	differ   *diff.Differ

	serving sync.Once
	http2   *grpc.Server // see direct
}

func openEngine(ctx context.Context, b *Builder) (_ *engine, err error) {
	e := &engine{b: b}
	var undo []func() error
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				err = errors.Join(err, undo[i]())
			}
		}
	}()
	root := filepath.Join(b.cfg.Root, "build")
	if err := os.MkdirAll(b.tmp(), 0o700); err != nil {
		return nil, err
	}
	store := b.cfg.Images.Content()
	if err := begin(ctx, root, store); err != nil {
		return nil, err
	}
	// BuildKit mounts in the directory for temporary files; what it leaves there
	// after a kill must be known as ours.
	if err := os.Setenv("TMPDIR", b.tmp()); err != nil {
		return nil, err
	}
	if e.sessions, err = session.NewManager(); err != nil {
		return nil, err
	}
	steps, err := b.cfg.Steps()
	if err != nil {
		return nil, err
	}
	e.room = e.newRoom()
	steps.Before = e.room.Before
	steps.Root, e.gateway = b.steps(), steps.HostGateway
	if e.exec, err = executor.New(steps); err != nil {
		return nil, err
	}
	undo = append(undo, e.exec.Close)
	opt, err := e.workerOptions(root)
	if err != nil {
		return nil, err
	}
	undo = append(undo, opt.MetadataStore.Close)
	if e.worker, err = base.NewWorker(ctx, opt); err != nil {
		return nil, fmt.Errorf("open the builder: %w", err)
	}
	if e.contexts, err = buildcontext.New(e.worker.CacheMgr, &b.desk, e.collect, e.answers.Settle); err != nil {
		return nil, err
	}
	e.worker.SourceManager.Register(e.contexts)
	e.worker.SourceManager.Register(&digestref.Source{Source: e.worker.ImageSource, Find: func(op *pb.SourceOp, mode string) (*pb.SourceOp, digest.Digest) {
		return e.byDigest(e.running, op, mode)
	}})
	workers := &worker.Controller{}
	if err := workers.Add(&ownWorker{Worker: e.worker, engine: e}); err != nil {
		return nil, err
	}
	if e.cache, err = bboltcachestorage.NewStore(filepath.Join(root, "cache.db")); err != nil {
		return nil, fmt.Errorf("open the builder's cache: %w", err)
	}
	undo = append(undo, e.cache.Close)
	records, err := history.Unsynced(filepath.Join(root, "history.db"))
	if err != nil {
		return nil, fmt.Errorf("open the history of builds: %w", err)
	}
	undo = append(undo, records.Close)
	if e.history, err = history.Open(ctx, root); err != nil {
		return nil, fmt.Errorf("open the history of builds: %w", err)
	}
	undo = append(undo, e.history.Close)
	frontends, err := e.frontends(workers)
	if err != nil {
		return nil, err
	}
	e.results = solver.NewCacheManager(ctx, "local", e.cache, worker.NewCacheResultStorage(workers))
	running, stop := context.WithCancelCause(ctx)
	e.running, e.stop = running, func() { stop(errClosed) }
	e.caches = caches.New(e.sessions, b.cfg.Images, e.worker.ContentStore(), b.cfg.Registries.Hosts)
	version.Version = Version // what clients are told
	e.control, err = control.NewController(control.Opt{
		SessionManager: e.sessions, WorkerController: workers, Frontends: frontends,
		CacheManager: e.results, CacheStore: e.cache,
		ResolveCacheExporterFuncs: e.caches.Exporters, ResolveCacheImporterFuncs: e.caches.Importers,
		Entitlements: b.cfg.Entitlements, HistoryDB: records,
		LeaseManager: leaseutil.WithNamespace(e.history.Leases(holds{store.Leases()}), content.Namespace),
		ContentStore: ctdsnapshot.NewContentStore(e.history.Blobs(store.Blobs()), content.Namespace),
		GarbageCollect: func(ctx context.Context) error {
			return errors.Join(e.worker.GarbageCollect(ctx), e.history.Collect(ctx))
		},
		GracefulStop: running.Done(), HistoryConfig: b.cfg.Limits.records(),
	})
	if err != nil {
		stop(err)
		return nil, fmt.Errorf("open the builder: %w", err)
	}
	return e, nil
}

// workerOptions joins BuildKit's worker to the engine's stores.
func (e *engine) workerOptions(root string) (base.WorkerOpt, error) {
	images := e.b.cfg.Images
	store, driver := images.Content(), images.Snapshots().Driver()
	id, err := base.ID(root)
	if err != nil {
		return base.WorkerOpt{}, err
	}
	md, err := metadata.NewStore(filepath.Join(root, "metadata_v2.db"))
	if err != nil {
		return base.WorkerOpt{}, fmt.Errorf("open the records of the build cache: %w", err)
	}
	// A cached build writes some twenty of them. No build waits for the disk
	// because of it: after a crash of the machine they begin anew (see begin).
	if db, ok := md.DB().(*bolt.DB); ok {
		db.NoSync, db.NoGrowSync = true, true
	}
	if err := space.DropUnfinished(md); err != nil {
		return base.WorkerOpt{}, errors.Join(err, md.Close())
	}
	// That there is a snapshotter tells clients of an image store that keeps
	// manifests as they are, and thereby of exports of all kinds.
	labels := map[string]string{label.Executor: "wherry", label.Snapshotter: driver, label.Network: "bridge"}
	if len(e.gateway) > 0 {
		labels[labelGateway] = e.gateway[0].String()
	}
	contents := ctdsnapshot.NewContentStore(blobs{store.Blobs()}, content.Namespace)
	layersOf := committed{e}
	e.differ = &diff.Differ{Layers: layersOf, Content: store, Snapshotter: driver, Other: walking.NewWalkingDiff(contents), Placed: func() { snapshot.Placed(images.Snapshots()) }}
	return base.WorkerOpt{
		ID: id, Root: root, MetadataStore: md, Executor: e.exec,
		Labels:          labels,
		Snapshotter:     e.exec.Layers(ctdsnapshot.NewSnapshotter(driver, layers{store.Snapshotter(driver), images.Snapshots()}, content.Namespace, nil)),
		ContentStore:    ctdsnapshot.NewContentStore(diff.Blobs{Store: blobs{store.Blobs()}, Layers: layersOf}, content.Namespace),
		Applier:         applier{apply.NewFileSystemApplier(contents)},
		Differ:          e.differ,
		ImageStore:      names{store.Images(), images},
		RegistryHosts:   e.b.cfg.Registries.Hosts,
		Platforms:       []ocispec.Platform{platforms.Normalize(platforms.DefaultSpec())},
		LeaseManager:    leaseutil.WithNamespace(holds{store.Leases()}, content.Namespace),
		GarbageCollect:  func(ctx context.Context) (gc.Stats, error) { return nil, images.Collect(ctx) },
		GCPolicy:        e.b.cfg.Limits.policy(e.b.cfg.Root),
		ParallelismSem:  semaphore.NewWeighted(int64(max(4, 2*runtime.NumCPU()))),
		CDIManager:      e.exec.Devices(),
		MountPoolRoot:   filepath.Join(e.b.tmp(), "cachemounts"),
		BuildkitVersion: client.BuildkitVersion{Package: "github.com/moby/buildkit", Version: Version},
	}, nil
}

// collect removes layers that nobody uses any more.
func (e *engine) collect() {
	if err := e.b.cfg.Images.Collect(e.running); err != nil && e.running.Err() == nil {
		slog.Warn("cannot remove what a failed build wrote", "error", err)
	}
}

// labelGateway tells clients what to write for host-gateway.
const labelGateway = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"

// Version is the embedded BuildKit's.
const Version = "v0.33.1"

func (e *engine) frontends(workers *worker.Controller) (map[string]frontend.Frontend, error) {
	builtin := forwarder.NewGatewayForwarder(workers.Infos(), dockerfile.Build)
	remote, err := gateway.NewGatewayFrontend(workers.Infos(), nil)
	if err != nil {
		return nil, err
	}
	return map[string]frontend.Frontend{
		"dockerfile.v0": builtin, "gateway.v0": &syntax{Frontend: remote, builtin: builtin}, frontendRefused: &e.refusals,
		frontendClassic: forwarder.NewGatewayForwarder(workers.Infos(), e.classics.Frontend),
	}, nil
}

// track notes a build; its context ends with the engine.
func (e *engine) track(ctx context.Context) (context.Context, func(error)) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(e.running, func() { cancel(errClosed) })
	e.active.Add(1)
	garbage.PutOff()
	leave := e.room.Enter(ctx)
	return ctx, func(err error) {
		garbage.Resume()
		stop()
		cancel(nil)
		space.Release(err)
		leave(err)
		e.active.Done()
	}
}

// patience is how long builds may take to end with the engine.
const patience = 5 * time.Second

// close ends the builds that run, and what they have mounted.
func (e *engine) close() error {
	e.stop()
	ended := make(chan struct{})
	go func() {
		e.active.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		slog.Warn("builds do not end; the next start removes what they leave")
	}
	e.room.Close()
	err := errors.Join(e.control.Close(), e.history.Close(), e.exec.Close(), sweepTemporary(e.b.tmp()))
	if err == nil {
		err = end(filepath.Join(e.b.cfg.Root, "build"))
	}
	return err
}
