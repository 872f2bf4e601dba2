// Package httpapi owns the Docker Engine REST API: routes as data, one file per
// resource; versions from 1.24 on; the one table from error kinds to statuses;
// hijacked streams; and the listeners. It holds no state of the engine: what
// the handlers need they ask for in the interfaces below, which the daemon
// fills when it is ready. Until then only /_ping is answered; other requests wait.
package httpapi

import (
	"context"
	"io"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
	"github.com/opencontainers/go-digest"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/wherry-engine/wherry/api"
	"github.com/wherry-engine/wherry/internal/cp"
	"github.com/wherry-engine/wherry/internal/filter"

	imagestore "github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/lifecycle"
	"github.com/wherry-engine/wherry/internal/query"
	"github.com/wherry-engine/wherry/internal/session"
)

// Lifecycle makes, runs and removes containers. Every ref is a name, an id or
// the unique beginning of one; every error has a kind of containerd/errdefs.
type Lifecycle interface {
	Create(ctx context.Context, r lifecycle.CreateRequest) (container.CreateResponse, error)
	Start(ctx context.Context, ref string) error // ErrNotModified when it runs already
	Stop(ctx context.Context, ref, signal string, timeout *int) error
	Restart(ctx context.Context, ref, signal string, timeout *int) error
	Kill(ctx context.Context, ref, signal string) error
	Remove(ctx context.Context, ref string, o lifecycle.RemoveOptions) error
	// Wait has subscribed when it returns: no exit after that is missed.
	Wait(ctx context.Context, ref string, cond container.WaitCondition) (<-chan container.WaitResponse, error)
	Prune(ctx context.Context, f filter.Args) (container.PruneReport, error)
}

// Changes alters existing containers.
type Changes interface {
	Pause(ctx context.Context, ref string) error
	Unpause(ctx context.Context, ref string) error
	Rename(ctx context.Context, ref, name string) error
	Update(ctx context.Context, ref string, r *container.UpdateConfig) (container.UpdateResponse, error)
}

// Sessions connects clients with processes. Attach and ExecStart call the
// hijack at most once, after all checks have passed.
type Sessions interface {
	Attach(ctx context.Context, ref string, o session.AttachOptions, hijack session.Hijack) error
	Resize(ref string, height, width uint16) error
	ExecCreate(ctx context.Context, ref string, r *api.ExecRequest) (string, error)
	ExecStart(ctx context.Context, exec string, o session.ExecStartOptions, hijack session.Hijack) error
	ExecInspect(ctx context.Context, exec string) (*container.ExecInspectResponse, error)
	ExecResize(ctx context.Context, exec string, height, width uint16) error
}

// Views reads without changing anything.
type Views interface {
	List(ctx context.Context, o query.ListOptions) ([]*container.Summary, error)
	Inspect(ctx context.Context, ref string, size bool) (*container.InspectResponse, error)
	Top(ctx context.Context, ref, psArgs string) (*container.TopResponse, error)
	// Logs calls open once, after all checks have passed.
	Logs(ctx context.Context, ref string, o query.LogsOptions, open func(tty bool) (stdout, stderr io.Writer)) error
	// Stats sends samples: one, or with stream one a second until ctx ends.
	Stats(ctx context.Context, ref string, stream, oneShot bool, send func(*container.StatsResponse) error) error
	Why(ctx context.Context, ref string) (*api.Why, error)
	Info(ctx context.Context) (*system.Info, error)
	Version() *system.VersionResponse
}

