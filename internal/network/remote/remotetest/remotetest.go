// Package remotetest owns a plugin for tests that drives networks and
// addresses: a bridge for each network and a pair for each endpoint, in the
// network namespace that it was made in, and subnets of 10.99.0.0/16.
//
// What it does otherwise is told by options, of the network for its driver and
// of the IPAM driver for its addresses: answer.METHOD=JSON answers that, with
// {link} for the link that it made; fail=METHOD fails; hang=METHOD never
// answers; late=METHOD does what it is asked for and never answers; huge=METHOD
// answers without end.
package remotetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/plugin/plugintest"
)

// Driver is the plugin's state.
type Driver struct {
	// Capabilities are what it says of itself as a driver of addresses.
	RequiresMACAddress, RequiresRequestReplay bool
	// GwAllocChecker, and what it answers then, are those as a driver of networks.
	GwAllocChecker, SkipIPv4, SkipIPv6 bool

	home *os.File
	rt   *rtnl.Conn
	stop chan struct{}

	mu    sync.Mutex
	heard func(method string, body []byte)
	nets  map[string]*lan  // by network id
	pools map[string]*pool // by pool id
}

// lan is one network.
type lan struct {
	bridge  string
	gateway [2]string
	options map[string]string
	ends    map[string]string // links handed out, by endpoint id
}

// pool is a subnet with the addresses that are taken.
type pool struct {
	subnet  netip.Prefix
	taken   map[netip.Addr]bool
	leased  map[string]netip.Addr // by the link's hardware address, where it is told
	options map[string]string
}

// New makes a driver that acts in the caller's network namespace.
func New() (*Driver, error) {
	d := &Driver{nets: map[string]*lan{}, pools: map[string]*pool{}, stop: make(chan struct{})}
	var err error
	if d.home, err = rtnl.Current(); err != nil {
		return nil, err
	}
	d.rt, err = rtnl.Dial()
	return d, err
}

// Close ends what hangs and removes the bridges.
func (d *Driver) Close() {
	close(d.stop)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range d.nets {
		_ = d.remove(n.bridge) // whoever looks for links finds it
	}
	d.rt.Close()
	d.home.Close()
}

// Server makes a plugin of the driver.
func (d *Driver) Server() *plugintest.Server {
	s := &plugintest.Server{Implements: []string{"NetworkDriver", "IpamDriver"}, Handlers: map[string]plugintest.Handler{}}
	for method, h := range map[string]func(*question) (any, error){
		"NetworkDriver.GetCapabilities": func(*question) (any, error) {
			return map[string]any{"Scope": "local", "ConnectivityScope": "local", "GwAllocChecker": d.GwAllocChecker}, nil
		},
		"NetworkDriver.GwAllocCheck": func(*question) (any, error) {
			return map[string]bool{"SkipIPv4": d.SkipIPv4, "SkipIPv6": d.SkipIPv6}, nil
		},
		"NetworkDriver.CreateNetwork":               d.createNetwork,
		"NetworkDriver.DeleteNetwork":               d.deleteNetwork,
		"NetworkDriver.CreateEndpoint":              d.createEndpoint,
		"NetworkDriver.DeleteEndpoint":              d.deleteEndpoint,
		"NetworkDriver.EndpointOperInfo":            d.known(map[string]any{"Value": map[string]string{}}),
		"NetworkDriver.Join":                        d.join,
		"NetworkDriver.Leave":                       d.known(nil),
		"NetworkDriver.ProgramExternalConnectivity": d.known(nil),
		"NetworkDriver.RevokeExternalConnectivity":  d.known(nil),
		"NetworkDriver.DiscoverNew":                 func(*question) (any, error) { return nil, nil },
		"NetworkDriver.DiscoverDelete":              func(*question) (any, error) { return nil, nil },
		"IpamDriver.GetCapabilities": func(*question) (any, error) {
			return map[string]bool{"RequiresMACAddress": d.RequiresMACAddress, "RequiresRequestReplay": d.RequiresRequestReplay}, nil
		},
		"IpamDriver.GetDefaultAddressSpaces": func(*question) (any, error) {
			return map[string]string{"LocalDefaultAddressSpace": "ourlocal", "GlobalDefaultAddressSpace": "ourglobal"}, nil
		},
		"IpamDriver.RequestPool":    d.requestPool,
		"IpamDriver.ReleasePool":    d.releasePool,
		"IpamDriver.RequestAddress": d.requestAddress,
		"IpamDriver.ReleaseAddress": d.releaseAddress,
	} {
		s.Handlers[method] = func(body []byte) (any, error) { return d.answer(method, body, h) }
	}
	return s
}

// question is any question's body.
type question struct {
	NetworkID, EndpointID string
	Options               map[string]any
	IPv4Data, IPv6Data    []struct{ Gateway string }
	Interface             struct{ Address, AddressIPv6, MacAddress string }
	AddressSpace, Pool    string
	PoolID, Address       string
	V6                    bool
}

