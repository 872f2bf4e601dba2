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

// untilHung is a context that ends once the plugin has been asked what it is told
// to hang at.
func untilHung(t *testing.T, d *remotetest.Driver, options ...map[string]string) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	d.Listen(func(method string, _ []byte) {
		for _, o := range options {
			if o["hang"] != "" && strings.HasSuffix(method, "."+o["hang"]) {
				cancel()
			}
		}
	})
	return ctx
}

// told is a network whose driver, and whose driver of addresses, are told to
// behave so.
func told(driver, addresses map[string]string) network.CreateRequest {
	r := ours("net")
	r.Options, r.IPAM.Options = driver, addresses
	return r
}

// TestLies: whatever plugins answer when a network is made, the error names
// them, and neither side holds anything.
func TestLies(t *testing.T) { fresh(t, func() { testLies(t) }) }

func testLies(t *testing.T) {
	m, d, _ := beside(t, nil)
	create(t, m, network.CreateRequest{Name: "other", Driver: "ours", IPAM: &network.IPAM{Driver: "ours", Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("10.99.8.0/24")}}}})
	links, held := names(t, m.rt), d.Held()
	refused := func(want string, r network.CreateRequest) {
		t.Helper()
		_, err := m.Create(untilHung(t, d, r.Options, r.IPAM.Options), r)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v %v: %v, want %q", r.Options, r.IPAM.Options, err, want)
		}
		if got := d.Held(); !slices.Equal(got, held) {
			t.Errorf("%q: the plugin holds %q, before %q", want, got, held)
		}
		if got := names(t, m.rt); !slices.Equal(got, links) {
			t.Errorf("%q: links %q, before %q", want, got, links)
		}
		if _, err := m.Inspect("net", false); err == nil {
			t.Errorf("%q: the network is there", want)
		}
	}
	for option, want := range map[string]string{
		"fail": "plugin ours: NetworkDriver.CreateNetwork: told to fail",
		"hang": "plugin ours: NetworkDriver.CreateNetwork: it does not answer",
		"huge": "plugin ours: NetworkDriver.CreateNetwork: its answer is larger than",
	} {
		refused(want, told(map[string]string{option: "CreateNetwork"}, nil))
	}
	for option, want := range map[string]string{
		"fail": "plugin ours: IpamDriver.RequestPool: told to fail",
		"hang": "plugin ours: IpamDriver.RequestPool: it does not answer",
		"huge": "plugin ours: IpamDriver.RequestPool: its answer is larger than",
	} {
		refused(want, told(nil, map[string]string{option: "RequestPool"}))
	}
	refused("plugin ours: IpamDriver.RequestAddress: told to fail", told(nil, map[string]string{"fail": "RequestAddress"}))
	pool := func(p string) map[string]string {
		return map[string]string{"answer.RequestPool": `{"PoolID": "pool-10.99.0.0/24", "Pool": "` + p + `"}`}
	}
	for p, want := range map[string]string{
		"many":         `"many", which is no subnet`,
		"10.99.0.0":    `"10.99.0.0", which is no subnet`,
		"fd00::/64":    "fd00::/64, which is of the other address family",
		"0.0.0.0/0":    "0.0.0.0/0, which no network can have",
		"127.0.0.0/16": "127.0.0.0/16, which no network can have",
		"224.0.0.0/8":  "224.0.0.0/8, which no network can have",
	} {
		refused("plugin ours: IpamDriver.RequestPool: it answers with the pool "+want, told(nil, pool(p)))
	}
	address := func(a string) map[string]string {
		return map[string]string{"answer.RequestAddress": `{"Address": "` + a + `"}`}
	}
	for a, want := range map[string]string{
		"":              `it answers with "", which is no address`,
		"10.99.0.1":     `it answers with "10.99.0.1", which is no address with the length`,
		"10.98.0.1/24":  "which is not of its pool 10.99.0.0/24",
		"10.99.0.1/16":  "whose subnet is larger than its pool",
		"172.17.0.1/16": "which is not of its pool",
	} {
		r := told(nil, address(a))
		_, err := m.Create(context.Background(), r)
		if err == nil || !strings.Contains(err.Error(), "plugin ours: IpamDriver.RequestAddress: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", a, err, want)
		}
		d.Forget() // it took another one than it said
		create(t, m, network.CreateRequest{Name: "again", Driver: "ours"})
		if _, err := m.Remove(context.Background(), "again"); err != nil {
			t.Error(err)
		}
	}
}