// Images is the image store.
type Images interface {
	List(ctx context.Context, o imagestore.ListOptions) ([]*image.Summary, error)
	Inspect(ctx context.Context, ref string, p *ocispec.Platform, manifests bool) (*imagestore.Inspection, error)
	History(ctx context.Context, ref string, p *ocispec.Platform) ([]image.HistoryResponseItem, error)
	Tag(ctx context.Context, source, target string) error
	Remove(ctx context.Context, ref string, o imagestore.RemoveOptions) ([]image.DeleteResponse, error)
	Load(ctx context.Context, r io.Reader, quiet bool, platforms []ocispec.Platform, progress func(jsonstream.Message)) error
	Save(ctx context.Context, names []string, platforms []ocispec.Platform, w io.Writer) error
	Import(ctx context.Context, r io.Reader, ref, message string, changes []string, platform string) (digest.Digest, error)
}

// ImagePruner removes unused images.
type ImagePruner interface {
	Prune(ctx context.Context, f filter.Args) (image.PruneReport, error)
}

// Files reads and writes the files of containers.
type Files interface {
	Stat(ctx context.Context, ref, path string) (*container.PathStat, error)
	// Get and Export call open once, after all checks have passed.
	Get(ctx context.Context, ref, path string, open func(*container.PathStat) io.Writer) error
	Put(ctx context.Context, ref, path string, o cp.PutOptions, body io.Reader) error
	Export(ctx context.Context, ref string, open func() io.Writer) error
	Changes(ctx context.Context, ref string) ([]container.FilesystemChange, error)
	Commit(ctx context.Context, ref string, o cp.CommitOptions) (digest.Digest, error)
}

// Networks reads and changes the networks and who is on them.
type Networks interface {
	List(ctx context.Context, f filter.Args) ([]network.Inspect, error)
	Inspect(ctx context.Context, ref string) (*network.Inspect, error)
	Create(ctx context.Context, r network.CreateRequest) (*network.CreateResponse, error)
	Remove(ctx context.Context, ref string) error
	Prune(ctx context.Context, f filter.Args) (network.PruneReport, error)
	Connect(ctx context.Context, ref, container string, wish *network.EndpointSettings) error
	Disconnect(ctx context.Context, ref, container string, force bool) error
	Update(ctx context.Context, container string, u api.NetworkUpdate) (*api.NetworkUpdated, error)
}

// Reach tells who can reach published ports.
type Reach interface {
	Reach() map[string][]api.PortReach // by container id
	ReachOf(containerID string) []api.PortReach
}

// Volumes is the volume store. New makes what Delete, with force also where
// there is nothing, takes away.
type Volumes interface {
	List(ctx context.Context, f filter.Args) (volume.ListResponse, error)
	Inspect(ctx context.Context, name string) (*volume.Volume, error)
	New(ctx context.Context, r volume.CreateRequest) (*volume.Volume, error)
	Delete(ctx context.Context, name string, force bool) error
	Prune(ctx context.Context, f filter.Args) (volume.PruneReport, error)
}

// Secrets are those of plain containers.
type Secrets interface {
	Create(r api.SecretRequest) (*api.Secret, error)
	List() []api.Secret
	Inspect(ref string) (*api.Secret, error)
	Remove(ref string) error
}

// Usage accounts for the engine's disk.
type Usage interface {
	Usage(ctx context.Context, wanted func(system.DiskUsageObject) bool) (*system.DiskUsage, error)
}

// Events is the event bus: what was kept, and a channel that is closed when
// ctx ends or until has passed.
type Events interface {
	Subscribe(ctx context.Context, since, until time.Time, f filter.Args) ([]events.Message, <-chan events.Message)
}

// Backends is everything that the routes stand on. ImagePruner, Puller and
// Registries may be nil: their routes then answer 501.
type Backends struct {
	Lifecycle    Lifecycle
	Changes      Changes
	Sessions     Sessions
	Views        Views
	Images       Images
	ImagePruner  ImagePruner
	Puller       Puller
	Registries   Registries
	Files        Files
	Networks     Networks
	Reach        Reach
	Volumes      Volumes
	Usage        Usage
	Secrets      Secrets
	Builder      Builder
	Bootstrapper Bootstrapper
	Events       Events

	// Cgroup2 says which default older clients expect for --cgroupns.
	Cgroup2 bool
}
