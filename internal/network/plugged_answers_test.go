package network

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/remote/remotetest"
)

// TestPluggedAnswers: what drivers may choose of a container's link.
func TestPluggedAnswers(t *testing.T) { fresh(t, func() { testPluggedAnswers(t) }) }

func testPluggedAnswers(t *testing.T) {
	m, d, _ := beside(t, nil)
	create(t, m, network.CreateRequest{Name: "bridged"})
	look := func(sb *Sandbox, links []string, wants ...string) {
		t.Helper()
		inNS(t, m, sb.NS, func(c *rtnl.Conn) {
			if got := names(t, c); !slices.Equal(got, links) {
				t.Errorf("links %q, want %q", got, links)
			}
			routes, err := c.Routes()
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range wants {
				if !slices.ContainsFunc(routes, func(r rtnl.Route) bool { return r.Dst.String()+" "+r.Gateway.String() == want }) {
					t.Errorf("no route %s: %v", want, routes)
				}
			}
		})
	}
	with := func(driver map[string]string, ipam string, r Request) *Sandbox {
		t.Helper()
		q := told(driver, nil)
		q.IPAM.Driver = ipam
		create(t, m, q)
		r.ContainerID = id.New()
		sb := attach(t, m, r)
		t.Cleanup(func() { sb.NS.Close() })
		return sb
	}
	gone := func() {
		t.Helper()
		for cid := range m.boxes {
			if err := m.Release(context.Background(), cid); err != nil {
				t.Error(err)
			}
		}
		if _, err := m.Remove(context.Background(), "net"); err != nil {
			t.Error(err)
		}
		if got := d.Held(); len(got) > 0 {
			t.Errorf("held %q", got)
		}
	}

	// Name, gateway, routes by it and onto the link.
	sb := with(map[string]string{"answer.Join": `{"InterfaceName": {"SrcName": "{link}", "DstPrefix": "lan"}, "Gateway": "10.99.0.1",
		"StaticRoutes": [{"Destination": "10.5.0.0/16", "RouteType": 0, "NextHop": "10.6.7.8"}, {"Destination": "10.6.0.0/16", "RouteType": 1}]}`}, "ours", Request{Network: "net"})
	look(sb, []string{"lan0"}, "0.0.0.0/0 10.99.0.1", "10.5.0.0/16 10.6.7.8", "10.6.0.0/16 invalid IP")
	gone()

	// A default route among the routes is the gateway.
	sb = with(map[string]string{"answer.Join": `{"InterfaceName": {"SrcName": "{link}"}, "StaticRoutes": [{"Destination": "0.0.0.0/0", "RouteType": 0, "NextHop": "10.99.0.1"}]}`}, "ours", Request{Network: "net"})
	look(sb, []string{"eth0"}, "0.0.0.0/0 10.99.0.1")
	if got := sb.Endpoints["net"].Gateway.String(); got != "10.99.0.1" {
		t.Errorf("gateway %s", got)
	}
	gone()

	// Without a gateway the container leaves by another network; no link at all.
	both := Request{Network: "net", Endpoints: map[string]*network.EndpointSettings{"net": {}, "bridged": {}}}
	sb = with(map[string]string{"answer.Join": `{"InterfaceName": {"SrcName": "{link}", "DstPrefix": "eth"}}`}, "ours", both)
	look(sb, []string{"eth0", "eth1"}, "0.0.0.0/0 "+sb.Endpoints["bridged"].Gateway.String())
	gone()
	sb = with(map[string]string{"answer.Join": `{}`}, "ours", Request{Network: "net"})
	look(sb, []string{})
	gone()

	// Addresses of the driver's, where nobody else has any; a wish for one.
	sb = with(map[string]string{"answer.CreateEndpoint": `{"Interface": {"Address": "10.123.0.5/24", "MacAddress": "02:00:00:00:00:09"}}`,
		"answer.Join": `{"InterfaceName": {"SrcName": "{link}"}}`}, "null", Request{Network: "net"})
	if ep := sb.Endpoints["net"]; ep.IPAddress.String() != "10.123.0.5" || ep.IPPrefixLen != 24 || ep.MacAddress.String() != "02:00:00:00:00:09" {
		t.Errorf("%+v", ep)
	}
	inNS(t, m, sb.NS, func(c *rtnl.Conn) {
		link, err := c.LinkByName("eth0")
		if err != nil || link.MAC.String() != "02:00:00:00:00:09" {
			t.Errorf("%+v %v", link, err)
		}
	})
	if in, err := m.Inspect("net", false); err != nil || len(in.IPAM.Config) > 0 || in.IPAM.Driver != "null" {
		t.Errorf("%+v %v", in, err)
	}
	// What the driver has chosen is no wish at the next start, what a user has is.
	if w := wishes(m.reg.ByName("net"), sb.Endpoints["net"]); len(w.MacAddress) > 0 {
		t.Errorf("wish %+v", w)
	}
	gone()
	mac := network.HardwareAddr{2, 1, 1, 1, 1, 1}
	sb = with(nil, "default", Request{Network: "net", MAC: mac})
	if ep := sb.Endpoints["net"]; !slices.Equal(ep.MacAddress, mac) || !slices.Equal(wishes(m.reg.ByName("net"), ep).MacAddress, mac) {
		t.Errorf("%+v", ep)
	}
	gone()
	if _, err := m.Create(context.Background(), network.CreateRequest{Name: "x", IPAM: &network.IPAM{Driver: "null"}}); err == nil || !strings.Contains(err.Error(), "the IPAM driver null gives no addresses") {
		t.Error(err)
	}
}

