package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/spec"
	"github.com/wherry-engine/wherry/internal/network/wiring"
)

func create(t testing.TB, m *Manager, r network.CreateRequest) string {
	t.Helper()
	resp, err := m.Create(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return resp.ID
}

func subnet(s string) *network.IPAM {
	return &network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix(s)}}}
}

func on(name string, aliases ...string) map[string]*network.EndpointSettings {
	return map[string]*network.EndpointSettings{name: {Aliases: aliases}}
}

// asks sends a question from the namespace and returns the answers' last
// fields, sorted, or the word for what went wrong.
func asks(t testing.TB, m *Manager, ns *os.File, proto, name string, kind uint16) string {
	t.Helper()
	out := ""
	inNS(t, m, ns, func(*rtnl.Conn) {
		c, err := dialHere(proto, "127.0.0.11:53")
		if err != nil {
			out = err.Error()
			return
		}
		defer c.Close()
		q := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
		r, _, err := (&dns.Client{Net: proto, Timeout: 2 * time.Second}).ExchangeWithConn(q, &dns.Conn{Conn: c})
		switch {
		case err != nil:
			out = err.Error()
		case r.Rcode != dns.RcodeSuccess:
			out = dns.RcodeToString[r.Rcode]
		default:
			var list []string
			for _, rr := range r.Answer {
				f := strings.Fields(rr.String())
				list = append(list, f[len(f)-1])
			}
			slices.Sort(list)
			out = strings.Join(list, " ")
		}
	})
	return out
}

