// Package network puts an engine into a small world of network namespaces - a
// host, a neighbour on its LAN, an attacker on another one - and asks from
// everywhere who can reach what, against the table in docs/networks.md.
package network

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/test/harness"
)

// Addresses of the world: the host has .1 and ::1 of both LANs.
const (
	hostAddr, hostAddr6           = "192.0.2.1", "2001:db8:1::1"
	neighbourAddr, neighbourAddr6 = "192.0.2.2", "2001:db8:1::2"
	attackerAddr                  = "198.51.100.2"
)

// lab is the world of one test.
type lab struct {
	t     testing.TB
	e     *harness.Engine
	home  *os.File
	probe string
	ns    map[string]*os.File // by the row of the table
}

func newLab(t testing.TB, o harness.Options) *lab {
	t.Helper()
	harness.Require(t, "root", "nft")
	l := &lab{t: t, e: harness.Run(t, o), ns: map[string]*os.File{}}
	var err error
	if l.probe, err = harness.Program(t.TempDir(), "./test/network/probe"); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(l.probe)
	if err != nil {
		t.Fatal(err)
	}
	im := &harness.Image{Names: []string{"probe:latest"}, Config: harness.Config{Entrypoint: []string{"/probe"}}, Layers: [][]harness.File{{{Name: "probe", Mode: 0o755, Data: program}}}}
	if err := l.e.Load(im.DockerArchive()); err != nil {
		t.Fatal(err)
	}
	if l.home, err = rtnl.Current(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.home.Close() })
	l.ns["the host"] = l.e.NetNS()
	neighbour := l.neighbour("a neighbour on the LAN", "lan0", hostAddr+"/24", hostAddr6+"/64", neighbourAddr+"/24", neighbourAddr6+"/64")
	attacker := l.neighbour("an attacker on the LAN", "lan1", "198.51.100.1/24", "2001:db8:2::1/64", attackerAddr+"/24", "2001:db8:2::2/64")
	// The neighbour would answer the attacker through the host.
	l.within(neighbour, func(c *rtnl.Conn) error {
		links, err := c.Links()
		if err != nil {
			return err
		}
		var b rtnl.Batch
		for _, x := range links {
			if x.Name == "eth0" {
				b.AddRoute(x.Index, netip.MustParsePrefix("198.51.100.0/24"), netip.MustParseAddr(hostAddr))
				b.AddRoute(x.Index, netip.MustParsePrefix("2001:db8:2::/64"), netip.MustParseAddr(hostAddr6))
			}
		}
		return c.Do(&b)
	})
	// The attacker sends everything to the host, even what is for 127.0.0.1.
	l.within(attacker, func(c *rtnl.Conn) error {
		if err := rtnl.WriteSysctl("net/ipv4/conf/all/route_localnet", "1"); err != nil {
			return err
		}
		links, err := c.Links()
		if err != nil {
			return err
		}
		var b rtnl.Batch
		b.DelAddr(rtnl.LoopbackIndex, netip.MustParsePrefix("127.0.0.1/8"))
		for _, x := range links {
			if x.Name == "eth0" {
				b.AddRoute(x.Index, netip.Prefix{}, netip.MustParseAddr("198.51.100.1"))
				b.AddRoute(x.Index, netip.MustParsePrefix("127.0.0.0/8"), netip.MustParseAddr("198.51.100.1"))
				b.AddRoute(x.Index, netip.Prefix{}, netip.MustParseAddr("2001:db8:2::1"))
			}
		}
		return c.Do(&b)
	})
	return l
}

