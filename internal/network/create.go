package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/ipam"
	"github.com/wherry-engine/wherry/internal/undo"
)

func forbidden(format string, a ...any) error {
	return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(format, a...))
}

func notServed(what string) error {
	return errdefs.ErrNotImplemented.WithMessage(what + " is not served by this version of wherryd")
}

// Create makes a network of the bridge driver. It is durable when it returns.
func (m *Manager) Create(_ context.Context, r network.CreateRequest) (*network.CreateResponse, error) {
	rec, err := describe(r)
	if err != nil {
		return nil, err
	}
	var u undo.Stack
	defer u.Run()
	unlock, err := rtnl.Lock(m.home) // another engine may be choosing a subnet too
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	err = m.add(&segment{record: rec}, &u)
	m.mu.Unlock()
	unlock()
	if err != nil {
		return nil, err
	}
	if err := m.ports.assert(); err != nil {
		return nil, err
	}
	u.Keep()
	return &network.CreateResponse{ID: rec.ID}, nil
}

// add brings a new network up and writes it down. m.mu is held; the steps of u
// take it again.
func (m *Manager) add(n *segment, u *undo.Stack) error {
	if m.reg.byName(n.Name) != nil {
		return errdefs.ErrConflict.WithMessage("network with name " + n.Name + " already exists")
	}
	b := m.bridges()
	if len(n.IPAM.Config) == 0 {
		subnet, err := b.chooseSubnet()
		if err != nil {
			return err
		}
		n.IPAM.Config = []network.IPAMConfig{{Subnet: subnet}}
	} else if other, overlaps := ipam.Overlap(n.IPAM.Config[0].Subnet, m.reg.subnets()); overlaps {
		return forbidden("invalid pool request: Pool overlaps with other one on this address space: %s", other)
	}
	if c := &n.IPAM.Config[0]; !c.Gateway.IsValid() {
		c.Gateway = ipam.First(c.Subnet)
	}
	for _, other := range m.reg.nets {
		if other.bridgeName() == n.bridgeName() && other.Driver == "bridge" {
			return forbidden("cannot create network %s (%s): conflicts with network %s (%s): networks have same bridge name", n.ID, n.bridgeName(), other.ID, other.bridgeName())
		}
	}
	if err := b.bringUp(n); err != nil {
		return err
	}
	m.reg.nets[n.ID] = n
	u.Add(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.drop(n)
	})
	if err := m.reg.save(); err != nil {
		delete(m.reg.nets, n.ID)
		b.takeDown(n)
		u.Keep()
		return err
	}
	return nil
}

// drop takes a network away again. m.mu is held.
func (m *Manager) drop(n *segment) {
	delete(m.reg.nets, n.ID)
	m.bridges().takeDown(n)
	if err := m.reg.save(); err != nil {
		logger().Warn("write networks", "error", err)
	}
}

