package network

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/id"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/forwarding"
	"github.com/wherry-engine/wherry/internal/network/spec"
)

func full(m *Manager, n int) func() bool {
	return func() bool {
		wired, spared := m.pool.Waiting()
		return wired == n && spared
	}
}

// veths lists the host's ends.
func veths(t testing.TB) []string {
	t.Helper()
	c, err := rtnl.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	links, err := c.Links()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range links {
		if strings.HasPrefix(l.Name, "veth") {
			out = append(out, l.Name)
		}
	}
	return out
}

func openFiles(t testing.TB) int {
	t.Helper()
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(dir)
}

func TestPool(t *testing.T) { fresh(t, func() { testPool(t) }) }

func testPool(t *testing.T) {
	cfg := testConfig(t)
	cfg.PoolSize = 3
	m := open(t, cfg)
	waitFor(t, "pool", full(m, 3))
	files := openFiles(t)
	seen := map[netip.Addr]bool{}
	for range 30 {
		var cids []string
		var wg sync.WaitGroup
		var mu sync.Mutex
		for range 6 { // more than it holds
			cid := id.New()
			cids = append(cids, cid)
			wg.Go(func() {
				sb, err := m.Attach(context.Background(), Request{ContainerID: cid})
				if err != nil {
					t.Error(err)
					return
				}
				inNS(t, m, sb.NS, func(*rtnl.Conn) {
					if err := ping(netip.MustParseAddr("172.17.0.1")); err != nil {
						t.Error(err)
					}
				})
				mu.Lock()
				defer mu.Unlock()
				a := sb.Endpoints["bridge"].IPAddress
				if seen[a] {
					t.Errorf("%s used again already", a)
				}
				seen[a] = true
				sb.NS.Close()
			})
		}
		wg.Wait()
		for _, c := range cids {
			for range 2 { // idempotent
				if err := m.Release(context.Background(), c); err != nil {
					t.Error(err)
				}
			}
		}
		m.Refill()
	}
	waitFor(t, "pool", full(m, 3))
	waitFor(t, "links to go", func() bool { return len(veths(t)) == 3+2 })
	if n := openFiles(t); n != files {
		t.Errorf("%d open files, %d before", n, files)
	}
	if used := m.reg.ByName("bridge").Stacks[v4].Addrs.Used(); used != 1+3 {
		t.Errorf("%d addresses in use, want the gateway's and the pool's 3", used)
	}
	in, err := m.Inspect("bridge", false)
	if err != nil {
		t.Fatal(err)
	}
	if s := in.Status.IPAM.Subnets[netip.MustParsePrefix("172.17.0.0/16")]; s.IPsInUse != 3 || s.DynamicIPsAvailable != 65533 {
		t.Errorf("status %+v", s)
	}
}

// TestAdoptWhileFilling: an adopted container has its address, also when a
// namespace of the pool is just being made with it.
func TestAdoptWhileFilling(t *testing.T) { fresh(t, func() { testAdoptWhileFilling(t) }) }

func testAdoptWhileFilling(t *testing.T) {
	cfg := testConfig(t)
	cfg.PoolSize = 1
	cfg.BIP = netip.MustParsePrefix("172.17.0.1/30") // one address is left
	m := open(t, cfg)
	addr := netip.MustParseAddr("172.17.0.2")
	bridge := m.reg.ByName("bridge")
	addrs := bridge.Stacks[v4].Addrs
	for range 20 {
		for end := time.Now().Add(10 * time.Second); addrs.Used() != 2; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatal("the pool takes no address")
			}
		}
		cid := id.New()
		ep := &network.EndpointSettings{IPAddress: addr, IPPrefixLen: 30, NetworkID: bridge.ID}
		if err := m.Adopt(cid, map[string]*network.EndpointSettings{"bridge": ep}, 0, nil); err != nil {
			t.Fatal(err)
		}
		if err := m.Release(context.Background(), cid); err != nil {
			t.Fatal(err)
		}
		m.Refill()
	}
}

func TestNone(t *testing.T) { fresh(t, func() { testNone(t) }) }

func testNone(t *testing.T) {
	for _, size := range []int{-1, 2} {
		cfg := testConfig(t)
		cfg.PoolSize = size
		m := open(t, cfg)
		if size > 0 {
			waitFor(t, "pool", full(m, size))
		}
		sb := attach(t, m, Request{Network: "none"})
		if ep := sb.Endpoints["none"]; ep == nil || ep.EndpointID == "" || ep.IPAddress.IsValid() || ep.MacAddress != nil {
			t.Errorf("endpoint %+v", ep)
		}
		inNS(t, m, sb.NS, func(c *rtnl.Conn) {
			links, err := c.Links()
			if err != nil || len(links) != 1 || !links[0].Up {
				t.Errorf("links %+v %v", links, err)
			}
		})
		if err := m.Close(true); err != nil {
			t.Error(err)
		}
	}
}

// TestAdopt: a connection through the host outlives the engine, and the next
// engine knows the address.
func TestAdopt(t *testing.T) { fresh(t, func() { adopt(t) }) }