// TestPluggedIPv6: both families of a plugin's, which wants to know the links'
// hardware addresses.
func TestPluggedIPv6(t *testing.T) { fresh(t, func() { testPluggedIPv6(t) }) }

func testPluggedIPv6(t *testing.T) {
	m, _, _ := beside(t, func(d *remotetest.Driver) { d.RequiresMACAddress = true })
	six := true
	r := ours("net")
	r.EnableIPv6 = &six
	create(t, m, r)
	sb := attach(t, m, Request{Network: "net"})
	ep := sb.Endpoints["net"]
	if ep.GlobalIPv6Address != netip.MustParseAddr("fd99::2") || ep.GlobalIPv6PrefixLen != 64 || ep.IPv6Gateway != netip.MustParseAddr("fd99::1") || ep.IPAddress.String() != "10.99.0.2" {
		t.Errorf("%+v", ep)
	}
	inNS(t, m, sb.NS, func(c *rtnl.Conn) {
		routes, err := c.Routes()
		if err != nil || !slices.ContainsFunc(routes, func(r rtnl.Route) bool { return r.Dst.Bits() == 0 && r.Gateway == ep.IPv6Gateway }) {
			t.Errorf("routes %v %v", routes, err)
		}
		link, err := c.LinkByName("ours0")
		if err != nil || link.MAC.String() != ep.MacAddress.String() || link.MAC[0]&3 != 2 {
			t.Errorf("%+v %v, want %s", link, err, ep.MacAddress)
		}
	})
}

// TestReplay: a driver of addresses that forgets is told again what is in use.
func TestReplay(t *testing.T) { fresh(t, func() { testReplay(t) }) }