// TestOverlap: pools of plugins beside one another, beside bridges and beside
// what the host has.
func TestOverlap(t *testing.T) { fresh(t, func() { testOverlap(t) }) }

func testOverlap(t *testing.T) {
	m, d, _ := beside(t, nil)
	answer := func(third, driver, p string) error {
		r := network.CreateRequest{Name: strings.ReplaceAll(p, "/", "-"), Driver: driver, IPAM: &network.IPAM{Driver: "ours", Options: map[string]string{
			"answer.RequestPool":    `{"PoolID": "pool-10.99.` + third + `.0/24", "Pool": "` + p + `"}`,
			"answer.RequestAddress": `{"Address": "` + strings.Replace(p, "0.0/", "0.1/", 1) + `"}`,
		}}}
		_, err := m.Create(context.Background(), r)
		return err
	}
	if err := answer("0", "ours", "10.7.0.0/16"); err != nil {
		t.Fatal(err)
	}
	asked := network.CreateRequest{Name: "1", Driver: "ours", IPAM: &network.IPAM{Driver: "ours", Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("10.7.8.0/24")}}}}
	if _, err := m.Create(context.Background(), asked); err == nil || err.Error() != "invalid pool request: Pool overlaps with other one on this address space: 10.7.0.0/16" {
		t.Error(err)
	}
	if err := answer("1", "ours", "10.7.0.0/17"); err == nil || !strings.Contains(err.Error(), "plugin ours: IpamDriver.RequestPool: it answers with the pool 10.7.0.0/17, which overlaps with 10.7.0.0/16") {
		t.Error(err)
	}
	d.Forget() // it has given other pools and addresses than it said
	if err := answer("0", "bridge", "172.17.0.0/16"); err == nil || !strings.Contains(err.Error(), "plugin ours: IpamDriver.RequestPool: it answers with the pool 172.17.0.0/16, which overlaps with 172.17.0.0/16") {
		t.Error(err)
	}
	// Something of the host's that no network of ours has.
	addLink(t, m, "up0", "192.168.44.5/24")
	d.Forget()
	if err := answer("0", "bridge", "192.168.0.0/16"); err == nil || !strings.Contains(err.Error(), "which overlaps with 192.168.44") {
		t.Error(err)
	}
	// Where the host is not concerned it is the plugin's business.
	d.Forget()
	if err := answer("0", "ours", "192.168.0.0/16"); err != nil {
		t.Error(err)
	}
	// A plugin's addresses on a bridge of ours.
	d.Forget()
	create(t, m, network.CreateRequest{Name: "br", IPAM: &network.IPAM{Driver: "ours", Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("10.55.0.0/24"), Gateway: netip.MustParseAddr("10.55.0.7")}}}})
	cid := id.New()
	sb := attach(t, m, Request{ContainerID: cid, Network: "br"})
	if ep := sb.Endpoints["br"]; ep.IPAddress.String() != "10.55.0.1" || ep.Gateway.String() != "10.55.0.7" {
		t.Errorf("%+v", ep)
	}
	inNS(t, m, sb.NS, func(*rtnl.Conn) {
		if err := ping(netip.MustParseAddr("10.55.0.7")); err != nil {
			t.Error(err)
		}
	})
	if err := m.Release(context.Background(), cid); err != nil {
		t.Error(err)
	}
	if _, err := m.Remove(context.Background(), "br"); err != nil {
		t.Error(err)
	}
	if got := d.Held(); slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "10.55") }) {
		t.Errorf("held %q", got)
	}
}