// sleeper is a process in the namespace, as a container's would be.
func sleeper(t testing.TB, m *Manager, ns *os.File) int {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	if err := within(m.home, ns, func() error {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
		return cmd.Start() // forked by the thread that is inside
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd.Process.Pid
}

func TestNetworks(t *testing.T) { fresh(t, func() { networks(t) }) }

func networks(t *testing.T) {
	l := newLAN(t)
	cfg := proxied(t)
	m := open(t, cfg)
	one := create(t, m, network.CreateRequest{Name: "one"})
	create(t, m, network.CreateRequest{Name: "two", IPAM: &network.IPAM{Config: []network.IPAMConfig{{
		Subnet: netip.MustParsePrefix("10.5.0.0/16"), IPRange: netip.MustParsePrefix("10.5.7.0/24"), Gateway: netip.MustParseAddr("10.5.0.254"),
		AuxAddress: map[string]netip.Addr{"printer": netip.MustParseAddr("10.5.7.1")},
	}}}, Options: map[string]string{spec.OptBridgeName: "two0", spec.OptMTU: "1400"}})
	create(t, m, network.CreateRequest{Name: "secret", Internal: true})
	if n, err := m.Inspect(one[:12], false); err != nil || n.Name != "one" || n.IPAM.Config[0].Subnet.String() != "172.18.0.0/16" || n.IPAM.Config[0].Gateway.String() != "172.18.0.1" {
		t.Errorf("%+v %v", n, err)
	}
	echo(t, m.home, l.ns, 7000)
	ctx := context.Background()
	web, db, far := id.New(), id.New(), id.New()
	a := attach(t, m, Request{ContainerID: web, ContainerName: "web", Hostname: "webhost", Network: "one", Endpoints: on("one", "www", "App"), Ports: ports("80/tcp", "8080")})
	b := attach(t, m, Request{ContainerID: db, ContainerName: "db", Network: "one", Endpoints: map[string]*network.EndpointSettings{
		"one": {Aliases: []string{"www"}, IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("172.18.5.5")}},
	}})
	c := attach(t, m, Request{ContainerID: far, ContainerName: "far", Network: "two"})
	d := attach(t, m, Request{ContainerName: "hidden", Network: "secret"})
	e := attach(t, m, Request{ContainerName: "plain"})
	echo(t, m.home, a.NS, 80)
	echo(t, m.home, d.NS, 80)
	ip := func(sb *Sandbox, n string) string { return sb.Endpoints[n].IPAddress.String() }
	if ip(b, "one") != "172.18.5.5" || ip(c, "two") != "10.5.7.0" || c.Endpoints["two"].Gateway.String() != "10.5.0.254" {
		t.Errorf("addresses %s %s", ip(b, "one"), ip(c, "two"))
	}
	if d := a.Endpoints["one"].DNSNames; !slices.Equal(d, []string{"web", "www", "App", id.Short(web), "webhost"}) {
		t.Errorf("names %v", d)
	}
	if a.NameServer.String() != "127.0.0.11" || e.NameServer.IsValid() {
		t.Error("name server")
	}

	// Who reaches whom.
	reaches(t, "same network", m.home, b.NS, "tcp", ip(a, "one")+":80", "172.18.5.5")
	refused(t, "other network", m.home, c.NS, "tcp", ip(a, "one")+":80")
	refused(t, "default network", m.home, e.NS, "tcp", ip(a, "one")+":80")
	reaches(t, "published port from another network", m.home, c.NS, "tcp", "192.0.2.1:8080", "")
	reaches(t, "published port from LAN", m.home, l.ns, "tcp", "192.0.2.1:8080", "192.0.2.2")
	for _, sb := range []*Sandbox{a, c, e} {
		reaches(t, "LAN", m.home, sb.NS, "tcp", "192.0.2.2:7000", "192.0.2.1")
	}
	refused(t, "internal to LAN", m.home, d.NS, "tcp", "192.0.2.2:7000")
	refused(t, "internal to published port", m.home, d.NS, "tcp", "192.0.2.1:8080")
	refused(t, "other to internal", m.home, a.NS, "tcp", ip(d, "secret")+":80")
	reaches(t, "host to internal", m.home, nil, "tcp", ip(d, "secret")+":80", "")

	// Names.
	for _, proto := range []string{"udp", "tcp"} {
		for _, q := range []struct {
			from *Sandbox
			name string
			kind uint16
			want string
		}{
			{b, "web", dns.TypeA, ip(a, "one")},
			{b, "WEB", dns.TypeA, ip(a, "one")},
			{b, "app.one", dns.TypeA, ip(a, "one")},
			{b, id.Short(web), dns.TypeA, ip(a, "one")},
			{b, "webhost", dns.TypeA, ip(a, "one")},
			{b, "web", dns.TypeAAAA, ""},
			{b, "web", dns.TypeMX, ""},
			{a, "www", dns.TypeA, "172.18.0.2 172.18.5.5"},
			{a, "5.5.18.172.in-addr.arpa", dns.TypePTR, "db.one."},
			{d, "hidden", dns.TypeA, ip(d, "secret")},
			{d, "web", dns.TypeA, "SERVFAIL"}, // nobody to ask
		} {
			if got := asks(t, m, q.from.NS, proto, q.name, q.kind); got != q.want {
				t.Errorf("%s %s %s: %q, want %q", proto, q.name, dns.TypeToString[q.kind], got, q.want)
			}
		}
	}

	// Connect and disconnect while running.
	pid := sleeper(t, m, c.NS)
	// Not by a number that is another's by now.
	ended := errors.New("has ended")
	m.SetContainers(m.names, func(id string, number int) (*os.File, error) {
		if id != far || number != pid {
			t.Errorf("asked for %s %d", id, number)
		}
		return nil, ended
	})
	if _, err := m.Connect(ctx, Connection{ContainerID: far, Network: "one", PID: pid}); !errors.Is(err, ended) {
		t.Errorf("connected with a process that has ended: %v", err)
	}
	asked := 0
	m.SetContainers(m.names, func(_ string, number int) (*os.File, error) { asked++; return wiring.NamespaceOf(number) })
	defer func() {
		if asked != 2 {
			t.Errorf("asked %d times for the namespace to connect and to disconnect", asked)
		}
	}()
	done, err := m.Connect(ctx, Connection{ContainerID: far, Network: one[:10], PID: pid, Settings: &network.EndpointSettings{Aliases: []string{"guest"}}})
	if err != nil || done.Network != "one" || done.Endpoint.IPAddress.String() != "172.18.0.3" {
		t.Fatalf("connect: %+v %v", done, err)
	}
	if got := asks(t, m, b.NS, "udp", "guest", dns.TypeA); got != "172.18.0.3" {
		t.Errorf("guest: %s", got)
	}
	if got := asks(t, m, c.NS, "udp", "web", dns.TypeA); got != ip(a, "one") {
		t.Errorf("web: %s", got)
	}
	reaches(t, "after connect", m.home, c.NS, "tcp", ip(a, "one")+":80", "172.18.0.3")
	reaches(t, "LAN after connect", m.home, c.NS, "tcp", "192.0.2.2:7000", "192.0.2.1")
	if _, err := m.Connect(ctx, Connection{ContainerID: far, Network: "one", PID: pid}); err == nil || err.Error() != "endpoint with name far already exists in network one" {
		t.Errorf("%v", err)
	}
	if _, err := m.Remove(ctx, "one"); err == nil || !errdefs.IsPermissionDenied(err) || !strings.HasPrefix(err.Error(), `error while removing network: network one has active endpoints (name:"db" id:"`) {
		t.Errorf("%v", err)
	}
	if _, err := m.Disconnect(ctx, far, "one", pid, false); err != nil {
		t.Fatal(err)
	}
	refused(t, "after disconnect", m.home, c.NS, "tcp", ip(a, "one")+":80")
	reaches(t, "LAN after disconnect", m.home, c.NS, "tcp", "192.0.2.2:7000", "192.0.2.1")
	if got := asks(t, m, b.NS, "udp", "guest", dns.TypeA); got == "172.18.0.3" {
		t.Error("guest is still known")
	}
	if _, err := m.Disconnect(ctx, far, "one", pid, false); err == nil || err.Error() != "container "+far+" is not connected to network one" {
		t.Errorf("%v", err)
	}
	m.Rename(web, "shop")
	if got := asks(t, m, b.NS, "udp", "shop", dns.TypeA) + "|" + asks(t, m, b.NS, "udp", "web", dns.TypeA); !strings.HasPrefix(got, ip(a, "one")+"|") || strings.HasSuffix(got, ip(a, "one")) {
		t.Errorf("renamed: %s", got)
	}

	// A container may have port 53 itself.
	if err := within(m.home, a.NS, func() error {
		l, err := net.ListenPacket("udp4", "0.0.0.0:53")
		if err == nil {
			l.Close()
		}
		return err
	}); err != nil {
		t.Error(err)
	}

	// A new engine finds it all.
	m.Rename(web, "web")
	webPID := sleeper(t, m, a.NS)
	before, _ := m.Inspect("two", false)
	if err := m.Close(false); err != nil {
		t.Fatal(err)
	}
	m = open(t, cfg)
	m.SetContainers(func(c string) string { return map[string]string{web: "web", db: "db"}[c] }, m.namespaceOf)
	if err := m.Adopt(web, a.Endpoints, webPID, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.AdoptPorts(web, a.Ports); err != nil {
		t.Fatal(err)
	}
	if err := m.Adopt(db, b.Endpoints, sleeper(t, m, b.NS), nil); err != nil {
		t.Fatal(err)
	}
	if got := asks(t, m, b.NS, "udp", "web", dns.TypeA); got != ip(a, "one") {
		t.Errorf("adopted: %s", got)
	}
	reaches(t, "adopted", m.home, l.ns, "tcp", "192.0.2.1:8080", "192.0.2.2")
	after, err := m.Inspect("two", false)
	if err != nil || after.ID != before.ID || after.IPAM.Config[0].AuxAddress["printer"].String() != "10.5.7.1" || !after.Created.Equal(before.Created) {
		t.Errorf("%+v %v", after, err)
	}
	for _, c := range []string{web, db} {
		if err := m.Release(ctx, c); err != nil {
			t.Error(err)
		}
	}
	report, err := m.Prune(ctx, filter.Args{}, func(*network.Network) {})
	if err != nil || !slices.Equal(report.NetworksDeleted, []string{"one", "secret", "two"}) {
		t.Errorf("%v %v", report, err)
	}
	if _, err := m.rt.LinkByName("two0"); !errdefs.IsNotFound(err) {
		t.Errorf("two0: %v", err)
	}
}

func TestCreateErrors(t *testing.T) { fresh(t, func() { createErrors(t) }) }

func createErrors(t *testing.T) {
	m := open(t, testConfig(t))
	create(t, m, network.CreateRequest{Name: "one", IPAM: subnet("10.1.0.0/16")})
	yes, no := true, false
	for want, r := range map[string]network.CreateRequest{
		"operation is not permitted on predefined bridge network ":                                                       {Name: "bridge"},
		"network with name one already exists":                                                                           {Name: "one"},
		`plugin "weave" not found`:                                                                                       {Name: "x", Driver: "weave"},
		`only one instance of "host" network is allowed`:                                                                 {Name: "x", Driver: "host"},
		"invalid network config:\ninvalid ip-range fd00::/80: parent subnet is an IPv4 block":                            {Name: "x", EnableIPv6: &yes, IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("10.2.0.0/16"), IPRange: netip.MustParsePrefix("fd00::/80")}}}},
		"bridge driver doesn't support multiple subnets":                                                                 {Name: "x", IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("10.2.0.0/16")}, {Subnet: netip.MustParsePrefix("10.3.0.0/16")}}}},
		"IPv4 or IPv6 must be enabled":                                                                                   {Name: "x", EnableIPv4: &no},
		"invalid pool request: Pool overlaps with other one on this address space: 10.1.0.0/16":                          {Name: "x", IPAM: subnet("10.1.2.0/24")},
		"invalid pool request: Pool overlaps with other one on this address space: 172.17.0.0/16":                        {Name: "x", IPAM: subnet("172.16.0.0/12")},
		"invalid network config:\ninvalid subnet 10.2.0.1/16: it should be 10.2.0.0/16":                                  {Name: "x", IPAM: subnet("10.2.0.1/16")},
		"invalid network config:\ninvalid gateway 10.3.0.1: parent subnet 10.2.0.0/16 doesn't contain this address":      {Name: "x", IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("10.2.0.0/16"), Gateway: netip.MustParseAddr("10.3.0.1")}}}},
		`invalid network name "a/b": a slash, characters that cannot be printed and more than 255 bytes are not allowed`: {Name: "a/b"},
		`invalid network name " ": it is empty`:                                                                          {Name: " "},
		"unknown gateway mode bent":                                                                                      {Name: "x", Options: map[string]string{spec.OptMode4: "bent"}},
		"gateway mode 'isolated' can only be used for an internal network":                                               {Name: "x", Options: map[string]string{spec.OptMode6: "isolated"}},
		"requested macvlan mode 'x' is not valid, 'bridge' mode is the macvlan driver default":                           {Name: "x", Driver: "macvlan", Options: map[string]string{"macvlan_mode": "x"}},
		"invalid parent interface nope0: no such link on this host":                                                      {Name: "x", Driver: "macvlan", Options: map[string]string{"parent": "nope0"}},
		"vlan id must be between 1-4094, received: 9999":                                                                 {Name: "x", Driver: "macvlan", Options: map[string]string{"parent": "lo.9999"}},
		"configuration network \"nope\" does not exist":                                                                  {Name: "x", ConfigFrom: &network.ConfigReference{Network: "nope"}},
	} {
		if _, err := m.Create(context.Background(), r); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := m.Remove(context.Background(), "bridge"); err == nil || err.Error() != "bridge is a pre-defined network and cannot be removed" {
		t.Errorf("%v", err)
	}
	if _, err := m.Remove(context.Background(), "nope"); err == nil || err.Error() != "network nope not found" {
		t.Errorf("%v", err)
	}
	// Nothing of what failed is left.
	if list, _ := m.List(filter.Args{}); len(list) != 4 {
		t.Errorf("%d networks", len(list))
	}
	links, _ := m.rt.Links()
	for _, l := range links {
		if strings.HasPrefix(l.Name, "br-") && l.Name != m.reg.ByName("one").BridgeName() {
			t.Errorf("bridge %s left", l.Name)
		}
	}
	// An address that is taken.
	want := func() map[string]*network.EndpointSettings {
		return map[string]*network.EndpointSettings{"one": {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.1.0.9")}}}
	}
	attach(t, m, Request{ContainerID: "a", Network: "one", Endpoints: want()})
	if _, err := m.Attach(context.Background(), Request{ContainerID: "b", Network: "one", Endpoints: want()}); err == nil || err.Error() != "Address already in use" {
		t.Errorf("%v", err)
	}
}

// TestForward: what is not ours goes to the host's servers as it came.
func TestForward(t *testing.T) { fresh(t, func() { forward(t) }) }

func forward(t *testing.T) {
	cfg := testConfig(t)
	// Nobody is at the first.
	cfg.DNS = []netip.Addr{netip.MustParseAddr("127.0.0.77"), netip.MustParseAddr("127.0.0.53")}
	m := open(t, cfg)
	server := func(home, ns *os.File, addr, answer string) {
		var pc net.PacketConn
		var l net.Listener
		if err := within(home, ns, func() (err error) {
			if pc, err = net.ListenPacket("udp4", addr); err != nil {
				return err
			}
			l, err = net.Listen("tcp4", addr)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			r := new(dns.Msg).SetReply(q)
			if q.Question[0].Name == "missing.example." {
				r.Rcode = dns.RcodeNameError
			} else if rr, err := dns.NewRR(fmt.Sprintf("%s 5 IN TXT %s", q.Question[0].Name, answer)); err == nil {
				r.Answer = []dns.RR{rr}
			}
			w.WriteMsg(r)
		})
		for _, s := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: l, Handler: h}} {
			go s.ActivateAndServe()
			t.Cleanup(func() { s.Shutdown() })
		}
	}
	server(m.home, nil, "127.0.0.53:53", "host")
	create(t, m, network.CreateRequest{Name: "one"})
	a := attach(t, m, Request{ContainerName: "a", Network: "one"})
	for _, proto := range []string{"udp", "tcp"} {
		if got := asks(t, m, a.NS, proto, "www.example", dns.TypeTXT); got != `"host"` {
			t.Errorf("%s: %s", proto, got)
		}
		if got := asks(t, m, a.NS, proto, "missing.example", dns.TypeA); got != "NXDOMAIN" {
			t.Errorf("%s: %s", proto, got)
		}
	}
	// A server of the container's own is asked from where it is.
	b := attach(t, m, Request{ContainerName: "b", Network: "one", DNS: []netip.Addr{netip.MustParseAddr("127.0.0.99")}})
	server(m.home, b.NS, "127.0.0.99:53", "inside")
	if got := asks(t, m, b.NS, "udp", "www.example", dns.TypeTXT); got != `"inside"` {
		t.Error(got)
	}
}
