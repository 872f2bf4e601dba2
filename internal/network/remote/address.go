package remote

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/network/spec"
)

// The words for addresses in the questions' options.
const (
	optType    = "RequestAddressType"
	optGateway = "com.docker.network.gateway"

	// OptMAC is a link's hardware address.
	OptMAC = "com.docker.network.endpoint.macaddress"
)

// NeedsMAC reports whether a driver of addresses wants to know the link's.
func (d *Drivers) NeedsMAC(ctx context.Context, ipam string) (bool, error) {
	_, c, err := d.get(ctx, ipam, addresses)
	return c.RequiresMACAddress, err
}

// RequestPool asks for a subnet: the one that config has, else one of the
// plugin's choice. Gateway and auxiliary addresses are taken in it, and written
// to config; with skipGateway only a gateway that somebody wants. On an error
// nothing is held.
func (d *Drivers) RequestPool(ctx context.Context, ipam string, config *network.IPAMConfig, options map[string]string, six, skipGateway bool) (_ *spec.Pool, err error) {
	var spaces struct{ LocalDefaultAddressSpace string }
	if err := d.call(ctx, ipam, addresses, "GetDefaultAddressSpaces", nil, &spaces); err != nil {
		return nil, err
	}
	var out struct {
		PoolID, Pool string
		Data         map[string]string
	}
	p := &spec.Pool{Space: spaces.LocalDefaultAddressSpace, Subnet: config.Subnet, Range: config.IPRange, Chosen: !config.Subnet.IsValid()}
	if err := d.call(ctx, ipam, addresses, "RequestPool", question(p, options, six), &out); err != nil {
		return nil, err
	}
	if p.ID = out.PoolID; p.ID == "" {
		return nil, lie(ipam, addresses, "RequestPool", "it answers without the pool's id")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.ReleasePool(context.WithoutCancel(ctx), ipam, p))
		}
	}()
	subnet, err := netip.ParsePrefix(out.Pool)
	switch {
	case err != nil:
		return nil, lie(ipam, addresses, "RequestPool", "it answers with the pool %q, which is no subnet", out.Pool)
	case subnet.Addr().Is6() != six || subnet.Addr().Is4In6():
		return nil, lie(ipam, addresses, "RequestPool", "it answers with the pool %s, which is of the other address family", subnet)
	case subnet.Bits() == 0 || !unicast(subnet.Masked().Addr()) || subnet.Overlaps(netip.MustParsePrefix("127.0.0.0/8")) || subnet.Overlaps(netip.MustParsePrefix("::1/128")):
		return nil, lie(ipam, addresses, "RequestPool", "it answers with the pool %s, which no network can have", subnet)
	case config.Subnet.IsValid() && subnet.Masked() != config.Subnet.Masked():
		return nil, lie(ipam, addresses, "RequestPool", "it answers with the pool %s, asked for %s", subnet, config.Subnet)
	}
	p.Subnet = subnet.Masked()
	config.Subnet = p.Subnet
	if text := out.Data[optGateway]; text != "" && !config.Gateway.IsValid() {
		at, err := netip.ParsePrefix(text)
		if err != nil || !p.Subnet.Contains(at.Addr()) {
			return nil, lie(ipam, addresses, "RequestPool", "it answers with the gateway %q, which is no address of its pool %s", text, p.Subnet)
		}
		config.Gateway = at.Addr()
	} else if config.Gateway.IsValid() || !skipGateway {
		at, err := d.RequestAddress(ctx, ipam, p, config.Gateway, map[string]string{optType: optGateway})
		if err != nil {
			return nil, err
		}
		p.Gateway = at.Addr()
		config.Gateway = p.Gateway
	}
	for _, a := range config.AuxAddress {
		if _, err := d.RequestAddress(ctx, ipam, p, a, nil); err != nil {
			return nil, err
		}
		p.Aux = append(p.Aux, a)
	}
	return p, nil
}

func question(p *spec.Pool, options map[string]string, six bool) any {
	q := struct {
		AddressSpace, Pool, SubPool string
		Options                     map[string]string
		V6                          bool
	}{AddressSpace: p.Space, Options: options, V6: six}
	if p.Subnet.IsValid() {
		q.Pool = p.Subnet.String()
	}
	if p.Range.IsValid() {
		q.SubPool = p.Range.String()
	}
	return q
}

// ReleasePool gives a subnet back, and what the network itself has in it.
func (d *Drivers) ReleasePool(ctx context.Context, ipam string, p *spec.Pool) error {
	ctx, cancel := d.within(ctx)
	defer cancel()
	var failed []error
	for _, a := range append([]netip.Addr{p.Gateway}, p.Aux...) {
		if a.IsValid() {
			failed = append(failed, d.ReleaseAddress(ctx, ipam, p.ID, a))
		}
	}
	return errors.Join(append(failed, d.call(ctx, ipam, addresses, "ReleasePool", struct{ PoolID string }{p.ID}, nil))...)
}