func testReplay(t *testing.T) {
	m, d, cfg := beside(t, func(d *remotetest.Driver) { d.RequiresRequestReplay = true })
	create(t, m, network.CreateRequest{Name: "net", IPAM: &network.IPAM{Driver: "ours", Config: []network.IPAMConfig{{
		Subnet: netip.MustParsePrefix("10.99.4.0/24"), Gateway: netip.MustParseAddr("10.99.4.9"), AuxAddress: map[string]netip.Addr{"x": netip.MustParseAddr("10.99.4.2")}}}}})
	cid := id.New()
	first := attach(t, m, Request{ContainerID: cid, Network: "net"})
	held := d.Held()
	if err := m.Close(false); err != nil {
		t.Fatal(err)
	}
	d.Forget()
	m = open(t, cfg)
	if err := m.Adopt(cid, first.Endpoints, resident(t, m, first.NS), nil); err != nil {
		t.Fatal(err)
	}
	second := id.New()
	sb := attach(t, m, Request{ContainerID: second, Network: "net"})
	if a, b := first.Endpoints["net"].IPAddress.String(), sb.Endpoints["net"].IPAddress.String(); a != "10.99.4.1" || b != "10.99.4.3" {
		t.Errorf("addresses %s and %s", a, b)
	}
	if err := m.Release(context.Background(), second); err != nil {
		t.Error(err)
	}
	if got := d.Held(); !slices.Equal(got, held) {
		t.Errorf("held %q, before %q", got, held)
	}
}

// TestStuck: plugins that do not answer at the end of things keep nobody up, and
// hear of it when they are well again.
func TestStuck(t *testing.T) { fresh(t, func() { testStuck(t) }) }

