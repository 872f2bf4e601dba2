package executor

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/solver/pb"

	"github.com/wherry-engine/wherry/internal/network"
	"github.com/wherry-engine/wherry/internal/network/resolv"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
)

// passHost is the extra host that stands for a network in a step's definition.
// BuildKit knows modes of networks only; its address is a pass, which nobody
// can guess, for the network that the request named. Addresses of extra hosts
// are no part of a step's cache key: which network it was does not matter.
const passHost = "network.build.wherry.internal"

// passes are the networks that builds have named.
type passes struct {
	mu     sync.Mutex
	key    [32]byte
	issued map[netip.Addr]string // ids
}

func (p *passes) issue(id string) netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.issued == nil {
		rand.Read(p.key[:])
		p.issued = map[netip.Addr]string{}
	}
	h := hmac.New(sha256.New, p.key[:])
	h.Write([]byte(id))
	// A prefix, as BuildKit would write an address of version 4 in another form.
	a := [16]byte{0xfd}
	copy(a[1:], h.Sum(nil))
	pass := netip.AddrFrom16(a)
	p.issued[pass] = id
	return pass
}

// network gives the network that a step's extra hosts name, "" for none.
func (p *passes) network(hosts []executor.HostIP) (string, error) {
	for _, h := range hosts {
		if h.Host != passHost {
			continue
		}
		a, _ := netip.AddrFromSlice(net.IP(h.IP).To16())
		p.mu.Lock()
		id := p.issued[a]
		p.mu.Unlock()
		if id == "" {
			return "", errdefs.ErrPermissionDenied.WithMessage("the network of a build is chosen by its request")
		}
		return id, nil
	}
	return "", nil
}

// Network gives the extra host, as name and address, that puts the steps of a
// build on a network of the engine's.
func (e *Executor) Network(ref string) (host string, pass netip.Addr, err error) {
	n, err := e.cfg.Networks.Inspect(ref, false)
	if err != nil {
		return "", pass, err
	}
	return passHost, e.passes.issue(n.ID), nil
}

// networking is a step's network. ns is nil for the host's, and as long as it
// is held: a user namespace's own is wired when its process is there.
type networking struct {
	ns        *os.File
	held      bool
	addresses []netip.Addr
	server    netip.Addr // the name service of a user-defined network
	release   func()
}

func (n *networking) close() {
	if n.ns != nil {
		n.ns.Close()
	}
	n.release()
}

// connect gets the step its network, or wires that which n has.
func (e *Executor) connect(ctx context.Context, s *step, m *executor.Meta, n *networking) error {
	r := network.Request{ContainerID: s.id, Hostname: hostname(m), Network: "default", NS: n.ns, DNS: e.cfg.DNS}
	switch m.NetMode {
	case pb.NetMode_HOST:
		return nil
	case pb.NetMode_NONE:
		r.Network = "none"
	default:
		id, err := e.passes.network(m.ExtraHosts)
		if err != nil {
			return err
		}
		if id != "" {
			r.Network, r.Hostname = id, m.Hostname // the name that all steps have is nobody's there
		}
	}
	sb, err := e.cfg.Networks.Attach(ctx, r)
	if err != nil {
		return fmt.Errorf("failed to set up the network of a build step: %w", err)
	}
	n.ns, n.server = sb.NS, sb.NameServer
	n.release = func() { e.cfg.Networks.Release(context.WithoutCancel(ctx), s.id) } //nolint:errcheck // the next start releases what is left
	for _, ep := range sb.Endpoints {
		for _, a := range []netip.Addr{ep.IPAddress, ep.GlobalIPv6Address} {
			if a.IsValid() {
				n.addresses = append(n.addresses, a)
			}
		}
	}
	return nil
}

func hostname(m *executor.Meta) string {
	if m.Hostname != "" {
		return m.Hostname
	}
	return defaultHostname
}

// files makes a step's resolv.conf and hosts.
func (e *Executor) files(s *step, m *executor.Meta, n *networking) ([]spec.Mount, error) {
	o := resolv.Overrides{Servers: e.cfg.DNS, Search: e.cfg.DNSSearch, Options: e.cfg.DNSOptions}
	conf := resolv.Host().Legacy(o, false)
	switch {
	case n.server.IsValid():
		conf, _ = resolv.Host().Internal(n.server, o)
	case n.ns == nil && !n.held:
		conf = resolv.Host().Plain(o)
	}
	in := resolv.HostsInput{Hostname: hostname(m), Addresses: n.addresses, Gateway: e.cfg.HostGateway}
	for _, h := range m.ExtraHosts {
		if h.Host == passHost {
			continue
		}
		in.Extra = append(in.Extra, h.Host+":"+h.IP.String())
	}
	hosts, err := resolv.Hosts(in)
	if err != nil {
		return nil, err
	}
	var mounts []spec.Mount
	for name, data := range map[string][]byte{"resolv.conf": conf, "hosts": hosts} {
		file := filepath.Join(s.dir, name)
		if err := os.WriteFile(file, data, 0o644); err != nil {
			return nil, err
		}
		if err := e.giveToRoot(file); err != nil {
			return nil, err
		}
		mounts = append(mounts, spec.Mount{Type: "bind", Source: file, Destination: "/etc/" + name, ReadOnly: true})
	}
	return mounts, nil
}