// neighbour joins another namespace to the host by a link.
func (l *lab) neighbour(row, link, host4, host6, peer4, peer6 string) *os.File {
	l.t.Helper()
	err := rtnl.Enter(l.home, l.e.NetNS(), func(rt *rtnl.Conn) error {
		here, err := rtnl.Current()
		if err != nil {
			return err
		}
		defer here.Close()
		ns, err := rtnl.Spawn(here, func(ns *os.File, in *rtnl.Conn) error {
			var b rtnl.Batch
			b.AddVeth(rtnl.Veth{Name: link, Peer: "eth0", PeerNS: int(ns.Fd())})
			if err := rt.Do(&b); err != nil {
				return err
			}
			links, err := in.Links()
			if err != nil {
				return err
			}
			var c rtnl.Batch
			c.SetUp(rtnl.LoopbackIndex)
			for _, x := range links {
				if x.Name == "eth0" {
					c.SetUp(x.Index)
					c.AddAddr(x.Index, netip.MustParsePrefix(peer4))
					c.AddAddr(x.Index, netip.MustParsePrefix(peer6))
					c.Sync("eth0")
				}
			}
			return in.Do(&c)
		})
		if err != nil {
			return err
		}
		l.ns[row] = ns
		at, err := rt.LinkByName(link)
		if err != nil {
			return err
		}
		var b rtnl.Batch
		b.AddAddr(at.Index, netip.MustParsePrefix(host4))
		b.AddAddr(at.Index, netip.MustParsePrefix(host6))
		b.Sync(link)
		return rt.Do(&b)
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { l.ns[row].Close() })
	return l.ns[row]
}

func (l *lab) within(ns *os.File, fn func(c *rtnl.Conn) error) {
	l.t.Helper()
	if err := rtnl.Enter(l.home, ns, fn); err != nil {
		l.t.Fatal(err)
	}
}

// run runs a program in a namespace; forked by the thread that is inside.
func (l *lab) run(ns *os.File, name string, args ...string) (string, error) {
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := rtnl.Enter(l.home, ns, func(*rtnl.Conn) error { return cmd.Start() }); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

// serve runs the echo in a namespace of the world until the test ends.
func (l *lab) serve(row string, ports ...string) {
	l.t.Helper()
	l.begin(row, exec.Command(l.probe, append([]string{"serve"}, ports...)...))
}

// begin starts a program in a namespace and waits for its first word.
func (l *lab) begin(row string, cmd *exec.Cmd) {
	l.t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	l.within(l.ns[row], func(*rtnl.Conn) error { return cmd.Start() })
	l.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if _, err := out.Read(make([]byte, 16)); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) cli(args ...string) string {
	l.t.Helper()
	out, errOut, code, err := l.e.CLI(args...)
	if err != nil || code != 0 {
		l.t.Fatalf("%v: %d %v %s", args, code, err, errOut)
	}
	return strings.TrimSpace(out)
}

// container runs the echo in a container, as the actor of a row.
func (l *lab) container(row, name, network string, more ...string) {
	l.t.Helper()
	args := append([]string{"run", "-d", "--name", name, "--network", network}, more...)
	l.cli(append(args, "probe", "serve", "80", "81")...)
	i, err := l.e.Inspect(name)
	if err != nil {
		l.t.Fatal(err)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", i.State.Pid))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { ns.Close() })
	l.ns[row] = ns
	// The program listens when it says so.
	eventually(l.t, name, func() bool {
		out, _, _, err := l.e.CLI("logs", name)
		return err == nil && strings.Contains(out, "ready")
	})
}

// ask asks from a row's namespace, a container's too: so it works while no
// engine runs. The answers are by question, "-" for none.
func (l *lab) ask(row string, questions []string) map[string]string {
	l.t.Helper()
	out, err := l.run(l.ns[row], l.probe, append([]string{"ask"}, questions...)...)
	if err != nil {
		l.t.Errorf("%s asks: %v %s", row, err, out)
	}
	answers := map[string]string{}
	for line := range strings.Lines(out) {
		q, a, _ := strings.Cut(strings.TrimSpace(line), " ")
		answers[q] = a
	}
	return answers
}

// address of a container on a network; six for that of IPv6.
func (l *lab) address(name, network string, six bool) string {
	l.t.Helper()
	field := "IPAddress"
	if six {
		field = "GlobalIPv6Address"
	}
	return l.cli("inspect", "-f", fmt.Sprintf(`{{(index .NetworkSettings.Networks %q).%s}}`, network, field), name)
}

// table is one of docs/networks.md: what each row's actor reaches, by column.
type table struct {
	columns []string
	cells   map[string][]string
	rows    []string
}

// readTable finds the table below a heading.
func readTable(t *testing.T, heading string) table {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "networks.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, part, found := strings.Cut(string(text), heading+"\n")
	if !found {
		t.Fatalf("docs/networks.md has no heading %q", heading)
	}
	out := table{cells: map[string][]string{}}
	for line := range strings.Lines(part) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "## ") {
			break
		}
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|-") {
			if len(out.rows) > 0 {
				break
			}
			continue
		}
		f := strings.Split(strings.Trim(line, "|"), "|")
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		if out.columns == nil {
			out.columns = f[1:]
			continue
		}
		out.rows = append(out.rows, f[0])
		out.cells[f[0]] = f[1:]
	}
	if len(out.rows) == 0 {
		t.Fatalf("no table below %q", heading)
	}
	return out
}

// check asks everything of a table and compares. questions gives the words that
// belong to a cell, all of which must agree with it: "yes", or else none but
// those by "tcp" or to "127." alone.
func (l *lab) check(phase string, want table, questions func(row, column string) []string) {
	l.t.Helper()
	var all sync.WaitGroup
	for _, row := range want.rows {
		var words []string
		for _, column := range want.columns {
			words = append(words, questions(row, column)...)
		}
		all.Go(func() {
			got := l.ask(row, words)
			for i, column := range want.columns {
				cell := want.cells[row][i]
				for _, q := range questions(row, column) {
					wanted := cell == "yes" || cell == "tcp" && strings.HasPrefix(q, "tcp") || cell == "127" && strings.Contains(q, ",127.")
					if reached := got[q] != "-" && got[q] != ""; reached != wanted {
						l.t.Errorf("%s: from %s, %s (%s): answer %q, the table says %s", phase, row, column, q, got[q], cell)
					}
				}
			}
		})
	}
	all.Wait()
}

// both is a question by tcp and by udp.
func both(host string, port string) []string {
	a := net.JoinHostPort(host, port)
	return []string{"tcp," + a, "udp," + a}
}

// listen waits for UDP packets in a namespace; the function tells whom the next
// one comes from, "" for nobody.
func (l *lab) listen(row, addr string) func() string {
	l.t.Helper()
	var c net.PacketConn
	l.within(l.ns[row], func(*rtnl.Conn) (err error) {
		c, err = net.ListenPacket("udp4", addr)
		return err
	})
	l.t.Cleanup(func() { c.Close() })
	return func() string {
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, from, err := c.ReadFrom(make([]byte, 64))
		if err != nil {
			return ""
		}
		return netip.MustParseAddrPort(from.String()).Addr().String()
	}
}

// eventually waits for something that is under way.
func eventually(t testing.TB, what string, fn func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !fn(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what + ": still not")
		}
	}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// send sends one UDP packet from the calling thread's namespace.
func send(to, text string) error {
	c, err := net.Dial("udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(text))
	return err
}