func adopt(t *testing.T) {
	l := newLAN(t)
	cfg := testConfig(t)
	m, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	cid := id.New()
	sb, err := m.Attach(context.Background(), Request{ContainerID: cid, ContainerName: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer sb.NS.Close()
	first, err := m.Inspect("bridge", false)
	if err != nil {
		t.Fatal(err)
	}
	var server net.Listener
	if err := within(m.home, l.ns, func() (err error) { server, err = net.Listen("tcp4", ":7000"); return err }); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		c, err := server.Accept()
		if err == nil {
			io.Copy(c, c)
		}
	}()
	var conn net.Conn
	if err := within(m.home, sb.NS, func() (err error) { conn, err = dialHere("tcp", "192.0.2.2:7000"); return err }); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	say := func(what string) {
		t.Helper()
		conn.SetDeadline(time.Now().Add(2 * time.Second))
		fmt.Fprintln(conn, what)
		got, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || got != what+"\n" {
			t.Errorf("connection: %q %v", got, err)
		}
	}
	say("before")
	bridge := first.Options[spec.OptBridgeName]
	index := func() int { l, _ := m.rt.LinkByName(bridge); return l.Index }
	was := index()
	if err := m.Close(false); err != nil {
		t.Fatal(err)
	}
	say("between")
	cfg.PoolSize = 2
	m = open(t, cfg)
	if index() != was {
		t.Error("the bridge was made anew")
	}
	waitFor(t, "pool", full(m, 2)) // it takes the adopted address, unaware
	m.SetContainers(func(c string) string { return "name-of-" + c[:4] }, m.namespaceOf)
	if err := m.Adopt(cid, sb.Endpoints, 0, nil); err != nil {
		t.Fatal(err)
	}
	say("after")
	got, err := m.Inspect(first.ID[:10], false)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != first.ID || !got.Created.Equal(first.Created) {
		t.Errorf("network %s of %s, was %s of %s", got.ID, got.Created, first.ID, first.Created)
	}
	member := got.Containers[cid]
	if member.Name != "name-of-"+cid[:4] || member.IPv4Address.String() != "172.17.0.2/16" || member.EndpointID != sb.Endpoints["bridge"].EndpointID {
		t.Errorf("member %+v", member)
	}
	for range 5 {
		if a := attach(t, m, Request{}).Endpoints["bridge"].IPAddress; a == sb.Endpoints["bridge"].IPAddress {
			t.Errorf("%s given away", a)
		}
	}
	if err := m.Release(context.Background(), cid); err != nil {
		t.Fatal(err)
	}
	if got, _ := m.Inspect("bridge", false); len(got.Containers) != 5 {
		t.Errorf("containers %+v", got.Containers)
	}
	// Close has to give back what the first engine changed.
	if err := m.Close(true); err != nil {
		t.Fatal(err)
	}
	if v, _ := rtnl.ReadSysctl(forwarding.Path); v != "0" {
		t.Errorf("forwarding %s", v)
	}
}

// TestKilled: what waits in the pool of an engine that is killed goes with it.
func TestKilled(t *testing.T) { fresh(t, func() { killed(t) }) }

func killed(t *testing.T) {
	if root := os.Getenv("WHERRY_TEST_POOL_OWNER"); root != "" {
		m, err := Open(context.Background(), Config{Root: root, ExecRoot: root, Firewall: true, IPForward: true, ICC: true, IPMasq: true, PoolSize: 5})
		if err != nil {
			t.Fatal(err)
		}
		waitFor(t, "pool", full(m, 5))
		fmt.Println("full")
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$", "-test.v")
	cmd.Env = append(os.Environ(), "WHERRY_TEST_POOL_OWNER="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(out); s.Scan() && s.Text() != "full"; {
	}
	if n := len(veths(t)); n != 5+2 {
		t.Errorf("%d links, want those of 5 wired namespaces and of 2 spares", n)
	}
	cmd.Process.Kill()
	cmd.Wait()
	waitFor(t, "links to go", func() bool { return len(veths(t)) == 0 })
}

func BenchmarkAttachPool(b *testing.B) {
	fresh(b, func() {
		cfg := testConfig(b)
		cfg.PoolSize = 64
		m := open(b, cfg)
		for b.Loop() {
			b.StopTimer()
			for !full(m, 64)() && !anyWired(m) {
				m.Refill()
				time.Sleep(time.Millisecond)
			}
			cid := id.New()
			b.StartTimer()
			sb, err := m.Attach(context.Background(), Request{ContainerID: cid})
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			sb.NS.Close()
			m.Release(context.Background(), cid)
			b.StartTimer()
		}
	})
}

// BenchmarkAttachCold is also what refilling one costs.
func BenchmarkAttachCold(b *testing.B) {
	fresh(b, func() {
		m := open(b, testConfig(b))
		for b.Loop() {
			cid := id.New()
			sb, err := m.Attach(context.Background(), Request{ContainerID: cid})
			if err != nil {
				b.Fatal(err)
			}
			sb.NS.Close()
			m.Release(context.Background(), cid)
		}
	})
}

// anyWired reports whether a namespace with a network waits.
func anyWired(m *Manager) bool {
	wired, _ := m.pool.Waiting()
	return wired > 0
}

// spared reports whether all namespaces without a network wait.
func spared(m *Manager) bool {
	_, spared := m.pool.Waiting()
	return spared
}
