package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/network/spec"
)

// The words of a network's options.
const (
	optGeneric  = "com.docker.network.generic"
	optInternal = "com.docker.network.internal"
	optPorts    = "com.docker.network.portmap"
	optExposed  = "com.docker.network.endpoint.exposedports"
)

// data is what a driver is told of a subnet.
type data struct {
	AddressSpace string
	Pool         string            `json:",omitempty"`
	Gateway      string            `json:",omitempty"`
	AuxAddresses map[string]string `json:",omitempty"`
}

func dataOf(n *spec.Network, six bool) []data {
	out := []data{}
	for _, c := range n.Subnets(six) {
		d := data{AddressSpace: "LocalDefault", Pool: c.Subnet.String()}
		if p := n.PoolOf(c.Subnet); p != nil {
			d.AddressSpace = p.Space
		}
		if c.Gateway.IsValid() {
			d.Gateway = netip.PrefixFrom(c.Gateway, c.Subnet.Bits()).String()
		}
		for name, a := range c.AuxAddress {
			if d.AuxAddresses == nil {
				d.AuxAddresses = map[string]string{}
			}
			d.AuxAddresses[name] = netip.PrefixFrom(a, c.Subnet.Bits()).String()
		}
		out = append(out, d)
	}
	return out
}

// Check finds the driver of a network that is to be made.
func (d *Drivers) Check(ctx context.Context, driver string) error {
	_, c, err := d.get(ctx, driver, networks)
	if err == nil && c.Scope == "global" {
		err = errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("plugin %s drives networks of several hosts (scope global), for which a cluster is needed: this version of wherryd serves drivers of scope local", driver))
	}
	return err
}

// optionsOf are the options of a network as its driver is told of them.
func optionsOf(n *spec.Network) map[string]any {
	generic := maps.Clone(n.Options)
	if generic == nil {
		generic = map[string]string{}
	}
	options := map[string]any{optGeneric: generic, spec.OptEnableIPv4: !n.DisableIPv4, spec.OptEnableIPv6: n.EnableIPv6}
	if n.Internal {
		options[optInternal] = true
	}
	return options
}

// SkipsGateway asks a driver that wants to be asked whether a network that is to
// be made needs no gateway, of IPv4 and of IPv6.
func (d *Drivers) SkipsGateway(ctx context.Context, n *spec.Network) (skip [2]bool, err error) {
	if _, c, err := d.get(ctx, n.Driver, networks); err != nil || !c.GwAllocChecker {
		return skip, err
	}
	var out struct{ SkipIPv4, SkipIPv6 bool }
	err = d.call(ctx, n.Driver, networks, "GwAllocCheck", struct{ Options map[string]any }{optionsOf(n)}, &out)
	return [2]bool{out.SkipIPv4, out.SkipIPv6}, err
}

// Create makes a network. On an error the driver holds nothing.
func (d *Drivers) Create(ctx context.Context, n *spec.Network) error {
	err := d.call(ctx, n.Driver, networks, "CreateNetwork", struct {
		NetworkID          string
		Options            map[string]any
		IPv4Data, IPv6Data []data
	}{n.ID, optionsOf(n), dataOf(n, false), dataOf(n, true)}, nil)
	if err != nil && !said(err) {
		_, again := d.Delete(context.WithoutCancel(ctx), n.Driver, n.ID) // it may have made it
		if again != nil && !said(again) {
			err = errors.Join(err, again)
		}
	}
	return err
}

// Delete tells a driver that a network has gone. gone reports whether it was
// told, or is not there any more: what the driver says of it is told in the log
// alone then, as by docker.
func (d *Drivers) Delete(ctx context.Context, driver, id string) (gone bool, err error) {
	err = d.call(ctx, driver, networks, "DeleteNetwork", struct{ NetworkID string }{id}, nil)
	return err == nil || said(err) || errdefs.IsNotFound(err), err
}

type endpoint struct{ NetworkID, EndpointID string }

// link is a link as the protocol has it: with prefix lengths, empty for none.
type link struct{ Address, AddressIPv6, MacAddress string }

