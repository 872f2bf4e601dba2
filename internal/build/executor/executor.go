// Package executor owns the processes of builds: RUN steps and the containers
// of frontends. They get what containers get (capabilities, seccomp, masked
// paths, AppArmor, limits, a network of the engine's), through the same
// runtime, with three differences: a step's root and mounts are BuildKit's, its
// environment is the Dockerfile's alone, and it dies with the engine, as nobody
// could use what it would make.
//
// A step runs under a thread of its own with a mount namespace of its own. What
// is mounted for it is seen nowhere else and goes with the thread, also when
// the engine is killed.
package executor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/executor"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/solver/llbsolver/cdidevices"
	"github.com/moby/buildkit/solver/pb"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/cgroup"
	"github.com/wherry-engine/wherry/internal/linux/seccomp"
	"github.com/wherry-engine/wherry/internal/network"
	"github.com/wherry-engine/wherry/internal/runtime/cdi"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
)

// Config is what the engine gives every step.
type Config struct {
	Root          string // of files that steps have while they run
	Init          []byte // the wherry-init binary
	Networks      *network.Manager
	Cgroups       *cgroup.Hierarchy
	CgroupParent  string
	CgroupHostNS  bool         // steps see the host's control groups
	Seccomp       []byte       // profile; nil is the default
	Unconfined    bool         // no seccomp at all
	AppArmor      string       // profile of steps
	LoadAppArmor  func() error // loads it again if somebody unloaded it; needed with a profile only
	Ulimits       map[string]*apicontainer.Ulimit
	NoNewPrivs    bool
	DNS           []netip.Addr
	DNSSearch     []string
	DNSOptions    []string
	HostGateway   []netip.Addr
	MayUseHostNet bool                   // entitlement network.host
	MayBeInsecure bool                   // entitlement security.insecure
	Before        func(context.Context)  // called before each step; may be nil
	UIDs, GIDs    []specs.LinuxIDMapping // userns-remap; empty is none
	CDI           cdi.Directories        // of the specifications of RUN --device
}

// Executor runs steps. It is safe for use by several goroutines.
type Executor struct {
	cfg      Config
	init     *os.File
	owners   *sandbox.Owners     // nil without userns-remap
	overlays string              // where those with mapped owners are mounted; "" without userns-remap
	devices  *cdidevices.Manager // nil without specifications
	filters  seccomp.Cache
	passes   passes

	mu      sync.Mutex
	running map[string]*step
}

// New makes an executor.
func New(c Config) (*Executor, error) {
	if err := os.MkdirAll(c.Root, 0o711); err != nil {
		return nil, err
	}
	init, err := sandbox.InitFile(c.Init)
	if err != nil {
		return nil, err
	}
	e := &Executor{cfg: c, init: init, running: map[string]*step{}}
	if len(c.UIDs) > 0 {
		if e.owners, err = sandbox.NewOwners(init, ranges(c.UIDs), ranges(c.GIDs)); err != nil {
			return nil, errors.Join(err, init.Close())
		}
		if e.overlays, err = os.MkdirTemp("", "mapped"); err != nil {
			return nil, errors.Join(err, e.Close())
		}
	}
	if cache, err := c.CDI.Cache(); err == nil {
		e.devices = cdidevices.NewManager(cache, nil)
	}
	return e, nil
}

// Devices are what RUN --device may name, as of the last Refresh; nil where
// specifications are switched off.
func (e *Executor) Devices() *cdidevices.Manager { return e.devices }

// Close gives up init's file; nothing may run any more.
func (e *Executor) Close() error {
	if e.owners != nil {
		return errors.Join(os.RemoveAll(e.overlays), e.owners.Close(), e.init.Close())
	}
	return e.init.Close()
}

// step is one container of a build. started is closed when its process runs or
// never will; the fields below it are set by then.
type step struct {
	id      string
	dir     string
	started chan struct{}
	spec    *specs.Spec
	group   *cgroup.Group
	user    string
	filter  *specs.LinuxSeccomp
	pid     int // 0: it did not start
}

