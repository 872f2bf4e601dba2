package network

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/plugged"
	"github.com/wherry-engine/wherry/internal/network/segment"
	"github.com/wherry-engine/wherry/internal/network/spec"
	"github.com/wherry-engine/wherry/internal/undo"
)

func taken(name string) error {
	return errdefs.ErrConflict.WithMessage("network with name " + name + " already exists")
}

func forbidden(format string, a ...any) error {
	return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(format, a...))
}

// Create makes a network. It is durable when it returns.
func (m *Manager) Create(ctx context.Context, r network.CreateRequest) (*network.CreateResponse, error) {
	rec, err := spec.Describe(r, m.cfg.NetworkOptions)
	if err != nil {
		return nil, err
	}
	var u undo.Stack
	defer u.Run()
	n := &segment.Segment{Network: rec}
	m.mu.Lock()
	err = m.reg.inherit(n)
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if n.Pending = plugged.Has(n); n.Pending {
		if err := m.plugs.Pools(ctx, n, &u); err != nil {
			return nil, err
		}
	}
	unlock, err := rtnl.Lock(m.home) // another engine may be choosing a subnet too
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	err = m.add(n, &u)
	m.mu.Unlock()
	unlock()
	if err != nil {
		return nil, err
	}
	if err := m.plugs.Create(ctx, n, &u); err != nil {
		return nil, err
	}
	if err := m.route(n.EnableIPv6); err != nil {
		return nil, err
	}
	m.mu.Lock()
	n.Pending = false
	m.mu.Unlock()
	u.Keep()
	return &network.CreateResponse{ID: rec.ID}, nil
}

// inherit refuses a network whose name is taken, and completes one from its
// configuration network. m.mu is held.
func (g register) inherit(n *segment.Segment) error {
	if g.ByName(n.Name) != nil {
		return taken(n.Name)
	}
	if n.ConfigFrom == "" {
		return nil
	}
	from, err := g.Find(n.ConfigFrom)
	if err != nil {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("configuration network %q does not exist", n.ConfigFrom))
	}
	return n.Inherit(&from.Network)
}

// add brings a new network up and writes it down. m.mu is held; the steps of u
// take it again.
func (m *Manager) add(n *segment.Segment, u *undo.Stack) error {
	if m.reg.ByName(n.Name) != nil {
		return taken(n.Name)
	}
	b := m.bridges()
	if n.ConfigOnly {
		n.Created = time.Now().UTC()
	} else if err := b.Place(n); err != nil {
		return err
	}
	m.reg.Nets[n.ID] = n
	u.Add(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.drop(n)
	})
	if err := m.reg.Save(); err != nil {
		delete(m.reg.Nets, n.ID)
		b.TakeDown(n)
		u.Keep()
		return err
	}
	return nil
}

// drop takes a network away again. m.mu is held.
func (m *Manager) drop(n *segment.Segment) {
	delete(m.reg.Nets, n.ID)
	m.bridges().TakeDown(n)
	if err := m.reg.Save(); err != nil {
		logger().Warn("write networks", "error", err)
	}
}

// Remove deletes a user-defined network that nobody uses.
func (m *Manager) Remove(ctx context.Context, ref string) (*network.Network, error) {
	m.mu.Lock()
	n, err := m.reg.Find(ref)
	if err == nil {
		err = m.removable(n)
	}
	if err != nil {
		m.mu.Unlock()
		return nil, err
	}
	if plugged.Has(n) {
		n.Pending = true
		m.mu.Unlock()
		err = m.plugs.Remove(ctx, n)
		m.mu.Lock()
		if err != nil {
			n.Pending = false
			m.mu.Unlock()
			return nil, err
		}
	}
	m.drop(n)
	m.mu.Unlock()
	gone := n.API()
	return &gone, m.ports.assert()
}

// removable says why a network has to stay. m.mu is held.
func (m *Manager) removable(n *segment.Segment) error {
	if n.Pending {
		return errdefs.ErrConflict.WithMessage("network " + n.Name + " is being created or removed")
	}
	if spec.IsPredefined(n.Name) {
		return forbidden("%s is a pre-defined network and cannot be removed", n.Name)
	}
	var active []string
	for _, r := range m.members(n) {
		active = append(active, fmt.Sprintf("name:%q id:%q", r.Name, id.Short(r.EndpointID)))
	}
	if n.ConfigOnly {
		for _, other := range m.reg.Nets {
			if other.ConfigFrom == n.Name || other.ConfigFrom == n.ID {
				return forbidden("configuration network %q is in use", n.Name)
			}
		}
	}
	if len(active) > 0 {
		sort.Strings(active)
		return forbidden("error while removing network: network %s has active endpoints (%s)", n.Name, strings.Join(active, ", "))
	}
	return nil
}

// Prune removes the user-defined networks that nobody uses and that match
// (label, label!, until). tell is called with each that went.
func (m *Manager) Prune(ctx context.Context, f filter.Args, tell func(gone *network.Network)) (network.PruneReport, error) {
	report := network.PruneReport{NetworksDeleted: []string{}}
	if err := f.Validate("label", "label!", "until"); err != nil {
		return report, err
	}
	until, err := f.Until(time.Now())
	if err != nil {
		return report, err
	}
	m.mu.Lock()
	var names []string
	for _, n := range m.reg.Ordered() {
		switch {
		case spec.IsPredefined(n.Name), m.removable(n) != nil, !f.Labels("label", n.Labels), f.Has("label!") && f.Labels("label!", n.Labels), !until.IsZero() && n.Created.After(until):
		default:
			names = append(names, n.Name)
		}
	}
	m.mu.Unlock()
	var failed []error
	for _, name := range names {
		gone, err := m.Remove(ctx, name)
		if gone != nil {
			tell(gone)
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		report.NetworksDeleted = append(report.NetworksDeleted, name)
	}
	return report, errors.Join(failed...)
}
