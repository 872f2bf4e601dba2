// Package membership owns which networks exist and which containers are on
// them, while these run and while they do not: it joins the networks with the
// containers' records and says what happened.
package membership

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/event"
	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/lifecycle/netfiles"
	"github.com/wherry-engine/wherry/internal/network"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

// Networks changes networks and who is on them.
type Networks struct {
	manager    *network.Manager
	containers *container.Store
	files      *netfiles.Files
	events     *event.Bus
}

// New joins the parts.
func New(m *network.Manager, c *container.Store, f *netfiles.Files, e *event.Bus) *Networks {
	return &Networks{m, c, f, e}
}

// List gives the networks that match, each with all that Inspect says.
func (n *Networks) List(_ context.Context, f filter.Args) ([]apinetwork.Inspect, error) {
	list, err := n.manager.List(f)
	if err != nil {
		return nil, err
	}
	out := make([]apinetwork.Inspect, 0, len(list))
	for _, s := range list {
		one, err := n.manager.Inspect(s.ID, false)
		if errdefs.IsNotFound(err) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		out = append(out, *one)
	}
	return out, nil
}

// Inspect describes one network.
func (n *Networks) Inspect(_ context.Context, ref string) (*apinetwork.Inspect, error) {
	return n.manager.Inspect(ref, false)
}

// Create makes a network.
func (n *Networks) Create(ctx context.Context, r apinetwork.CreateRequest) (*apinetwork.CreateResponse, error) {
	made, err := n.manager.Create(ctx, r)
	if err != nil {
		return nil, err
	}
	n.publish(made.ID, events.ActionCreate, nil)
	return made, nil
}

// Remove deletes a network that no running container is on.
func (n *Networks) Remove(ctx context.Context, ref string) error {
	gone, err := n.manager.Remove(ctx, ref)
	if gone != nil {
		n.destroyed(gone)
	}
	return err
}

func (n *Networks) destroyed(gone *apinetwork.Network) {
	n.event(gone.ID, events.ActionDestroy, map[string]string{"name": gone.Name, "type": gone.Driver})
}

// Prune deletes the networks that no running container is on.
func (n *Networks) Prune(ctx context.Context, f filter.Args) (apinetwork.PruneReport, error) {
	report, err := n.manager.Prune(ctx, f, n.destroyed)
	if err != nil {
		return report, err
	}
	n.event("", events.ActionPrune, map[string]string{"reclaimed": "0"})
	return report, nil
}

// publish says what happened to a network that exists.
func (n *Networks) publish(ref string, action events.Action, more map[string]string) {
	one, err := n.manager.Inspect(ref, false)
	if err != nil {
		return // gone meanwhile, and that is said by who removed it
	}
	a := map[string]string{"name": one.Name, "type": one.Driver}
	maps.Copy(a, more)
	n.event(one.ID, action, a)
}

func (n *Networks) event(id string, action events.Action, attributes map[string]string) {
	n.events.Publish(events.Message{Type: events.NetworkEventType, Action: action, Actor: events.Actor{ID: id, Attributes: attributes}})
}

func forbidden(format string, args ...any) error {
	return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(format, args...))
}

// Connect puts a container on a further network: at once when it runs, else
// with its next start.
func (n *Networks) Connect(ctx context.Context, ref, containerRef string, wish *apinetwork.EndpointSettings) error {
	c, err := n.containers.Get(containerRef)
	if err != nil {
		return err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	r := c.Snapshot()
	one, err := n.manager.Inspect(ref, false)
	switch {
	case err != nil:
		return err
	case r.State.Removing || r.State.Dead:
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("container %s is marked for removal and cannot be connected or disconnected to the network", r.ID))
	case r.HostConfig.NetworkMode.IsContainer():
		return forbidden("container sharing network namespace with another container or host cannot be connected to any other network")
	case r.HostConfig.NetworkMode.IsHost() || one.Driver == "host":
		return forbidden("container cannot be disconnected from host network or connected to host network")
	}
	name, settings := one.Name, wish
	if settings == nil {
		settings = &apinetwork.EndpointSettings{}
	}
	if err := spec.Accepts(one.Name, one.Driver, one.ConfigOnly, settings); err != nil {
		return err
	}
	var ports apinetwork.PortMap
	if r.State.Running && !r.State.Restarting {
		var done *network.Change
		done, err = n.manager.Connect(ctx, network.Connection{ContainerID: r.ID, Network: ref, Settings: wish, PID: r.State.Pid, DNS: r.HostConfig.DNS})
		if done == nil {
			return err
		}
		name, settings, ports = done.Network, done.Endpoint, done.Ports
	} else if have, ok := r.Networks[one.Name]; ok && have != nil && wish == nil {
		settings = have
	}
	err = errors.Join(err, n.note(c, ports, func(networks map[string]*apinetwork.EndpointSettings) { networks[name] = settings }))
	if r.State.Running && !r.State.Restarting {
		err = errors.Join(err, n.files.Changed(&r, c))
		n.publish(name, events.ActionConnect, map[string]string{"container": r.ID})
	}
	return err
}