// Endpoint is a container's place on a network of plugins.
type Endpoint struct {
	ID, Network  string
	Driver, IPAM string          // "" where it is the engine's own
	Pools        [2]string       // of the addresses, where they are a plugin's
	Addrs        [2]netip.Prefix // what it has, of IPv4 and of IPv6
	Asked        [2]*Ask         `json:",omitempty"` // what a plugin was asked for and has not answered, as far as is known
	Made         bool            // the driver was told of it
	Joined       bool            // the driver was told that a container has it
	Exit         bool            // the driver was told that the container leaves by it
	Link, Device string          // the link on the host that is to be the container's, and its name there

	MAC     net.HardwareAddr `json:"-"` // nil for the link's own
	TellMAC bool             `json:"-"` // the driver of addresses wants to know it
	Prefix  string           `json:"-"` // of its name in there
	Gateway [2]netip.Addr    `json:"-"`
	Routes  []Route          `json:"-"`

	// Options are the driver's and tell of the ports; a later engine tells it of
	// them again.
	Options map[string]any
}

// Route is one that a driver wants in the container.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr // invalid for one onto the link
}

// Ports are those of a container that a driver is told of.
type Ports struct {
	Exposed   network.PortSet
	Published network.PortMap
}

// PortsOf are the exposed ports and those that are published: with all every
// exposed one is, at any port of the host where nothing was said.
func PortsOf(exposed network.PortSet, published network.PortMap, all bool) Ports {
	out := Ports{Exposed: exposed, Published: published}
	if !all {
		return out
	}
	out.Published = network.PortMap{}
	maps.Copy(out.Published, published)
	for port := range exposed {
		if len(published[port]) == 0 {
			out.Published[port] = []network.PortBinding{{}}
		}
	}
	return out
}

type transport struct {
	Proto int
	Port  uint16
}

type binding struct {
	Proto       int
	IP          string
	Port        uint16
	HostIP      string
	HostPort    uint16
	HostPortEnd uint16
}

// Options are what a driver is told of an endpoint.
func Options(driver map[string]string, mac net.HardwareAddr, of Ports) map[string]any {
	out := map[string]any{}
	for k, v := range driver {
		out[k] = v
	}
	if mac != nil {
		out[OptMAC] = []byte(mac) // in the form that plugins have it in from docker
	}
	number := map[network.IPProtocol]int{network.TCP: 6, network.UDP: 17, network.SCTP: 132}
	ports, bindings := []transport{}, []binding{}
	seen := maps.Clone(of.Exposed)
	if seen == nil {
		seen = network.PortSet{}
	}
	for p, list := range of.Published {
		seen[p] = struct{}{}
		for _, b := range list {
			one := binding{Proto: number[p.Proto()], Port: p.Num()}
			if b.HostIP.IsValid() {
				one.HostIP = b.HostIP.String()
			}
			if r, err := network.ParsePortRange(b.HostPort); err == nil && b.HostPort != "" {
				one.HostPort, one.HostPortEnd = r.Start(), r.End()
			}
			bindings = append(bindings, one)
		}
	}
	for p := range seen {
		ports = append(ports, transport{number[p.Proto()], p.Num()})
	}
	slices.SortFunc(ports, func(a, b transport) int { return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Port, b.Port)) })
	slices.SortFunc(bindings, func(a, b binding) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Port, b.Port), cmp.Compare(a.HostIP, b.HostIP), cmp.Compare(a.HostPort, b.HostPort))
	})
	out[optExposed], out[optPorts] = ports, bindings
	return out
}

// CreateEndpoint makes an endpoint. What the driver chooses, where nothing was
// chosen, is in e then. Whoever called it has to call Leave, after an error too.
func (d *Drivers) CreateEndpoint(ctx context.Context, e *Endpoint) error {
	asked := link{}
	for f, to := range []*string{&asked.Address, &asked.AddressIPv6} {
		if e.Addrs[f].IsValid() {
			*to = e.Addrs[f].String()
		}
	}
	if e.MAC != nil {
		asked.MacAddress = e.MAC.String()
	}
	e.Made = true
	if err := d.Note(e); err != nil {
		e.Made = false
		return err
	}
	var out struct{ Interface *link }
	err := d.call(ctx, e.Driver, networks, "CreateEndpoint", struct {
		endpoint
		Interface link
		Options   map[string]any
	}{endpoint{e.Network, e.ID}, asked, e.Options}, &out)
	if err != nil {
		e.Made = !said(err)
		return err
	}
	if out.Interface == nil {
		return nil
	}
	if err := e.accept(asked, *out.Interface); err != nil {
		return err
	}
	return d.Note(e)
}

