package membership

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/api"
	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/network"
)

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// Update changes what a container publishes and how it is called on its
// networks: at once when it runs, and for every later start. It is durable on
// return; when it fails nothing has changed.
func (n *Networks) Update(_ context.Context, ref string, u api.NetworkUpdate) (*api.NetworkUpdated, error) {
	c, err := n.containers.Get(ref)
	if err != nil {
		return nil, err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	before := c.Snapshot()
	running := before.State.Running && !before.State.Restarting
	switch mode := before.HostConfig.NetworkMode; {
	case before.State.Removing || before.State.Dead:
		return nil, errdefs.ErrConflict.WithMessage("container " + before.ID + " is marked for removal and cannot be updated")
	case mode.IsContainer():
		return nil, forbidden("container %s has the network of another container: update that one", before.Name)
	case mode.IsHost(), mode.IsNone():
		return nil, forbidden("container %s is on the network %q, where nothing is published and nobody has an alias", before.Name, mode)
	}
	after := before
	remove, err := hostPorts(u.PublishRemove)
	if err != nil {
		return nil, err
	}
	if err := unpublish(&after, remove, running); err != nil {
		return nil, err
	}
	if err := publish(&after, u.PublishAdd); err != nil {
		return nil, err
	}
	wanted, err := n.aliases(&after, u)
	if err != nil {
		return nil, err
	}
	undo, err := n.apply(&before, &after, running, u.PublishAdd, remove, wanted)
	if err != nil {
		return nil, err
	}
	c.Lock()
	c.HostConfig, c.Config, c.Networks, c.Ports = after.HostConfig, after.Config, after.Networks, after.Ports
	durability := atomicfile.Synced
	if after.HostConfig.AutoRemove {
		durability = atomicfile.Cached
	}
	err = c.Save(durability)
	if err != nil {
		c.HostConfig, c.Config, c.Networks, c.Ports = before.HostConfig, before.Config, before.Networks, before.Ports
	}
	attributes := c.Attributes(nil)
	c.Unlock()
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	n.events.Container(events.ActionUpdate, before.ID, attributes)
	ports := after.Ports
	if !running {
		ports = after.HostConfig.PortBindings
	}
	return &api.NetworkUpdated{Ports: ports}, nil
}

// apply makes a running container's network what the record after says, and
// notes in it what was chosen.
func (n *Networks) apply(before, after *container.Record, running bool, add apinetwork.PortMap, remove []network.HostPort, wanted map[string][]string) (undo func() error, err error) {
	live := network.Live{Manager: n.manager}
	var steps []func() error
	undo = func() error {
		var failed []error
		for _, f := range slices.Backward(steps) {
			failed = append(failed, f())
		}
		return errors.Join(failed...)
	}
	after.Networks = maps.Clone(after.Networks)
	for name, list := range wanted {
		ep := after.Networks[name].Copy()
		ep.Aliases = list
		if running {
			old := before.Networks[name].Aliases
			ep, err = live.Aliases(after.ID, name, list)
			if err != nil {
				return nil, errors.Join(err, undo())
			}
			steps = append(steps, func() error {
				_, err := live.Aliases(after.ID, name, old)
				return err
			})
		}
		after.Networks[name] = ep
	}
	if running && len(add)+len(remove) > 0 {
		after.Ports, err = live.Ports(after.ID, before.Ports, add, remove)
		if err != nil {
			return nil, errors.Join(err, undo())
		}
		steps = append(steps, func() error { return restorePorts(live, before, after) })
	}
	return undo, nil
}

// restorePorts takes a change of ports back whose record could not be written.
func restorePorts(live network.Live, before, after *container.Record) error {
	var made []network.HostPort
	lost := apinetwork.PortMap{}
	for port, list := range after.Ports {
		for _, b := range list {
			if !slices.Contains(before.Ports[port], b) {
				num, _ := strconv.ParseUint(b.HostPort, 10, 16)
				made = append(made, network.HostPort{IP: b.HostIP, Port: uint16(num), Container: port})
			}
		}
	}
	for port, list := range before.Ports {
		for _, b := range list {
			if !slices.Contains(after.Ports[port], b) {
				lost[port] = append(lost[port], b)
			}
		}
	}
	_, err := live.Ports(after.ID, after.Ports, lost, made)
	return err
}

func hostPorts(list []api.PublishedPort) ([]network.HostPort, error) {
	var out []network.HostPort
	for _, p := range list {
		h := network.HostPort{Port: p.HostPort}
		if p.HostIP != "" {
			ip, err := netip.ParseAddr(p.HostIP)
			if err != nil {
				return nil, invalid("invalid IP address: %s", p.HostIP)
			}
			h.IP = ip.Unmap()
		}
		proto := p.Proto
		if proto == "" {
			proto = "tcp"
		}
		port, ok := apinetwork.PortFrom(p.ContainerPort, apinetwork.IPProtocol(proto))
		if !ok || !slices.Contains([]string{"tcp", "udp", "sctp"}, proto) {
			return nil, invalid("invalid proto: %s", proto)
		}
		h.Container = port
		out = append(out, h)
	}
	return out, nil
}

// unpublish takes ports out of the configuration. What -P has published is
// written down port by port when one of its ports goes.
func unpublish(r *container.Record, remove []network.HostPort, running bool) error {
	if len(remove) == 0 {
		return nil
	}
	h := *r.HostConfig
	h.PortBindings = clone(h.PortBindings)
	bound := h.PortBindings
	if running {
		bound = r.Ports
	}
	if h.PublishAllPorts {
		h.PublishAllPorts = false
		for port := range r.Config.ExposedPorts {
			if len(h.PortBindings[port]) == 0 {
				h.PortBindings[port] = []apinetwork.PortBinding{{}}
			}
		}
	}
	for _, gone := range remove {
		found := false
		for port, list := range bound {
			for _, b := range list {
				if gone.Has(port, b) {
					found = true
					forget(h.PortBindings, port, b)
				}
			}
		}
		if !found {
			return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("container %s does not publish port %s of the host", r.Name, shown(gone)))
		}
	}
	r.HostConfig = &h
	return nil
}