// answer does what the options want, else what h does. d.mu is held by h's.
func (d *Driver) answer(method string, body []byte, h func(*question) (any, error)) (any, error) {
	d.mu.Lock()
	heard := d.heard
	d.mu.Unlock()
	if heard != nil {
		heard(method, body)
	}
	var q question
	if len(body) > 0 { // else it is one without arguments
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, err
		}
	}
	options := d.optionsOf(&q)
	_, short, _ := strings.Cut(method, ".")
	switch short {
	case options["fail"]:
		return d.failed(method, errors.New("told to fail"))
	case options["hang"]:
		<-d.stop
		return nil, errors.New("closing")
	case options["huge"]:
		return strings.Repeat("x", 5<<20), nil
	}
	if options["late"] == short {
		defer func() { <-d.stop }()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	out, err := h(&q)
	if err != nil {
		return d.failed(method, err)
	}
	if raw, ok := options["answer."+short]; ok {
		if n := d.nets[q.NetworkID]; n != nil {
			raw = strings.ReplaceAll(raw, "{link}", n.ends[q.EndpointID])
		}
		return json.RawMessage(raw), nil
	}
	return out, nil
}

// failed is an error as the one or the other half of the protocol has it.
func (d *Driver) failed(method string, err error) (any, error) {
	if strings.HasPrefix(method, "IpamDriver.") {
		return map[string]string{"Error": err.Error()}, nil
	}
	return nil, err
}

func (d *Driver) optionsOf(q *question) map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.nets[q.NetworkID]; n != nil {
		return n.options
	}
	if p := d.pools[q.PoolID]; p != nil {
		return p.options
	}
	out := map[string]string{}
	from := q.Options
	if generic, ok := q.Options["com.docker.network.generic"].(map[string]any); ok {
		from = generic
	}
	for k, v := range from {
		if s, ok := v.(string); ok {
			out[k] = s
		}
	}
	return out
}

func (d *Driver) createNetwork(q *question) (any, error) {
	if d.nets[q.NetworkID] != nil {
		return nil, errors.New("the network is there already")
	}
	n := &lan{bridge: "pl-" + q.NetworkID[:10], options: map[string]string{}, ends: map[string]string{}}
	if generic, ok := q.Options["com.docker.network.generic"].(map[string]any); ok {
		for k, v := range generic {
			n.options[k] = fmt.Sprint(v)
		}
	}
	var b rtnl.Batch
	b.AddBridge(rtnl.Bridge{Name: n.bridge})
	if err := d.rt.Do(&b); err != nil {
		return nil, err
	}
	link, err := d.rt.LinkByName(n.bridge)
	if err != nil {
		return nil, err
	}
	var up rtnl.Batch
	up.SetUp(link.Index)
	for f, list := range [][]struct{ Gateway string }{q.IPv4Data, q.IPv6Data} {
		for _, data := range list {
			at, err := netip.ParsePrefix(data.Gateway)
			if err != nil {
				continue
			}
			if n.gateway[f] == "" {
				n.gateway[f] = at.Addr().String()
			}
			up.AddAddr(link.Index, at)
		}
	}
	d.nets[q.NetworkID] = n
	return nil, d.rt.Do(&up)
}

func (d *Driver) deleteNetwork(q *question) (any, error) {
	n := d.nets[q.NetworkID]
	if n == nil {
		return nil, errors.New("no such network")
	}
	delete(d.nets, q.NetworkID)
	return nil, d.remove(n.bridge)
}

func (d *Driver) remove(name string) error {
	link, err := d.rt.LinkByName(name)
	if err != nil {
		return nil //nolint:nilerr // it is gone
	}
	var b rtnl.Batch
	b.DelLink(link.Index)
	return d.rt.Do(&b)
}

func (d *Driver) createEndpoint(q *question) (any, error) {
	n := d.nets[q.NetworkID]
	if n == nil {
		return nil, errors.New("no such network")
	}
	bridge, err := d.rt.LinkByName(n.bridge)
	if err != nil {
		return nil, err
	}
	near, far := "pn"+q.EndpointID[:10], "pf"+q.EndpointID[:10]
	var b rtnl.Batch
	b.AddVeth(rtnl.Veth{Name: near, Master: bridge.Index, Peer: far, PeerNS: int(d.home.Fd())})
	n.ends[q.EndpointID] = far
	chosen := map[string]string{}
	if at, err := netip.ParsePrefix(q.Interface.Address); err == nil && at.Addr().Is4() && q.Interface.MacAddress == "" {
		a := at.Addr().As4() // whoever has the address next has the same one
		chosen["MacAddress"] = net.HardwareAddr{0x02, 0x99, a[0], a[1], a[2], a[3]}.String()
	}
	return map[string]any{"Interface": chosen}, d.rt.Do(&b)
}