// RequestAddress asks for an address of a pool, a given one if it is valid.
func (d *Drivers) RequestAddress(ctx context.Context, ipam string, p *spec.Pool, given netip.Addr, options map[string]string) (netip.Prefix, error) {
	q := struct {
		PoolID, Address string
		Options         map[string]string
	}{PoolID: p.ID, Options: options}
	if given.IsValid() {
		q.Address = given.String()
	}
	var out struct{ Address string }
	if err := d.call(ctx, ipam, addresses, "RequestAddress", q, &out); err != nil {
		return netip.Prefix{}, err
	}
	at, err := netip.ParsePrefix(out.Address)
	switch {
	case err != nil:
		return at, lie(ipam, addresses, "RequestAddress", "it answers with %q, which is no address with the length of its prefix", out.Address)
	case given.IsValid() && at.Addr() != given:
		err = lie(ipam, addresses, "RequestAddress", "it answers with %s, asked for %s", at.Addr(), given)
	case !p.Subnet.Contains(at.Addr()) || !unicast(at.Addr()):
		err = lie(ipam, addresses, "RequestAddress", "it answers with %s, which is not of its pool %s", at.Addr(), p.Subnet)
	case at.Bits() < p.Subnet.Bits():
		err = lie(ipam, addresses, "RequestAddress", "it answers with %s, whose subnet is larger than its pool %s", at, p.Subnet)
	}
	if err != nil {
		return at, errors.Join(err, d.ReleaseAddress(context.WithoutCancel(ctx), ipam, p.ID, at.Addr()))
	}
	return at, nil
}

// Ask is a question for an address: the one, or one for the hardware address.
type Ask struct {
	Address netip.Addr `json:",omitzero"`
	MAC     string     `json:",omitempty"`
}

// errLost is an address that a plugin may keep for nobody.
var errLost = errors.New("the engine ended while the plugin was asked for an address, and does not know which it gave: it may keep that for nobody")

// RequestFor is RequestAddress for an endpoint. What is asked for is on record
// before: whatever becomes of the engine, Leave gives it back. A plugin may give
// any address, and the engine end before it has it: then a plugin that knows
// addresses by the link's is asked for it again, and of another one it is lost.
func (d *Drivers) RequestFor(ctx context.Context, e *Endpoint, f int, p *spec.Pool, given netip.Addr) (netip.Prefix, error) {
	ask := &Ask{Address: given}
	if e.TellMAC {
		ask.MAC = e.MAC.String()
	}
	e.Pools[f], e.Asked[f] = p.ID, ask
	if err := d.Note(e); err != nil {
		e.Pools[f], e.Asked[f] = "", nil
		return netip.Prefix{}, err
	}
	at, err := d.RequestAddress(ctx, e.IPAM, p, given, e.ForLink())
	switch {
	case err == nil:
		e.Asked[f], e.Addrs[f] = nil, at
		if err := d.Note(e); err != nil {
			return at, err
		}
	case said(err) || at.IsValid(): // it gave none, or it was given back
		e.Asked[f], e.Pools[f] = nil, ""
	}
	return at, err
}

// takeBack gives back what a plugin may have given to a question that was cut off.
func (d *Drivers) takeBack(ctx context.Context, ipam, pool string, ask *Ask) error {
	at := ask.Address
	if !at.IsValid() {
		if ask.MAC == "" {
			return fmt.Errorf("plugin %s, pool %s: %w", ipam, pool, errLost)
		}
		var out struct{ Address string }
		err := d.call(ctx, ipam, addresses, "RequestAddress", struct {
			PoolID, Address string
			Options         map[string]string
		}{pool, "", map[string]string{OptMAC: ask.MAC}}, &out)
		if err != nil {
			return err
		}
		prefix, err := netip.ParsePrefix(out.Address)
		if err != nil {
			return fmt.Errorf("plugin %s, pool %s: %w", ipam, pool, errLost)
		}
		at = prefix.Addr()
	}
	return d.ReleaseAddress(ctx, ipam, pool, at)
}

// ForLink are the options of a request for a link's address.
func (e *Endpoint) ForLink() map[string]string {
	if !e.TellMAC {
		return nil
	}
	return map[string]string{OptMAC: e.MAC.String()}
}

// ReleaseAddress gives an address back.
func (d *Drivers) ReleaseAddress(ctx context.Context, ipam, pool string, a netip.Addr) error {
	return d.call(ctx, ipam, addresses, "ReleaseAddress", struct{ PoolID, Address string }{pool, a.String()}, nil)
}

// Replay asks again for a pool and for the addresses in it that are taken, of a
// plugin that says that it forgets them with the engine.
func (d *Drivers) Replay(ctx context.Context, ipam string, p *spec.Pool, options map[string]string, taken []netip.Addr) error {
	_, c, err := d.get(ctx, ipam, addresses)
	if err != nil || !c.RequiresRequestReplay {
		return err
	}
	var out struct{ PoolID string }
	if err := d.call(ctx, ipam, addresses, "RequestPool", question(p, options, p.Subnet.Addr().Is6()), &out); err != nil {
		return err
	}
	if out.PoolID != p.ID {
		return lie(ipam, addresses, "RequestPool", "it calls the pool %s of before the engine's start %q now", p.ID, out.PoolID)
	}
	var failed []error
	if p.Gateway.IsValid() {
		_, err := d.RequestAddress(ctx, ipam, p, p.Gateway, map[string]string{optType: optGateway})
		failed = append(failed, err)
	}
	for _, a := range slices.Concat(p.Aux, taken) {
		_, err := d.RequestAddress(ctx, ipam, p, a, nil)
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}