// Disconnect takes a container off a network. With force it does so too when
// the container is not known any more, or the network.
func (n *Networks) Disconnect(ctx context.Context, ref, containerRef string, force bool) error {
	c, err := n.containers.Get(containerRef)
	if err != nil {
		if force && errdefs.IsNotFound(err) {
			return n.forget(ctx, ref, containerRef)
		}
		return err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	r := c.Snapshot()
	one, err := n.manager.Inspect(ref, false)
	if _, noted := r.Networks[ref]; errdefs.IsNotFound(err) && force && noted {
		return n.note(c, nil, func(networks map[string]*apinetwork.EndpointSettings) { delete(networks, ref) })
	}
	if err != nil {
		return err
	}
	running := r.State.Running && !r.State.Restarting
	keys := []string{one.Name, one.ID, ref}
	if one.Name == apinetwork.NetworkBridge {
		keys = append(keys, apinetwork.NetworkDefault)
	}
	var ports apinetwork.PortMap
	known := false
	for _, k := range keys {
		_, ok := r.Networks[k]
		known = known || ok
	}
	switch {
	case one.Driver == "host":
		return forbidden("container cannot be disconnected from host network or connected to host network")
	case !known && running:
		return errdefs.ErrInternal.WithMessage(fmt.Sprintf("container %s is not connected to network %s", r.ID, one.Name))
	case !known:
		return errdefs.ErrInternal.WithMessage(fmt.Sprintf("container %s is not connected to the network %s", r.ID, one.Name))
	case running:
		done, failed := n.manager.Disconnect(ctx, r.ID, one.ID, r.State.Pid, force)
		if done == nil {
			return failed
		}
		ports, err = done.Ports, failed
		n.publish(one.ID, events.ActionDisconnect, map[string]string{"container": r.ID})
	}
	err = errors.Join(err, n.note(c, ports, func(networks map[string]*apinetwork.EndpointSettings) {
		for _, k := range keys {
			delete(networks, k)
		}
	}))
	if running {
		err = errors.Join(err, n.files.Changed(&r, c))
	}
	return err
}

// forget takes off a network what is left of a container that is not known any more.
func (n *Networks) forget(ctx context.Context, ref, id string) error {
	one, err := n.manager.Inspect(ref, false)
	if err != nil {
		return err
	}
	if _, connected := one.Containers[id]; !connected {
		return errdefs.ErrNotFound.WithMessage("endpoint " + id + " not found")
	}
	_, err = n.manager.Disconnect(ctx, id, one.ID, 0, true)
	return err
}

// note changes the networks of a container's record, and its ports unless nil.
func (n *Networks) note(c *container.Container, ports apinetwork.PortMap, change func(map[string]*apinetwork.EndpointSettings)) error {
	c.Lock()
	defer c.Unlock()
	networks := maps.Clone(c.Networks) // views may be reading the old one
	if networks == nil {
		networks = map[string]*apinetwork.EndpointSettings{}
	}
	change(networks)
	c.Networks = networks
	if ports != nil {
		c.Ports = ports
	}
	durability := atomicfile.Synced
	if c.HostConfig.AutoRemove {
		durability = atomicfile.Cached
	}
	return c.Save(durability)
}