func (d *Driver) deleteEndpoint(q *question) (any, error) {
	n := d.nets[q.NetworkID]
	if n == nil || n.ends[q.EndpointID] == "" {
		return nil, errors.New("no such endpoint")
	}
	delete(n.ends, q.EndpointID)
	return nil, d.remove("pn" + q.EndpointID[:10])
}

// known answers that for endpoints that are there.
func (d *Driver) known(out any) func(*question) (any, error) {
	return func(q *question) (any, error) {
		if n := d.nets[q.NetworkID]; n == nil || n.ends[q.EndpointID] == "" {
			return nil, errors.New("no such endpoint")
		}
		return out, nil
	}
}

func (d *Driver) join(q *question) (any, error) {
	n := d.nets[q.NetworkID]
	if n == nil || n.ends[q.EndpointID] == "" {
		return nil, errors.New("no such endpoint")
	}
	return map[string]any{
		"InterfaceName": map[string]string{"SrcName": n.ends[q.EndpointID], "DstPrefix": "ours"},
		"Gateway":       n.gateway[0], "GatewayIPv6": n.gateway[1],
	}, nil
}

func (d *Driver) requestPool(q *question) (any, error) {
	subnet := netip.Prefix{}
	if q.Pool != "" {
		p, err := netip.ParsePrefix(q.Pool)
		if err != nil {
			return nil, err
		}
		subnet = p
	}
	for i := 0; !subnet.IsValid() || d.pools["pool-"+subnet.String()] != nil; i++ {
		if q.Pool != "" || i > 255 {
			return nil, errors.New("no such pool left")
		}
		subnet = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, byte(i), 0}), 24)
		if q.V6 {
			subnet = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x99, 14: 0, 7: byte(i)}), 64)
		}
	}
	p := &pool{subnet: subnet, taken: map[netip.Addr]bool{}, leased: map[string]netip.Addr{}, options: map[string]string{}}
	for k, v := range q.Options {
		p.options[k] = fmt.Sprint(v)
	}
	d.pools["pool-"+subnet.String()] = p
	return map[string]any{"PoolID": "pool-" + subnet.String(), "Pool": subnet.String()}, nil
}

func (d *Driver) releasePool(q *question) (any, error) {
	p := d.pools[q.PoolID]
	if p == nil {
		return nil, errors.New("no such pool")
	}
	if len(p.taken) > 0 {
		return nil, fmt.Errorf("%d addresses are in use", len(p.taken))
	}
	delete(d.pools, q.PoolID)
	return nil, nil
}

func (d *Driver) requestAddress(q *question) (any, error) {
	p := d.pools[q.PoolID]
	if p == nil {
		return nil, errors.New("no such pool")
	}
	if d.RequiresMACAddress && q.Options["RequestAddressType"] == nil && q.Options["com.docker.network.endpoint.macaddress"] == nil {
		return nil, errors.New("without a MAC address")
	}
	a := p.subnet.Addr().Next()
	if q.Address != "" {
		var err error
		if a, err = netip.ParseAddr(q.Address); err != nil {
			return nil, err
		}
		if p.taken[a] {
			return nil, fmt.Errorf("%s is taken", a)
		}
	}
	mac, _ := q.Options["com.docker.network.endpoint.macaddress"].(string)
	if had, ok := p.leased[mac]; ok && q.Address == "" && p.taken[had] {
		a = had
	}
	for p.taken[a] && p.leased[mac] != a {
		a = a.Next()
	}
	p.taken[a] = true
	if mac != "" {
		p.leased[mac] = a
	}
	return map[string]string{"Address": netip.PrefixFrom(a, p.subnet.Bits()).String()}, nil
}

func (d *Driver) releaseAddress(q *question) (any, error) {
	p := d.pools[q.PoolID]
	a, err := netip.ParseAddr(q.Address)
	if p == nil || err != nil || !p.taken[a] {
		return nil, fmt.Errorf("%s is not taken", q.Address)
	}
	delete(p.taken, a)
	return nil, nil
}

// Listen has a function called with each question, from now on.
func (d *Driver) Listen(heard func(method string, body []byte)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.heard = heard
}

// Held lists what it holds: networks, endpoints, pools and addresses, in words.
func (d *Driver) Held() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for id, n := range d.nets {
		out = append(out, "network "+id)
		for e := range n.ends {
			out = append(out, "endpoint "+e)
		}
	}
	for id, p := range d.pools {
		out = append(out, id)
		for a := range p.taken {
			out = append(out, "address "+a.String())
		}
	}
	slices.Sort(out)
	return out
}

// Tell gives all networks and pools an option more.
func (d *Driver) Tell(option, value string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range d.nets {
		n.options[option] = value
	}
	for _, p := range d.pools {
		p.options[option] = value
	}
}

// Heal makes it behave from now on.
func (d *Driver) Heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.heard = nil
	for _, n := range d.nets {
		n.options = map[string]string{}
	}
	for _, p := range d.pools {
		p.options = map[string]string{}
	}
}

// Forget makes it know no pool any more, as one that keeps nothing.
func (d *Driver) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.pools)
}
