package netfiles

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/atomicfile"
	"github.com/wherry-engine/wherry/internal/container"
)

func invalid(format string, a ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, a...))
}

// CheckLinks resolves HostConfig.Links of a container that is being made: on
// the default network to ids, on a user-defined one they are the endpoint's.
func (f *Files) CheckLinks(h *apicontainer.HostConfig, endpoints map[string]*apinetwork.EndpointSettings) error {
	if h.NetworkMode.IsUserDefined() {
		if ep := endpoints[string(h.NetworkMode)]; ep != nil && len(ep.Links) == 0 {
			ep.Links = h.Links
		}
		for _, ep := range endpoints {
			for _, l := range ep.Links {
				if _, _, err := container.ParseLink(l); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if len(h.Links) == 0 {
		return nil
	}
	if _, err := f.linkage.Apart(); err != nil {
		return err
	}
	resolved := make([]string, len(h.Links))
	for i, l := range h.Links {
		name, alias, err := container.ParseLink(l)
		if err != nil {
			return err
		}
		other, err := f.containers.Get(name)
		if err != nil {
			return invalid("could not get container for %s: %s", name, err)
		}
		switch r := other.Snapshot(); {
		case r.HostConfig.NetworkMode.IsHost():
			return invalid("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
		case r.HostConfig.NetworkMode.IsUserDefined():
			return invalid("Cannot link to %s, as it does not belong to the default network", "/"+r.Name)
		}
		resolved[i] = other.ID + ":" + alias
	}
	h.Links = resolved
	return nil
}

// peer is the other end of a link while it runs.
type peer struct {
	container.Record
	alias string
	addr  netip.Addr
	names []string // in hosts
}

// links are those whose other end runs on the default network.
func (f *Files) links(r *container.Record) []peer {
	var out []peer
	for _, l := range r.Links() {
		other, err := f.containers.Get(l.Target)
		if err != nil {
			continue
		}
		o := other.Snapshot()
		ep := o.Networks[apinetwork.NetworkBridge]
		if !o.State.Running || ep == nil || !ep.IPAddress.IsValid() {
			continue
		}
		out = append(out, peer{o, l.Alias, ep.IPAddress, hostNames(&o, l.Alias)})
	}
	return out
}

func hostNames(r *container.Record, alias string) []string {
	names := []string{alias, r.Config.Hostname}
	if alias != r.Name {
		names = append(names, r.Name)
	}
	return names
}

// Ready refuses a start whose links lead to a container that does not run.
func (f *Files) Ready(r *container.Record) error {
	for _, l := range r.Links() {
		other, err := f.containers.Get(l.Target)
		if err != nil {
			continue // removed, and its links with it
		}
		f.note(l.Target)
		if o := other.Snapshot(); !o.State.Running {
			return fmt.Errorf("Cannot link to a non running container: /%s AS /%s/%s", o.Name, r.Name, l.Alias)
		}
	}
	return nil
}

// Environment has the variables that tell of links.
func (f *Files) Environment(r *container.Record) []string {
	var out []string
	for _, p := range f.links(r) {
		prefix := strings.ReplaceAll(strings.ToUpper(p.alias), "-", "_")
		out = append(out, prefix+"_NAME=/"+r.Name+"/"+p.alias)
		ports := make([]apinetwork.Port, 0, len(p.Config.ExposedPorts))
		for port := range p.Config.ExposedPorts {
			ports = append(ports, port)
		}
		slices.SortFunc(ports, func(a, b apinetwork.Port) int {
			return cmp.Or(cmp.Compare(b.Proto(), a.Proto()), cmp.Compare(a.Num(), b.Num())) // udp before tcp, as docker sorts
		})
		for i, port := range ports {
			num, proto := strconv.Itoa(int(port.Num())), string(port.Proto())
			url := proto + "://" + netip.AddrPortFrom(p.addr, port.Num()).String()
			if i == 0 {
				out = append(out, prefix+"_PORT="+url)
			}
			one := prefix + "_PORT_" + num + "_" + strings.ToUpper(proto)
			out = append(out, one+"="+url, one+"_ADDR="+p.addr.String(), one+"_PORT="+num, one+"_PROTO="+proto)
		}
		for _, e := range p.Config.Env {
			if k, _, ok := strings.Cut(e, "="); ok && k != "HOME" && k != "PATH" {
				out = append(out, prefix+"_ENV_"+e)
			}
		}
	}
	return out
}

// Open opens the ports of links, from and to a container that is on its
// networks now, on a default network that keeps containers apart.
func (f *Files) Open(r *container.Record) error {
	if apart, err := f.linkage.Apart(); !apart || err != nil {
		return nil // links that are not served have been refused
	}
	var failed []error
	for _, p := range f.links(r) {
		failed = append(failed, f.linkage.Link(r.ID, p.ID, p.Config.ExposedPorts))
	}
	if f.isTarget(r.ID) {
		for _, holder := range f.holders(r.ID) {
			failed = append(failed, f.linkage.Link(holder.ID, r.ID, r.Config.ExposedPorts))
		}
	}
	return errors.Join(failed...)
}

// holders are the running containers with a link to one.
func (f *Files) holders(target string) []container.Record {
	var out []container.Record
	for _, c := range f.containers.All() {
		r := c.Snapshot()
		if r.State.Running && slices.ContainsFunc(r.Links(), func(l container.Link) bool { return l.Target == target }) {
			out = append(out, r)
		}
	}
	return out
}

func (f *Files) note(target string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.linked != nil {
		f.linked[target] = true
	}
}

// isTarget reports whether a link to the container may exist.
func (f *Files) isTarget(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.linked == nil {
		f.linked = map[string]bool{}
		for _, c := range f.containers.All() {
			r := c.Snapshot()
			for _, l := range r.Links() {
				f.linked[l.Target] = true
			}
		}
	}
	return f.linked[id]
}

// Follow tells the containers that link to one which has just been started
// where it is now.
func (f *Files) Follow(id string) error {
	if !f.isTarget(id) {
		return nil
	}
	other, err := f.containers.Get(id)
	if err != nil {
		return nil
	}
	o := other.Snapshot()
	failed := []error{f.Open(&o)} // again: who was about to start has started
	for _, r := range f.holders(id) {
		c, err := f.containers.Get(r.ID)
		if err != nil {
			continue
		}
		for _, l := range r.Links() {
			if l.Target != id {
				continue
			}
			stale := []string{strings.Join(hostNames(&o, l.Alias), " ")}
			is, err := f.hosts(&r)
			if err == nil {
				err = revise(filepath.Join(c.Dir(), "hosts"), func(now []byte) []byte { return amend(now, is, is, stale) })
			}
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// Unlink takes a link, "holder/alias", from its holder.
func (f *Files) Unlink(ref string) error {
	holder, alias := path.Split("/" + strings.TrimPrefix(ref, "/"))
	if holder == "/" {
		if _, err := f.containers.Get(alias); err != nil {
			return errdefs.ErrNotFound.WithMessage("No such container: " + ref)
		}
		return errdefs.ErrConflict.WithMessage("Conflict, cannot remove the default link name of the container")
	}
	holder = strings.Trim(holder, "/")
	c, err := f.containers.Get(holder)
	if err != nil {
		return errdefs.ErrNotFound.WithMessage("No such container: " + ref)
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	before := c.Snapshot()
	links := slices.DeleteFunc(slices.Clone(before.HostConfig.Links), func(s string) bool {
		_, a, err := container.ParseLink(s)
		return err == nil && a == alias
	})
	if before.HostConfig.NetworkMode.IsUserDefined() || len(links) == len(before.HostConfig.Links) {
		return errdefs.ErrNotFound.WithMessage("No such container: " + ref)
	}
	was, err := f.hosts(&before)
	if err != nil {
		return err
	}
	c.Lock()
	h := *c.HostConfig
	h.Links = links
	c.HostConfig = &h
	err = c.Save(atomicfile.Synced)
	c.Unlock()
	after := c.Snapshot()
	if err != nil || !after.State.Running {
		return err
	}
	if err := f.close(&before, &after); err != nil {
		return err
	}
	is, err := f.hosts(&after)
	if err != nil {
		return err
	}
	return revise(filepath.Join(c.Dir(), "hosts"), func(now []byte) []byte { return amend(now, was, is, nil) })
}

// close closes the ports of links that a container had and has no more.
func (f *Files) close(before, after *container.Record) error {
	var failed []error
	for _, l := range before.Links() {
		if !slices.ContainsFunc(after.Links(), func(k container.Link) bool { return k.Target == l.Target }) {
			failed = append(failed, f.linkage.Unlink(after.ID, l.Target))
		}
	}
	return errors.Join(failed...)
}