// accept takes what a driver chose of a link.
func (e *Endpoint) accept(asked, is link) error {
	for f, text := range []string{is.Address, is.AddressIPv6} {
		was := []string{asked.Address, asked.AddressIPv6}[f]
		if text == "" || text == was {
			continue
		}
		if was != "" {
			return lie(e.Driver, networks, "CreateEndpoint", "driver modified interface address: it has %s and cannot have %q", was, text)
		}
		at, err := netip.ParsePrefix(text)
		if err != nil || at.Addr().Is6() != (f == 1) || at.Addr().Is4In6() || !unicast(at.Addr()) {
			return lie(e.Driver, networks, "CreateEndpoint", "it answers with the address %q, which no link can have", text)
		}
		e.Addrs[f] = at
	}
	if is.MacAddress != "" && is.MacAddress != asked.MacAddress {
		mac, err := net.ParseMAC(is.MacAddress)
		switch {
		case asked.MacAddress != "":
			return lie(e.Driver, networks, "CreateEndpoint", "driver modified interface MAC address: it has %s and cannot have %q", asked.MacAddress, is.MacAddress)
		case err != nil || len(mac) != 6 || mac[0]&1 != 0 || slices.Equal(mac, make(net.HardwareAddr, 6)):
			return lie(e.Driver, networks, "CreateEndpoint", "it answers with the MAC address %q, which no link can have", is.MacAddress)
		}
		e.MAC = mac
	}
	return nil
}