func testStuck(t *testing.T) {
	m, d, cfg := beside(t, nil)
	records := func() int {
		t.Helper()
		list, err := os.ReadDir(filepath.Join(cfg.Root, "network", "endpoints"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}

	// One that fails at it was told, and has nothing that anybody could ask for again.
	create(t, m, told(map[string]string{"fail": "Leave"}, nil))
	cid := id.New()
	attach(t, m, Request{ContainerID: cid, Network: "net"})
	if err := m.Release(context.Background(), cid); err == nil || !strings.Contains(err.Error(), "plugin ours: NetworkDriver.Leave: told to fail") {
		t.Error(err)
	}
	if records() > 0 {
		t.Error("on record still")
	}
	if _, err := m.Remove(context.Background(), "net"); err != nil {
		t.Error(err)
	}

	// One that does not answer.
	create(t, m, told(map[string]string{"hang": "DeleteEndpoint"}, nil))
	sb := attach(t, m, Request{ContainerID: cid, Network: "net"})
	d.Listen(func(method string, _ []byte) {
		if strings.HasSuffix(method, "DeleteEndpoint") {
			m.plugs.Stop()
		}
	})
	if err := m.Release(context.Background(), cid); err == nil || !strings.Contains(err.Error(), "plugin ours: NetworkDriver.DeleteEndpoint: it does not answer") {
		t.Error(err)
	}
	if got, err := m.Inspect("net", false); err != nil || len(got.Containers) > 0 {
		t.Errorf("%+v %v", got, err)
	}
	if records() != 1 {
		t.Error("nothing on record")
	}
	sb.NS.Close()
	if err := m.Close(false); err != nil {
		t.Fatal(err)
	}
	d.Heal()
	m = open(t, cfg)
	Plugged{m}.Adopted()
	waitFor(t, "the plugin to hear of it", func() bool { return records() == 0 && len(d.Held()) == 3 })

	// A network whose end it does not answer to stays, and works.
	d.Tell("hang", "DeleteNetwork")
	if _, err := m.Remove(untilHung(t, d, map[string]string{"hang": "DeleteNetwork"}), "net"); err == nil || !strings.Contains(err.Error(), "plugin ours: NetworkDriver.DeleteNetwork: it does not answer") {
		t.Error(err)
	}
	d.Heal()
	attach(t, m, Request{ContainerID: cid, Network: "net"})
	if err := m.Release(context.Background(), cid); err != nil {
		t.Error(err)
	}
	if _, err := m.Remove(context.Background(), "net"); err != nil {
		t.Error(err)
	}
	if got := d.Held(); len(got) > 0 {
		t.Errorf("held %q", got)
	}

	// Nobody uses or removes a network that is being made.
	ctx, cancel := context.WithCancel(context.Background())
	asked, made := make(chan struct{}), make(chan error)
	d.Listen(func(method string, _ []byte) {
		if strings.HasSuffix(method, "CreateNetwork") {
			close(asked)
		}
	})
	go func() {
		_, err := m.Create(ctx, told(map[string]string{"hang": "CreateNetwork"}, nil))
		made <- err
	}()
	<-asked
	if _, err := m.Attach(context.Background(), Request{ContainerID: id.New(), Network: "net"}); err == nil || err.Error() != "network net is not available" {
		t.Error(err)
	}
	if _, err := m.Remove(context.Background(), "net"); err == nil || err.Error() != "network net is being created or removed" {
		t.Error(err)
	}
	if _, err := m.Create(context.Background(), network.CreateRequest{Name: "net"}); err == nil || err.Error() != "network with name net already exists" {
		t.Error(err)
	}
	cancel()
	if err := <-made; err == nil {
		t.Error("made")
	}
	if _, err := m.Inspect("net", false); err == nil {
		t.Error("it is there")
	}
}

// TestNoGateway: a driver that wants to be asked may want no gateway; one that a
// user wishes for is taken all the same.
func TestNoGateway(t *testing.T) { fresh(t, func() { testNoGateway(t) }) }

func testNoGateway(t *testing.T) {
	cfg := testConfig(t)
	d, s := plugIn(t, &cfg)
	d.GwAllocChecker, d.SkipIPv4 = true, true
	m := open(t, cfg)
	var asked string
	d.Listen(func(method string, body []byte) {
		if method == "NetworkDriver.GwAllocCheck" {
			asked = string(body)
		}
	})
	six := true
	for ipam, want := range map[string][]string{"ours": {"invalid IP", "fd99::1"}, "default": {"invalid IP", "fd01::1"}} {
		r := told(map[string]string{"key": "value"}, nil)
		r.IPAM.Driver, r.EnableIPv6 = ipam, &six
		if ipam == "default" {
			r.IPAM.Config = []network.IPAMConfig{{Subnet: netip.MustParsePrefix("10.97.0.0/24")}, {Subnet: netip.MustParsePrefix("fd01::/64")}}
		}
		create(t, m, r)
		in, err := m.Inspect("net", false)
		if err != nil || len(in.IPAM.Config) != 2 || in.IPAM.Config[0].Gateway.String() != want[0] || in.IPAM.Config[1].Gateway.String() != want[1] {
			t.Errorf("%s: %+v, %v", ipam, in.IPAM, err)
		}
		if !strings.Contains(asked, `"com.docker.network.generic":{"key":"value"}`) || !strings.Contains(asked, `"com.docker.network.enable_ipv6":true`) {
			t.Errorf("asked %s", asked)
		}
		sb := attach(t, m, Request{ContainerID: id.New(), Network: "net"})
		if got := sb.Endpoints["net"].IPAddress; got.As4()[3] != 1 {
			t.Errorf("%s: the first has %s", ipam, got)
		}
		sb.NS.Close()
		for cid := range m.boxes {
			if err := m.Release(context.Background(), cid); err != nil {
				t.Error(err)
			}
		}
		if _, err := m.Remove(context.Background(), "net"); err != nil {
			t.Error(err)
		}
	}
	r := ours("net")
	r.IPAM.Config = []network.IPAMConfig{{Subnet: netip.MustParsePrefix("10.99.7.0/24"), Gateway: netip.MustParseAddr("10.99.7.9")}}
	create(t, m, r)
	if in, err := m.Inspect("net", false); err != nil || in.IPAM.Config[0].Gateway.String() != "10.99.7.9" {
		t.Errorf("%+v, %v", in.IPAM, err)
	}
	if _, err := m.Remove(context.Background(), "net"); err != nil {
		t.Error(err)
	}
	if got := d.Held(); len(got) > 0 {
		t.Errorf("held %q", got)
	}
	delete(s.Handlers, "NetworkDriver.GwAllocCheck")
	if _, err := m.Create(context.Background(), ours("net")); err == nil || !strings.Contains(err.Error(), "GwAllocCheck") {
		t.Errorf("a driver that is not there to be asked: %v", err)
	}
}
