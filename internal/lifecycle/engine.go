// Package lifecycle owns what happens to a container: create, start, stop,
// kill, pause, restart, rename, update, remove and wait. It is the only place
// where a container's record, image, network, volumes and process meet; it
// holds no mechanism of its own.
package lifecycle

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/event"
	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/lifecycle/donor"
	"github.com/wherry-engine/wherry/internal/lifecycle/mounts"
	"github.com/wherry-engine/wherry/internal/lifecycle/netfiles"
	"github.com/wherry-engine/wherry/internal/lifecycle/restart"
	"github.com/wherry-engine/wherry/internal/linux/cgroup"
	"github.com/wherry-engine/wherry/internal/linux/seccomp"
	"github.com/wherry-engine/wherry/internal/logs/ship"
	"github.com/wherry-engine/wherry/internal/network"
	"github.com/wherry-engine/wherry/internal/runtime/cdi"
	"github.com/wherry-engine/wherry/internal/runtime/foreign"
	"github.com/wherry-engine/wherry/internal/secret"
	"github.com/wherry-engine/wherry/internal/snapshot"
	"github.com/wherry-engine/wherry/internal/supervise"
	"github.com/wherry-engine/wherry/internal/volume"
)

// DefaultRuntime is the name under which the engine's own runtime is listed.
const DefaultRuntime = "wherry"

// Config is what the engine was told at start.
type Config struct {
	DataRoot, ExecRoot string
	CgroupParent       string      // "" means /wherry, or system.slice with the systemd driver
	Runtimes           foreign.Set // other runtimes than the engine's own
	AppArmor           string      // profile when the user names none; "" without AppArmor
	// LoadAppArmor loads that profile again if somebody unloaded it.
	LoadAppArmor      func() error
	DefaultRuntime    string
	Ulimits           map[string]*apicontainer.Ulimit
	Init              bool
	InitPath          string // the program behind --init, on the host
	NoNewPrivileges   bool
	WritableSize      int64  // bytes that a container may write if it does not say; 0 is no limit
	SeccompProfile    []byte // JSON; nil is the built-in profile
	SeccompUnconfined bool
	LogDriver         string
	LogOptions        map[string]string
	UIDMaps, GIDMaps  []specs.LinuxIDMapping // userns-remap; empty is none
	DNS               []netip.Addr
	DNSSearch         []string
	DNSOptions        []string
	HostGatewayIPs    []netip.Addr
	CDI               cdi.Directories
	Live
}

// Live is the part of the configuration that can change while the engine runs.
type Live struct {
	CgroupNamespace string // private or host; "" decides by cgroup version
	IpcMode         string // private or shareable
	ShmSize         int64  // bytes
	StopTimeout     int    // seconds, when the container names none
	StopAtClose     bool   // containers end with the engine
}

// Parts are the engine's stores and mechanisms.
type Parts struct {
	Containers *container.Store
	Images     *image.Store
	Snapshots  *snapshot.Store
	Networks   *network.Manager
	Volumes    *volume.Store
	Cgroups    *cgroup.Hierarchy
	Keeper     *supervise.Client
	Events     *event.Bus
	Attached   Attachments
	Probes     Probes
	Shipper    *ship.Shipper
	Secrets    *secret.Store
}

// Attachments gives the clients that attached before the start; session has them.
type Attachments interface {
	// Take hands over the clients that wait for the container to start.
	Take(containerID string) []supervise.Attachment
	// Abandon closes the connections of clients whose container will not start.
	Abandon(containerID string)
}

// Probes watches the health of running containers; health does it.
type Probes interface {
	Started(c *container.Container, fresh bool) // with the container's lock held
	Ended(containerID string)
}

// parts is what the types of this package stand on.
type parts struct {
	cfg       Config
	store     *container.Store
	images    *image.Store
	snapshots *snapshot.Store
	networks  *network.Manager
	files     *netfiles.Files
	volumes   *volume.Store
	mounts    *mounts.Mounts
	cgroups   *cgroup.Hierarchy
	keeper    *supervise.Client
	events    *event.Bus
	attached  Attachments
	probes    Probes
	shipper   *ship.Shipper
	secrets   *secret.Store
	donors    *donor.Donors
	filters   seccomp.Cache
	live      atomic.Pointer[Live]
}

// Engine runs containers. Use New; its methods may be called concurrently.
type Engine struct {
	*parts
	make   maker           // from a request to a record
	launch launcher        // from a record to a process
	policy *restart.Policy // what follows an exit

	pending sync.WaitGroup // work that goes on behind an answer
}

// Files are what running containers are told about their networks.
func (e *Engine) Files() *netfiles.Files { return e.files }

// MountsOf gives what the containers of an engine have mounted.
func MountsOf(e *Engine) *mounts.Mounts { return e.mounts }

// New joins the parts. Restore must be called before the first request.
func New(cfg Config, p Parts) *Engine {
	all := &parts{
		cfg: cfg, store: p.Containers, images: p.Images, snapshots: p.Snapshots, networks: p.Networks, volumes: p.Volumes,
		cgroups: p.Cgroups, keeper: p.Keeper, events: p.Events, attached: p.Attached, probes: p.Probes, shipper: p.Shipper, secrets: p.Secrets,
		donors: donor.New(p.Containers, p.Keeper),
	}
	all.files = netfiles.New(netfiles.Config{DNS: cfg.DNS, DNSSearch: cfg.DNSSearch, DNSOptions: cfg.DNSOptions, HostGatewayIPs: cfg.HostGatewayIPs}, p.Networks, p.Containers)
	all.live.Store(&cfg.Live)
	e := &Engine{parts: all, make: maker{all}, launch: launcher{all}}
	all.mounts = mounts.New(p.Containers, p.Images, p.Snapshots, p.Volumes, e.launch.ownersFor)
	e.policy = restart.New(e.start)
	return e
}

// Reload takes over changed settings for what happens from now on.
func (e *Engine) Reload(l Live) { e.live.Store(&l) }

// publish sends an event of a container with the attributes that dockerd gives:
// its labels, image and name, and what is special to the action.
func (e *Engine) publish(c *container.Container, action events.Action, extra map[string]string) {
	r := c.Snapshot()
	e.events.Container(action, r.ID, r.Attributes(extra))
}

// quiet is how long the answer to a request is given before the work behind it
// begins, which is to take neither processor from the answer nor its client.
const quiet = 3 * time.Millisecond

// later runs work behind the answer to a request; Close waits for it.
func (e *Engine) later(work func()) {
	e.pending.Add(1)
	time.AfterFunc(quiet, func() {
		defer e.pending.Done()
		work()
	})
}

// warn reports a failure that nobody waits for.
func warn(what, id string, err error) {
	if err != nil {
		slog.Warn(what, "container", id, "error", err)
	}
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}

// invalid is an error that the client can mend.
func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