// forget takes away the binding that led to what is bound: the same, else one
// whose port was left open, else a range.
func forget(bindings apinetwork.PortMap, port apinetwork.Port, bound apinetwork.PortBinding) {
	list := bindings[port]
	ip := func(b apinetwork.PortBinding) bool {
		return !b.HostIP.IsValid() || b.HostIP == bound.HostIP || b.HostIP.IsUnspecified() && bound.HostIP.IsUnspecified()
	}
	for _, same := range []func(b apinetwork.PortBinding) bool{
		func(b apinetwork.PortBinding) bool { return b.HostPort == bound.HostPort && ip(b) },
		func(b apinetwork.PortBinding) bool { return (b.HostPort == "" || b.HostPort == "0") && ip(b) },
		func(b apinetwork.PortBinding) bool { return strings.Contains(b.HostPort, "-") && ip(b) },
	} {
		if at := slices.IndexFunc(list, same); at >= 0 {
			if list = slices.Delete(list, at, at+1); len(list) == 0 {
				delete(bindings, port)
			} else {
				bindings[port] = list
			}
			return
		}
	}
}

func shown(h network.HostPort) string {
	s := strconv.Itoa(int(h.Port))
	if h.IP.IsValid() {
		s = netip.AddrPortFrom(h.IP, h.Port).String()
	}
	if h.Container.Num() > 0 {
		s += ":" + strconv.Itoa(int(h.Container.Num()))
	}
	return s + "/" + string(h.Container.Proto())
}

func clone(m apinetwork.PortMap) apinetwork.PortMap {
	out := apinetwork.PortMap{}
	for port, list := range m {
		out[port] = slices.Clone(list)
	}
	return out
}

// publish adds ports to the configuration.
func publish(r *container.Record, add apinetwork.PortMap) error {
	if len(add) == 0 {
		return nil
	}
	h, cfg := *r.HostConfig, *r.Config
	h.PortBindings, cfg.ExposedPorts = clone(h.PortBindings), maps.Clone(cfg.ExposedPorts)
	if cfg.ExposedPorts == nil {
		cfg.ExposedPorts = apinetwork.PortSet{}
	}
	for port, list := range add {
		if port.Num() == 0 || !slices.Contains([]string{"tcp", "udp", "sctp"}, string(port.Proto())) {
			return invalid("invalid port specification: %q", port)
		}
		for _, b := range list {
			if b.HostPort != "" && slices.Contains(h.PortBindings[port], b) {
				return errdefs.ErrConflict.WithMessage(fmt.Sprintf("container %s publishes port %s already", r.Name, b.HostPort))
			}
			h.PortBindings[port] = append(h.PortBindings[port], b)
		}
		cfg.ExposedPorts[port] = struct{}{}
	}
	r.HostConfig, r.Config = &h, &cfg
	return nil
}

// aliases gives the wanted aliases of the networks where they change.
func (n *Networks) aliases(r *container.Record, u api.NetworkUpdate) (map[string][]string, error) {
	out := map[string][]string{}
	list := func(name string) (string, error) {
		if name == "" {
			name = string(r.HostConfig.NetworkMode)
		}
		if one, err := n.manager.Inspect(name, false); err == nil && r.Networks[name] == nil {
			name = one.Name // it was called by its id
		}
		ep, ok := r.Networks[name]
		switch {
		case !ok || ep == nil:
			return "", errdefs.ErrNotFound.WithMessage(fmt.Sprintf("container %s is not connected to network %s", r.Name, name))
		case !apicontainer.NetworkMode(name).IsUserDefined():
			return "", invalid("network-scoped aliases are only supported for user-defined networks, not for %s", name)
		}
		if _, ok := out[name]; !ok {
			out[name] = slices.Clone(ep.Aliases)
		}
		return name, nil
	}
	for ref, names := range u.AliasAdd {
		name, err := list(ref)
		if err != nil {
			return nil, err
		}
		for _, a := range names {
			if a == "" || strings.ContainsAny(a, " \t\n/") {
				return nil, invalid("invalid network alias %q", a)
			}
			if !slices.Contains(out[name], a) {
				out[name] = append(out[name], a)
			}
		}
	}
	for ref, names := range u.AliasRemove {
		name, err := list(ref)
		if err != nil {
			return nil, err
		}
		for _, a := range names {
			at := slices.Index(out[name], a)
			if at < 0 {
				return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("container %s has no alias %s on network %s", r.Name, a, name))
			}
			out[name] = slices.Delete(out[name], at, at+1)
		}
	}
	return out, nil
}
