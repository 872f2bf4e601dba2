package lifecycle

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	apinetwork "github.com/moby/moby/api/types/network"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/linux/ns"
	"github.com/wherry-engine/wherry/internal/network"
	"github.com/wherry-engine/wherry/internal/runtime/hook"
	"github.com/wherry-engine/wherry/internal/supervise"
	"github.com/wherry-engine/wherry/internal/undo"
)

// networking is the network side of one start.
type networking struct {
	ns        *os.File   // the namespace to join; nil with the host's or another container's
	path      string     // namespace of another container
	filesOf   string     // directory whose hosts, hostname and resolv.conf are used
	witnesses []*os.File // pidfds of the containers whose namespaces are joined
	held      bool       // the namespace is the process's own: it is wired while the process waits
}

func (n *networking) close() {
	if n.ns != nil {
		n.ns.Close()
	}
	for _, d := range n.witnesses {
		d.Close()
	}
}

// connect gets the container its network namespace: a ready one from the pool
// for the default bridge, none for the host's, another container's by path.
func (l *launcher) connect(ctx context.Context, c *container.Container, u *undo.Stack) (*networking, error) {
	h := c.HostConfig
	n := &networking{filesOf: c.Dir()}
	if err := l.files.Ready(&c.Record); err != nil {
		return nil, err
	}
	switch {
	case h.NetworkMode.IsHost():
		for name, ep := range c.Networks {
			if name != apinetwork.NetworkHost {
				return nil, errdefs.ErrInvalidArgument.WithMessage("failed to set up container networking: container sharing network namespace with another container or host cannot be connected to any other network: " + name)
			}
			if ep != nil && ep.IPAMConfig != nil && (ep.IPAMConfig.IPv4Address.IsValid() || ep.IPAMConfig.IPv6Address.IsValid()) {
				return nil, errdefs.ErrInvalidArgument.WithMessage("failed to set up container networking: invalid endpoint settings:\nuser specified IP address is supported on user defined networks only")
			}
		}
		return n, nil
	case h.NetworkMode.IsContainer():
		other, err := l.donors.Find("net", h.NetworkMode.ConnectedContainer())
		if err != nil {
			return nil, err
		}
		n.path = ns.Path(other.State.Pid, "net")
		n.filesOf = filepath.Join(l.cfg.DataRoot, "containers", other.ID[:2], other.ID)
		cfg := *c.Config // views may be reading the old one
		cfg.Hostname, cfg.Domainname = other.Config.Hostname, other.Config.Domainname
		c.Lock()
		c.Config = &cfg
		c.Unlock()
		return n, nil
	}
	if l.remapped(h) {
		n.held = true
		return n, nil
	}
	return n, l.attach(ctx, c, n, u)
}

// attach connects the namespace n.ns, or one from the pool, to the container's networks.
func (l *launcher) attach(ctx context.Context, c *container.Container, n *networking, u *undo.Stack) error {
	h := c.HostConfig
	s, err := l.networks.Attach(ctx, network.Request{
		NS:          n.ns,
		ContainerID: c.ID, ContainerName: c.Name, Hostname: c.Config.Hostname, Network: string(h.NetworkMode), Endpoints: c.Networks,
		Ports: h.PortBindings, Exposed: c.Config.ExposedPorts, PublishAll: h.PublishAllPorts,
		DNS: h.DNS, DNSOptions: h.DNSOptions, DNSSearch: h.DNSSearch,
	})
	if err != nil {
		return fmt.Errorf("failed to set up container networking: %w", err)
	}
	if n.ns != nil {
		n.ns.Close()
	}
	u.Add(func() { warn("take back network", c.ID, l.networks.Release(context.WithoutCancel(ctx), c.ID)) })
	n.ns = s.NS
	c.Lock()
	c.Networks, c.Ports, c.SandboxID = s.Endpoints, s.Ports, s.ID
	c.Unlock()
	r := c.Snapshot()
	return l.files.Open(&r)
}

// release wires the network of a process that waits for it, runs the hooks of
// its devices, and lets it go on.
func (l *launcher) release(ctx context.Context, c *container.Container, n *networking, s *specs.Spec, pid int, u *undo.Stack) error {
	key := supervise.Key{Container: c.ID}
	// A process that is not needed any more has an exit that nobody waits for.
	u.Add(func() { _ = l.keeper.Signal(context.WithoutCancel(ctx), key, syscall.SIGKILL) })
	if n.held {
		var err error
		if n.ns, err = l.donors.Network(c.ID, pid); err != nil {
			return err
		}
		if err := l.attach(ctx, c, n, u); err != nil {
			return err
		}
		if err := l.writeFiles(c, n); err != nil {
			return err
		}
	}
	if s.Hooks != nil && l.foreign(c.HostConfig) == nil {
		err := hook.Run(ctx, hook.Container{ID: c.ID, PID: pid, Dir: filepath.Join(l.cfg.ExecRoot, "hooks", c.ID), Spec: s})
		if err != nil {
			return err
		}
	}
	return l.keeper.Release(ctx, key)
}

// join makes a container a witness of the start of one that joins its namespaces.
func (l *launcher) join(n *networking, d *container.Record) error {
	w, err := l.donors.Witness(d.ID, d.State.Pid)
	if err == nil {
		n.witnesses = append(n.witnesses, w)
	}
	return err
}

// writeFiles makes /etc/hosts, /etc/hostname and /etc/resolv.conf of a
// container, unless it uses another's.
func (l *launcher) writeFiles(c *container.Container, n *networking) error {
	if n.filesOf != c.Dir() {
		return nil
	}
	return l.files.Write(c, func(path string) error { return l.giveToRoot(c.HostConfig, path) })
}

// extra is what the process's init is handed.
func (n *networking) extra() []*os.File {
	if n.ns == nil {
		return nil
	}
	return []*os.File{n.ns}
}