// allowed refuses what the engine's settings do not grant, whatever a frontend
// or a client has let pass.
func (e *Executor) allowed(m *executor.Meta) error {
	switch {
	case m.SecurityMode == pb.SecurityMode_INSECURE && !e.cfg.MayBeInsecure:
		return errdefs.ErrPermissionDenied.WithMessage("security.insecure is not allowed: it is not among the entitlements of the engine's builder (daemon.json: builder.entitlements)")
	case m.NetMode == pb.NetMode_HOST && !e.cfg.MayUseHostNet:
		return errdefs.ErrPermissionDenied.WithMessage("network.host is not allowed: it is not among the entitlements of the engine's builder (daemon.json: builder.entitlements)")
	case len(m.CDIDevices) > 0 && e.devices == nil:
		return errdefs.ErrFailedPrecondition.WithMessage("devices in builds need CDI, which is switched off (daemon.json: cdi-spec-dirs)")
	case m.Proxy != nil:
		return errdefs.ErrNotImplemented.WithMessage("the proxy network of builds is not served by this version of wherryd")
	case e.owners != nil && m.SecurityMode == pb.SecurityMode_INSECURE:
		return errdefs.ErrInvalidArgument.WithMessage("privileged mode is incompatible with user namespaces")
	case e.owners != nil && m.NetMode == pb.NetMode_HOST:
		return errdefs.ErrInvalidArgument.WithMessage("cannot share the host's network namespace when user namespaces are enabled")
	}
	return nil
}

// Run runs one step to its end.
func (e *Executor) Run(ctx context.Context, name string, root executor.Mount, mounts []executor.Mount, p executor.ProcessInfo, started chan<- struct{}) (resourcestypes.Recorder, error) {
	var once sync.Once
	begun := func() {
		if started != nil {
			once.Do(func() { close(started) })
		}
	}
	defer begun()
	if err := e.allowed(&p.Meta); err != nil {
		return nil, err
	}
	if e.cfg.Before != nil {
		e.cfg.Before(ctx)
	}
	s := &step{id: id.New(), started: make(chan struct{}), user: p.Meta.User}
	if name == "" {
		name = s.id
	}
	if err := e.enlist(name, s); err != nil {
		return nil, err
	}
	defer e.delist(name)
	var settled sync.Once
	settle := func() { settled.Do(func() { close(s.started) }) }
	defer settle()

	s.dir = filepath.Join(e.cfg.Root, s.id)
	err := os.Mkdir(s.dir, 0o711)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(s.dir)
	net := &networking{release: func() {}, held: e.owners != nil}
	if !net.held {
		err = e.connect(ctx, s, &p.Meta, net)
	}
	if err != nil {
		return nil, err
	}
	defer net.close()
	sources, release, err := e.open(ctx, root, mounts)
	if err != nil {
		return nil, err
	}
	defer release()
	return nil, e.onThread(ctx, func() error {
		return e.run(ctx, s, sources, net, &p, func() { settle(); begun() })
	})
}

func (e *Executor) enlist(name string, s *step) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running[name] != nil {
		return fmt.Errorf("container %s runs already", name)
	}
	e.running[name] = s
	return nil
}

func (e *Executor) delist(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.running, name)
}

// errNotStarted is what an exec meets whose container came to nothing.
var errNotStarted = errors.New("the container has not started")

// find waits until a container runs.
func (e *Executor) find(ctx context.Context, name string) (*step, error) {
	e.mu.Lock()
	s := e.running[name]
	e.mu.Unlock()
	if s == nil {
		return nil, fmt.Errorf("container %s not found", name)
	}
	select {
	case <-s.started:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if s.pid == 0 {
		return nil, fmt.Errorf("container %s: %w", name, errNotStarted)
	}
	return s, nil
}
