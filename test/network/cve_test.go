package network

import (
	"fmt"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/test/harness"
)

// TestCVE2024_29018: a container on internal networks sends no question of its
// name service outside.
func TestCVE2024_29018(t *testing.T) {
	l := newLab(t, harness.Options{Flags: []string{"--dns", neighbourAddr}})
	l.cli("network", "create", "--internal", "secret")
	l.cli("network", "create", "open")
	l.container("hidden", "hidden", "secret")
	l.container("plain", "plain", "open")
	arrived := l.listen("a neighbour on the LAN", ":53")
	// A question for secret.example, and for another name from a container that may ask.
	question := func(row, name string) {
		q := "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
		for label := range strings.SplitSeq(name, ".") {
			q += string(rune(len(label))) + label
		}
		q += "\x00\x00\x01\x00\x01"
		l.within(l.ns[row], func(*rtnl.Conn) error { return send("127.0.0.11:53", q) })
	}
	question("hidden", "secret.example")
	if from := arrived(); from != "" {
		t.Errorf("the internal container's question arrived, from %s", from)
	}
	question("plain", "open.example")
	if from := arrived(); from == "" {
		t.Error("not even a question that may be asked arrives")
	}
}

// TestCVE2020_13401 and its like of 2024: no container becomes the host's or a
// neighbour's router by router advertisements, and where a network has no IPv6
// there is none at all.
func TestCVE2020_13401_2024_32473(t *testing.T) {
	l := newLab(t, harness.Options{})
	l.cli("network", "create", "-o", "com.docker.network.bridge.name=four", "--subnet", "10.31.0.0/24", "app")
	l.cli("network", "create", "-o", "com.docker.network.bridge.name=both", "--ipv6", "--subnet", "fd00:32::/64", "dual")
	l.container("four", "aa", "app")
	l.container("six", "bb", "dual")
	read := func(row, path string) string {
		var v string
		l.within(l.ns[row], func(*rtnl.Conn) (err error) {
			v, err = rtnl.ReadSysctl("net/ipv6/conf/" + path)
			return err
		})
		return v
	}
	for _, c := range []struct{ row, path, want string }{
		{"the host", "four/disable_ipv6", "1"}, {"four", "eth0/disable_ipv6", "1"},
		{"the host", "both/accept_ra", "0"}, {"six", "eth0/accept_ra", "0"}, {"six", "eth0/disable_ipv6", "0"},
	} {
		if got := read(c.row, c.path); got != c.want {
			t.Errorf("%s: %s is %s, want %s", c.row, c.path, got, c.want)
		}
	}
	for row, want := range map[string]bool{"four": false, "six": true} {
		l.within(l.ns[row], func(c *rtnl.Conn) error {
			addrs, err := c.Addrs()
			six := false
			for _, a := range addrs {
				six = six || a.Link != rtnl.LoopbackIndex && a.Prefix.Addr().Is6()
			}
			if six != want {
				t.Errorf("%s has IPv6 addresses: %v, want %v: %v", row, six, want, addrs)
			}
			return err
		})
	}
}

// TestCVE2025_54388_54410: a reload of the host's rules opens neither a port
// that is published on the loopback alone nor the way between networks, not
// for a moment: from Linux 6.9 on the engine's table outlives the flush.
func TestCVE2025_54388_54410(t *testing.T) {
	l := newLab(t, harness.Options{})
	l.settle(false)
	web := l.address("web", "app", false)
	stop := make(chan struct{})
	leaks := make(chan []string)
	go func() { // asks all the time
		var seen []string
		for {
			select {
			case <-stop:
				leaks <- seen
				return
			default:
			}
			for row, q := range map[string][]string{
				"an attacker on the LAN":         {"udp,127.0.0.1:9090", "udp," + hostAddr + ":9090", "udp," + web + ":80"},
				"a container on another network": {"udp," + web + ":80", "udp," + web + ":81"},
			} {
				for q, answer := range l.ask(row, q) {
					if answer != "-" {
						seen = append(seen, fmt.Sprintf("%s by %s: %s", row, q, answer))
					}
				}
			}
		}
	}()
	for range 10 {
		l.reload("flush ruleset")
		l.reload(firewalld)
	}
	close(stop)
	for _, s := range <-leaks {
		t.Error(s)
	}
	l.reload("flush ruleset")
}

// TestCVE2020_8558: what a container sends for the host's loopback by the way of
// its bridge, on which route_localnet is on, does not arrive.
func TestCVE2020_8558(t *testing.T) {
	l := newLab(t, harness.Options{})
	l.cli("network", "create", "--subnet", "10.31.0.0/24", "app")
	l.container("hostile", "box", "app", "--cap-add", "NET_ADMIN", "-p", "127.0.0.1:9090:80")
	l.serve("the host", "7001")
	l.within(l.ns["hostile"], func(c *rtnl.Conn) error {
		if err := rtnl.WriteSysctl("net/ipv4/conf/all/route_localnet", "1"); err != nil {
			return err
		}
		links, err := c.Links()
		if err != nil {
			return err
		}
		var b rtnl.Batch
		b.DelAddr(rtnl.LoopbackIndex, prefix("127.0.0.1/8"))
		for _, x := range links {
			if x.Name == "eth0" {
				b.AddRoute(x.Index, prefix("127.0.0.0/8"), prefix("10.31.0.1/32").Addr())
			}
		}
		return c.Do(&b)
	})
	for q, answer := range l.ask("hostile", append(both("127.0.0.1", "7001"), both("127.0.0.1", "9090")...)) {
		if answer != "-" {
			t.Errorf("%s answers %s", q, answer)
		}
	}
	for q, answer := range l.ask("hostile", both("10.31.0.1", "7001")) { // the service is there
		if answer == "-" {
			t.Errorf("%s does not answer", q)
		}
	}
}