// bringUp makes the bridge of a user-defined network, or takes the one that is
// there since an earlier engine.
func (b *bridges) bringUp(n *segment) error {
	c := n.IPAM.Config[0]
	n.gateway = c.Gateway
	if n.Internal {
		n.gateway = netip.Addr{} // nowhere to go
	}
	name := n.bridgeName()
	link, err := b.rt.LinkByName(name)
	switch {
	case errdefs.IsNotFound(err):
		mtu, _ := strconv.Atoi(n.Options[optMTU])
		if link, err = b.makeBridge(name, mtu); err != nil {
			return err
		}
	case err != nil:
		return err
	case link.Kind != "bridge":
		return invalid("existing interface %s is not a bridge", name)
	case n.link == 0 && n.Created.IsZero():
		n.UserBridge = true // it was there before the network
	}
	if n.Created.IsZero() {
		n.Created = time.Now().UTC()
	}
	addr := netip.PrefixFrom(c.Gateway, c.Subnet.Bits())
	if err := b.setAddress(link, addr, !n.UserBridge); err != nil {
		return err
	}
	if err := b.run(n, link, addr, c.IPRange); err != nil {
		return err
	}
	for _, aux := range c.AuxAddress {
		if err := n.addrs.Take(aux); err != nil && !errdefs.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

func (b *bridges) takeDown(n *segment) {
	if n.link == 0 || n.UserBridge {
		return
	}
	var batch rtnl.Batch
	batch.DelLink(n.link)
	if err := b.rt.Do(&batch); err != nil {
		logger().Warn("remove bridge", "network", n.Name, "error", err)
	}
	n.link = 0
}

// reopen brings the user-defined networks up when the engine starts. One that
// cannot be is reported and stays unusable; the others are not its business.
func (b *bridges) reopen() {
	for _, n := range b.reg.ordered() {
		if isPredefined(n.Name) || len(n.IPAM.Config) == 0 {
			continue
		}
		if err := b.bringUp(n); err != nil {
			n.link = 0
			logger().Warn("network is not available", "network", n.Name, "error", err)
		}
	}
}

// describe checks a request and makes the record from it.
func describe(r network.CreateRequest) (record, error) {
	rec := record{ID: id.New(), Name: r.Name, Driver: r.Driver, Internal: r.Internal, Attachable: r.Attachable,
		Options: maps.Clone(r.Options), Labels: maps.Clone(r.Labels), IPAM: network.IPAM{Driver: "default"}}
	if isPredefined(r.Name) || r.Name == network.NetworkDefault {
		return rec, forbidden("operation is not permitted on predefined %s network ", r.Name)
	}
	// dockerd takes any name; what would be a path or a line of its own in some file is refused here.
	if strings.TrimSpace(r.Name) == "" {
		return rec, invalid("invalid network name %q: it is empty", r.Name)
	}
	if strings.ContainsFunc(r.Name, func(c rune) bool { return c == '/' || !unicode.IsPrint(c) }) || len(r.Name) > 255 {
		return rec, invalid("invalid network name %q: a slash, characters that cannot be printed and more than 255 bytes are not allowed", r.Name)
	}
	switch r.Driver {
	case "", "bridge":
		rec.Driver = "bridge"
	case "host", "null":
		return rec, forbidden("only one instance of %q network is allowed", r.Driver)
	case "macvlan", "ipvlan", "overlay":
		return rec, notServed("network driver " + r.Driver)
	default:
		return rec, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("plugin %q not found", r.Driver))
	}
	switch {
	case r.EnableIPv6 != nil && *r.EnableIPv6:
		return rec, notServed("IPv6 on networks (EnableIPv6)")
	case r.EnableIPv4 != nil && !*r.EnableIPv4:
		return rec, notServed("a network without IPv4 (EnableIPv4)")
	case r.ConfigOnly || r.ConfigFrom != nil && r.ConfigFrom.Network != "":
		return rec, notServed("a configuration-only network (ConfigOnly, ConfigFrom)")
	case r.Ingress || r.Scope != "" && r.Scope != "local":
		return rec, errdefs.ErrUnavailable.WithMessage(`This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`)
	}
	if err := checkOptions(rec.Options); err != nil {
		return rec, err
	}
	if r.IPAM == nil {
		return rec, nil
	}
	if d := r.IPAM.Driver; d != "" && d != "default" {
		return rec, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("plugin %q not found", d))
	}
	rec.IPAM.Options = r.IPAM.Options
	for _, c := range r.IPAM.Config {
		if c.Subnet.IsValid() && c.Subnet.Addr().Is4() {
			rec.IPAM.Config = append(rec.IPAM.Config, c)
		} else if !c.Subnet.IsValid() && (c.Gateway.IsValid() || c.IPRange.IsValid()) {
			return rec, invalid("invalid network config:\ninvalid subnet: ip-range and gateway need one")
		}
	}
	if len(rec.IPAM.Config) > 1 {
		return rec, invalid("bridge driver: a network has one IPv4 subnet, not %d", len(rec.IPAM.Config))
	}
	return rec, ipam.Check(rec.IPAM.Config)
}