// addLink makes a pair on the host whose one end is up with an address, if any.
func addLink(t *testing.T, m *Manager, name, address string) {
	t.Helper()
	var b rtnl.Batch
	b.AddVeth(rtnl.Veth{Name: name, Peer: name + "x", PeerNS: int(m.home.Fd())})
	if err := m.rt.Do(&b); err != nil {
		t.Fatal(err)
	}
	link, err := m.rt.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if address != "" {
		var at rtnl.Batch
		at.AddAddr(link.Index, netip.MustParsePrefix(address))
		if err := m.rt.Do(&at); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		var b rtnl.Batch
		b.DelLink(link.Index)
		_ = m.rt.Do(&b) // the namespace ends with the test
	})
}

// TestLyingEndpoints: whatever a network driver answers for a container, the
// error names it, the container does not start, and nothing is held or moved.
func TestLyingEndpoints(t *testing.T) { fresh(t, func() { testLyingEndpoints(t) }) }

func testLyingEndpoints(t *testing.T) {
	cfg := testConfig(t)
	cfg.PoolSize = 2
	d, _ := plugIn(t, &cfg)
	m := open(t, cfg)
	waitFor(t, "pool", full(m, 2))
	addLink(t, m, "up0", "192.168.44.5/24")
	addLink(t, m, "way0", "")
	way, err := m.rt.LinkByName("way0")
	if err != nil {
		t.Fatal(err)
	}
	var b rtnl.Batch
	b.AddRoute(way.Index, netip.MustParsePrefix("192.168.45.0/24"), netip.Addr{})
	b.AddVLAN("tagged0", way.Index, 7)
	if err := m.rt.Do(&b); err != nil {
		t.Logf("without a tagged link: %v", err)
	}
	create(t, m, network.CreateRequest{Name: "user"})
	running := attach(t, m, Request{Network: "user"})
	port := ""
	for _, box := range m.boxes {
		for _, veth := range box.veths {
			port = veth
		}
	}
	join := func(answer string) map[string]string {
		return map[string]string{"answer.Join": answer}
	}
	link := func(name string) map[string]string {
		return join(`{"InterfaceName": {"SrcName": "` + name + `", "DstPrefix": "x"}}`)
	}
	rest := func(more string) map[string]string {
		return join(`{"InterfaceName": {"SrcName": "{link}", "DstPrefix": "x"}, ` + more + `}`)
	}
	for _, c := range []struct {
		options map[string]string
		want    string
	}{
		{map[string]string{"fail": "CreateEndpoint"}, "plugin ours: NetworkDriver.CreateEndpoint: told to fail"},
		{map[string]string{"hang": "CreateEndpoint"}, "plugin ours: NetworkDriver.CreateEndpoint: it does not answer"},
		{map[string]string{"huge": "CreateEndpoint"}, "plugin ours: NetworkDriver.CreateEndpoint: its answer is larger"},
		{map[string]string{"answer.CreateEndpoint": `{"Interface": {"Address": "10.99.0.9/24"}}`}, "plugin ours: NetworkDriver.CreateEndpoint: driver modified interface address"},
		{map[string]string{"answer.CreateEndpoint": `{"Interface": {"AddressIPv6": "10.99.0.9/24"}}`}, "which no link can have"},
		{map[string]string{"answer.CreateEndpoint": `{"Interface": {"MacAddress": "01:00:00:00:00:01"}}`}, "which no link can have"},
		{map[string]string{"answer.CreateEndpoint": `{"Interface": 7}`}, "plugin ours: NetworkDriver.CreateEndpoint: its answer is not what the protocol says"},
		{map[string]string{"fail": "Join"}, "plugin ours: NetworkDriver.Join: told to fail"},
		{map[string]string{"hang": "Join"}, "plugin ours: NetworkDriver.Join: it does not answer"},
		{map[string]string{"huge": "Join"}, "plugin ours: NetworkDriver.Join: its answer is larger"},
		{link("lo"), "plugin ours: link lo is the host's own (its loopback)"},
		{link("wherry0"), "plugin ours: link wherry0 is the host's own (a bridge)"},
		{link("up0"), "plugin ours: link up0 is the host's own (it has the address 192.168.44.5/24)"},
		{link("way0"), "plugin ours: link way0 is the host's own ("},
		{link(port), "plugin ours: link " + port + " is the host's own (a port of another link)"},
		{link("{spare}"), "is the host's own (another's already)"},
		{link("nope0"), "plugin ours: no link nope0 on this host"},
		{link("../x"), `plugin ours: NetworkDriver.Join: it answers with the link "../x", which is no name of one`},
		{link("averylongnameofalink"), "which is no name of one"},
		{join(`{"InterfaceName": {"SrcName": "{link}", "DstPrefix": "averylongprefix"}}`), `it answers with the prefix "averylongprefix"`},
		{join(`{"InterfaceName": {"SrcName": "{link}", "DstPrefix": "a/b"}}`), `it answers with the prefix "a/b"`},
		{join(`{"Gateway": "10.99.0.1"}`), "it answers with routes and without a link"},
		{rest(`"Gateway": "nowhere"`), `it answers with the gateway "nowhere", which is none`},
		{rest(`"Gateway": "fd00::1"`), `it answers with the gateway "fd00::1", which is none`},
		{rest(`"Gateway": "10.98.0.1"`), "link of plugin ours: add route"},
		{rest(`"StaticRoutes": [{"Destination": "x", "RouteType": 1}]`), `it answers with a route to "x", which is no subnet`},
		{rest(`"StaticRoutes": [{"Destination": "10.5.0.0/16", "RouteType": 0, "NextHop": ""}]`), "which is no address of its family"},
		{rest(`"StaticRoutes": [{"Destination": "10.5.0.0/16", "RouteType": 1, "NextHop": "10.99.0.1"}]`), "0 has a next hop, 1 has none"},
		{rest(`"StaticRoutes": [{"Destination": "10.5.0.0/16", "RouteType": 0, "NextHop": "10.98.0.1"}]`), "link of plugin ours: add route 10.5.0.0/16"},
		{map[string]string{"fail": "ProgramExternalConnectivity"}, "plugin ours: NetworkDriver.ProgramExternalConnectivity: told to fail"},
		{map[string]string{"fail": "EndpointOperInfo"}, "plugin ours: NetworkDriver.EndpointOperInfo: told to fail"},
	} {
		requests := []Request{{Network: "net"}, {Network: "user", Endpoints: map[string]*network.EndpointSettings{"net": {}, "user": {}}}}
		if strings.Contains(c.options["answer.Join"], "{spare}") {
			requests = requests[:1] // the other takes it
			c.options["answer.Join"] = strings.Replace(c.options["answer.Join"], "{spare}", spare(t, m), 1)
		}
		create(t, m, told(c.options, nil))
		links, held := names(t, m.rt), d.Held()
		for _, r := range requests {
			r.ContainerID = id.New()
			_, err := m.Attach(untilHung(t, d, c.options), r)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v: %v, want %q", c.options, err, c.want)
			}
			if got := d.Held(); !slices.Equal(got, held) {
				t.Errorf("%v: the plugin holds %q, before %q", c.options, got, held)
			}
		}
		waitFor(t, "links to be as they were", func() bool {
			return slices.Equal(without0(names(t, m.rt)), without0(links))
		})
		if _, err := m.Remove(context.Background(), "net"); err != nil {
			t.Error(err)
		}
	}
	left, err := os.ReadDir(filepath.Join(cfg.Root, "network", "endpoints"))
	if err != nil || len(left) > 0 {
		t.Errorf("left %v %v", left, err)
	}
	inNS(t, m, running.NS, func(*rtnl.Conn) {
		if err := ping(running.Endpoints["user"].Gateway); err != nil {
			t.Error(err)
		}
	})
}

// spare is the end of a pair that waits.
func spare(t *testing.T, m *Manager) (name string) {
	t.Helper()
	waitFor(t, "a pair that waits", func() bool {
		for _, veth := range veths(t) {
			if m.pool.Owns(veth) {
				name = veth
			}
		}
		return name != ""
	})
	return name
}

// without0 are the links but for those of the pool, which come and go.
func without0(links []string) []string {
	return slices.DeleteFunc(links, func(s string) bool { return strings.HasPrefix(s, "veth") })
}