// unicast reports whether an address can be a host's.
func unicast(a netip.Addr) bool {
	return !a.IsMulticast() && !a.IsLoopback() && !a.IsUnspecified() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// Join gives an endpoint to a container; sandbox is a path to its network
// namespace. e knows the link and the routes then.
func (d *Drivers) Join(ctx context.Context, e *Endpoint, sandbox string) error {
	e.Joined = true
	if err := d.Note(e); err != nil {
		e.Joined = false
		return err
	}
	var out joined
	err := d.call(ctx, e.Driver, networks, "Join", struct {
		endpoint
		SandboxKey string
		Options    map[string]any
	}{endpoint{e.Network, e.ID}, sandbox, e.ports()}, &out)
	if err != nil {
		e.Joined = !said(err)
		return err
	}
	return e.take(&out)
}

// joined is the answer to Join.
type joined struct {
	InterfaceName        *struct{ SrcName, DstPrefix string }
	Gateway, GatewayIPv6 string
	StaticRoutes         []struct {
		Destination, NextHop string
		RouteType            int
	}
}

// maxRoutes bounds how many routes a driver can give a container.
const maxRoutes = 1000

// take takes what a driver says of a container's link.
func (e *Endpoint) take(j *joined) error {
	wrong := func(format string, a ...any) error { return lie(e.Driver, networks, "Join", format, a...) }
	if n := j.InterfaceName; n != nil {
		e.Link, e.Prefix = n.SrcName, n.DstPrefix
	}
	if e.Prefix == "" {
		e.Prefix = "eth"
	}
	switch {
	case e.Link != "" && !linkName(e.Link, 0):
		return wrong("it answers with the link %q, which is no name of one", e.Link)
	case !linkName(e.Prefix, 3):
		return wrong("it answers with the prefix %q, with which no link's name can begin", e.Prefix)
	case len(j.StaticRoutes) > maxRoutes:
		return wrong("it answers with %d routes: %d are allowed", len(j.StaticRoutes), maxRoutes)
	}
	for f, text := range []string{j.Gateway, j.GatewayIPv6} {
		if text == "" {
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil || a.Is6() != (f == 1) || a.Is4In6() || !unicast(a) {
			return wrong("it answers with the gateway %q, which is none", text)
		}
		e.Gateway[f] = a.WithZone("")
	}
	for _, r := range j.StaticRoutes {
		route := Route{}
		var err error
		if route.Dst, err = netip.ParsePrefix(r.Destination); err != nil || route.Dst.Addr().Is4In6() {
			return wrong("it answers with a route to %q, which is no subnet", r.Destination)
		}
		route.Dst = route.Dst.Masked()
		switch {
		case r.RouteType == 1 && r.NextHop == "":
		case r.RouteType == 0:
			if route.Via, err = netip.ParseAddr(r.NextHop); err != nil || route.Via.Is6() != route.Dst.Addr().Is6() {
				return wrong("it answers with a route to %s by %q, which is no address of its family", route.Dst, r.NextHop)
			}
		default:
			return wrong("it answers with a route to %s of the type %d by %q: 0 has a next hop, 1 has none", route.Dst, r.RouteType, r.NextHop)
		}
		f := 0
		if route.Dst.Addr().Is6() {
			f = 1
		}
		if route.Dst.Bits() == 0 && route.Via.IsValid() && !e.Gateway[f].IsValid() {
			e.Gateway[f] = route.Via // the way out, if it is the container's
			continue
		}
		e.Routes = append(e.Routes, route)
	}
	if e.Link == "" && (len(e.Routes) > 0 || e.Gateway != [2]netip.Addr{}) {
		return wrong("it answers with routes and without a link")
	}
	return nil
}

// Program tells the driver which ports are published, once the container has
// its link and leaves by it, and asks what became of the endpoint.
func (d *Drivers) Program(ctx context.Context, e *Endpoint, exit bool) error {
	if err := d.SetExit(ctx, e, exit); err != nil {
		return err
	}
	// As with docker nothing of the answer is shown anywhere; some drivers take
	// the question for the sign that all is in place.
	return d.optional(ctx, e.Driver, networks, "EndpointOperInfo", endpoint{e.Network, e.ID}, nil)
}

// SetExit tells the driver whether the container leaves by the endpoint. One
// that does not answer is taken to think that it does: it is told otherwise, at
// the latest, by Leave.
func (d *Drivers) SetExit(ctx context.Context, e *Endpoint, exit bool) error {
	at := endpoint{e.Network, e.ID}
	switch {
	case exit && !e.Exit:
		e.Exit = true
		if err := d.Note(e); err != nil {
			e.Exit = false
			return err
		}
		return d.optional(ctx, e.Driver, networks, "ProgramExternalConnectivity", struct {
			endpoint
			Options map[string]any
		}{at, e.ports()}, nil)
	case !exit && e.Exit:
		err := d.optional(ctx, e.Driver, networks, "RevokeExternalConnectivity", at, nil)
		if err != nil && !said(err) {
			return err
		}
		e.Exit = false
		return errors.Join(err, d.Note(e))
	}
	return d.Note(e)
}

// ports are the options that tell of the container's ports.
func (e *Endpoint) ports() map[string]any {
	return map[string]any{optExposed: e.Options[optExposed], optPorts: e.Options[optPorts]}
}

// Leave takes an endpoint away and gives its addresses back. It goes on after
// an error; a plugin that says that it does not know the endpoint has told all
// it can.
func (d *Drivers) Leave(ctx context.Context, e *Endpoint) error {
	ctx, cancel := d.within(ctx)
	defer cancel()
	var failed []error
	at := endpoint{e.Network, e.ID}
	if e.Exit {
		failed = append(failed, d.optional(ctx, e.Driver, networks, "RevokeExternalConnectivity", at, nil))
	}
	if e.Joined {
		failed = append(failed, d.call(ctx, e.Driver, networks, "Leave", at, nil))
	}
	if e.Made {
		failed = append(failed, d.call(ctx, e.Driver, networks, "DeleteEndpoint", at, nil))
	}
	for f, pool := range e.Pools {
		switch ask := e.Asked[f]; {
		case pool == "":
		case ask != nil:
			failed = append(failed, d.takeBack(ctx, e.IPAM, pool, ask))
		case e.Addrs[f].IsValid():
			failed = append(failed, d.ReleaseAddress(ctx, e.IPAM, pool, e.Addrs[f].Addr()))
		}
	}
	heard := true
	for _, err := range failed {
		heard = heard && (err == nil || said(err) || errors.Is(err, errLost))
	}
	if heard {
		failed = append(failed, d.forget(e.ID))
	}
	return errors.Join(failed...)
}