// checkOptions refuses driver options whose effect is not there yet. Like
// dockerd it takes options that nobody knows.
func checkOptions(options map[string]string) error {
	for _, o := range []string{"com.docker.network.bridge.inhibit_ipv4", "com.docker.network.bridge.trusted_host_interfaces", "com.docker.network.container_iface_prefix"} {
		if v, ok := options[o]; ok && v != "" && v != "false" {
			return notServed("network option " + o)
		}
	}
	if v, ok := options["com.docker.network.bridge.gateway_mode_ipv4"]; ok && v != "" && v != "nat" {
		return notServed("network option com.docker.network.bridge.gateway_mode_ipv4=" + v)
	}
	for _, o := range []string{optICC, optMasquerade} {
		if v, ok := options[o]; ok && v != "true" && v != "false" {
			return invalid("invalid value for %s: %q: must be true or false", o, v)
		}
	}
	if v, ok := options[optMTU]; ok {
		if n, err := strconv.Atoi(v); err != nil || n < 0 {
			return invalid("invalid value for %s: %q", optMTU, v)
		}
	}
	if v := options[optBridgeName]; len(v) > rtnl.MaxName || strings.ContainsAny(v, "/ \t\n") {
		return invalid("invalid bridge name %q", v)
	}
	if v, ok := options[optBindIP]; ok {
		if a, err := netip.ParseAddr(v); err != nil || !a.Is4() {
			return invalid("invalid value for %s: %q", optBindIP, v)
		}
	}
	return nil
}

// Remove deletes a user-defined network that nobody uses.
func (m *Manager) Remove(_ context.Context, ref string) (*network.Network, error) {
	m.mu.Lock()
	n, err := m.reg.find(ref)
	if err == nil {
		err = m.removable(n)
	}
	if err != nil {
		m.mu.Unlock()
		return nil, err
	}
	m.drop(n)
	m.mu.Unlock()
	gone := n.api()
	return &gone, m.ports.assert()
}

// removable says why a network has to stay. m.mu is held.
func (m *Manager) removable(n *segment) error {
	if isPredefined(n.Name) {
		return forbidden("%s is a pre-defined network and cannot be removed", n.Name)
	}
	var active []string
	for _, r := range m.members(n) {
		active = append(active, fmt.Sprintf("name:%q id:%q", r.Name, id.Short(r.EndpointID)))
	}
	if len(active) > 0 {
		sort.Strings(active)
		return forbidden("error while removing network: network %s has active endpoints (%s)", n.Name, strings.Join(active, ", "))
	}
	return nil
}

// Prune removes the user-defined networks that nobody uses and that match
// (label, label!, until).
func (m *Manager) Prune(ctx context.Context, f filter.Args) (network.PruneReport, error) {
	report := network.PruneReport{NetworksDeleted: []string{}}
	if err := f.Validate("label", "label!", "until"); err != nil {
		return report, err
	}
	until, err := untilOf(f)
	if err != nil {
		return report, err
	}
	m.mu.Lock()
	var names []string
	for _, n := range m.reg.ordered() {
		switch {
		case isPredefined(n.Name), m.removable(n) != nil, !f.Labels("label", n.Labels), f.Has("label!") && f.Labels("label!", n.Labels), !until.IsZero() && n.Created.After(until):
		default:
			names = append(names, n.Name)
		}
	}
	m.mu.Unlock()
	var failed []error
	for _, name := range names {
		if _, err := m.Remove(ctx, name); err != nil {
			failed = append(failed, err)
			continue
		}
		report.NetworksDeleted = append(report.NetworksDeleted, name)
	}
	return report, errors.Join(failed...)
}

// untilOf reads the filter until: a time, seconds since the epoch, or an age.
func untilOf(f filter.Args) (time.Time, error) {
	if !f.Has("until") {
		return time.Time{}, nil
	}
	if len(f["until"]) > 1 {
		return time.Time{}, invalid("more than one until filter specified")
	}
	s := f["until"][0]
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(-d), nil
	}
	if sec, err := strconv.ParseFloat(s, 64); err == nil {
		return time.Unix(0, int64(sec*float64(time.Second))), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, invalid("invalid until filter %q", s)
}
