package network

import (
	"fmt"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

const matrix = "## Who reaches what"

// Columns of the table.
const (
	published = "published port"
	loopback  = "port published on 127.0.0.1"
	direct    = "container's published port, at its own address"
	other     = "container's other ports"
	internal  = "container on an internal network"
	outside   = "the LAN"
)

// Host rule sets as ufw and firewalld write them: everything is dropped or
// rejected that is not accepted, also what is forwarded.
const (
	ufw = `
flush ruleset
table ip filter {
	chain INPUT { type filter hook input priority filter; policy drop; jump ufw-before-input; }
	chain FORWARD { type filter hook forward priority filter; policy drop; jump ufw-before-forward; }
	chain OUTPUT { type filter hook output priority filter; policy accept; }
	chain ufw-before-input { iifname "lo" accept; ct state related,established accept; ct state invalid drop; icmp type echo-request accept; jump ufw-user-input; }
	chain ufw-user-input { tcp dport 22 accept; }
	chain ufw-before-forward { ct state related,established accept; jump ufw-user-forward; }
	chain ufw-user-forward { }
}
table ip6 filter {
	chain INPUT { type filter hook input priority filter; policy drop; iifname "lo" accept; ct state related,established accept; meta l4proto ipv6-icmp accept; }
	chain FORWARD { type filter hook forward priority filter; policy drop; ct state related,established accept; }
	chain OUTPUT { type filter hook output priority filter; policy accept; }
}
`
	firewalld = `
flush ruleset
table inet firewalld {
	chain filter_PREROUTING { type filter hook prerouting priority filter + 10; policy accept; icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept; meta nfproto ipv6 fib saddr . mark . iif oif missing drop; }
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		iifname "lo" accept
		ct state invalid drop
		meta l4proto ipv6-icmp accept
		tcp dport 22 accept
		reject with icmpx admin-prohibited
	}
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		iifname "lo" accept
		ct state invalid drop
		reject with icmpx admin-prohibited
	}
	chain filter_OUTPUT { type filter hook output priority filter + 10; policy accept; }
}
`
)

// settle builds the containers of the table.
func (l *lab) settle(six bool) {
	l.t.Helper()
	dual := func(name, subnet, subnet6 string, more ...string) {
		args := append([]string{"network", "create", "--subnet", subnet}, more...)
		if six {
			args = append(args, "--ipv6", "--subnet", subnet6)
		}
		l.cli(append(args, name)...)
	}
	dual("app", "10.31.0.0/24", "fd00:31::/64")
	dual("elsewhere", "10.32.0.0/24", "fd00:32::/64")
	dual("secret", "10.33.0.0/24", "fd00:33::/64", "--internal")
	l.container("", "web", "app", "-p", "8080:80", "-p", "8080:80/udp", "-p", "127.0.0.1:9090:80", "-p", "127.0.0.1:9090:80/udp")
	l.container("", "hidden", "secret")
	l.container("a container on the same network", "same", "app")
	l.container("a container on another network", "stranger", "elsewhere")
	l.container("a container on an internal network", "recluse", "secret")
	l.serve("a neighbour on the LAN", "7000")
}

// questions gives the questions of the cells.
func (l *lab) questions(six bool) func(row, column string) []string {
	web, hidden := l.address("web", "app", false), l.address("hidden", "secret", false)
	var web6, hidden6 string
	if six {
		web6, hidden6 = l.address("web", "app", true), l.address("hidden", "secret", true)
	}
	pair := func(a4, a6, port string) []string {
		out := both(a4, port)
		if six {
			out = append(out, both(a6, port)...)
		}
		return out
	}
	return func(row, column string) []string {
		switch column {
		case published:
			if strings.HasSuffix(row, "internal network") { // has no other address of the host in sight
				return append(pair(hostAddr, hostAddr6, "8080"), pair("10.33.0.1", "fd00:33::1", "8080")...)
			}
			return pair(hostAddr, hostAddr6, "8080")
		case loopback:
			switch {
			case row == "the host":
				return both("127.0.0.1", "9090")
			case strings.HasPrefix(row, "an attacker"):
				return append(both("127.0.0.1", "9090"), both(hostAddr, "9090")...)
			}
			return append(both(hostAddr, "9090"), both("10.31.0.1", "9090")...)
		case direct:
			return pair(web, web6, "80")
		case other:
			return pair(web, web6, "81")
		case internal:
			return pair(hidden, hidden6, "80")
		case outside:
			return pair(neighbourAddr, neighbourAddr6, "7000")
		}
		l.t.Errorf("the table has a column %q that this test does not know", column)
		return nil
	}
}

// reload flushes the host's rules and loads others.
func (l *lab) reload(script string) {
	l.t.Helper()
	cmd := fmt.Sprintf("nft -f - <<'EOF'\n%s\nEOF\n", script)
	if out, err := l.run(l.e.NetNS(), "sh", "-c", cmd); err != nil {
		l.t.Fatalf("%v: %s", err, out)
	}
}

// TestMatrix is docs/networks.md's table before and after all that can happen to
// the rules.
func TestMatrix(t *testing.T) {
	l := newLab(t, harness.Options{})
	l.settle(true)
	want, q := readTable(t, matrix), l.questions(true)
	l.check("fresh", want, q)
	l.sources(q)
	l.reload(ufw)
	l.gates(2)
	l.check("after a reload of ufw's rules", want, q)
	l.reload(firewalld)
	l.gates(1)
	l.check("after a reload of firewalld's rules", want, q)
	if err := l.e.Restart(); err != nil {
		t.Fatal(err)
	}
	l.check("after a restart of the engine", want, q)
	l.e.Kill()
	l.check("while no engine runs", want, q)
	if err := l.e.Start(); err != nil {
		t.Fatal(err)
	}
	l.check("after kill -9", want, q)
	l.reload("flush ruleset")
	l.check("after a flush", want, q)
}

// gates waits until the forward chains of the host let containers pass.
func (l *lab) gates(n int) {
	l.t.Helper()
	eventually(l.t, "the host's forward chains", func() bool {
		out, err := l.run(l.e.NetNS(), "nft", "list", "ruleset")
		return err == nil && strings.Count(out, "jump wherry") == n
	})
}

// sources checks who the container thinks it talks to.
func (l *lab) sources(q func(row, column string) []string) {
	l.t.Helper()
	for row, want := range map[string][]string{"a neighbour on the LAN": {neighbourAddr, neighbourAddr6}, "an attacker on the LAN": {attackerAddr, "2001:db8:2::2"}} {
		for question, answer := range l.ask(row, q(row, published)) {
			if answer != want[0] && answer != want[1] {
				l.t.Errorf("%s arrives by %s as %s, want %v", row, question, answer, want)
			}
		}
	}
}

// TestHostPolicy: the host's rules decide who gets in and out, and what they
// decide changes with them.
func TestHostPolicy(t *testing.T) {
	l := newLab(t, harness.Options{Flags: []string{"--firewall-mode", "host-policy"}})
	l.settle(true)
	l.reload(ufw)
	const lan, inside = "a neighbour on the LAN", "a container on the same network"
	q := l.questions(true)
	reaches := func(row, column string) (yes, no int) {
		for _, answer := range l.ask(row, q(row, column)) {
			if answer == "-" {
				no++
			} else {
				yes++
			}
		}
		return yes, no
	}
	if yes, _ := reaches(lan, published); yes != 0 {
		t.Errorf("ufw drops, and %d of the published ports answer", yes)
	}
	if yes, _ := reaches(inside, outside); yes != 0 {
		t.Errorf("ufw forwards nothing, and %d get out", yes)
	}
	if _, no := reaches("the host", published); no != 0 {
		t.Errorf("the host itself is kept from %d ports", no)
	}
	l.reload("add rule ip filter ufw-user-input tcp dport 8080 accept; add rule ip filter ufw-user-input udp dport 8080 accept; insert rule ip6 filter INPUT meta l4proto { tcp, udp } th dport 8080 accept")
	l.reload(`add rule ip filter ufw-user-forward iifname "br-*" accept; insert rule ip6 filter FORWARD iifname "br-*" accept`)
	if _, no := reaches(lan, published); no != 0 {
		t.Errorf("ufw accepts, and %d of the published ports do not answer", no)
	}
	if _, no := reaches(inside, outside); no != 0 {
		t.Errorf("ufw forwards, and %d do not get out", no)
	}
	for _, column := range []string{direct, other, loopback, internal} {
		if yes, _ := reaches(lan, column); yes != 0 {
			t.Errorf("%s: %d answer", column, yes)
		}
	}
	if err := l.e.Restart(); err != nil {
		t.Fatal(err)
	}
	l.cli("ps") // waits until the containers are the new engine's
	for q, answer := range l.ask(lan, q(lan, published)) {
		if answer == "-" {
			t.Errorf("after a restart %s does not answer", q)
		}
	}
	l.reload("flush ruleset")
}

// TestDocker asks the table of Debian's docker.io. The cells in which it differs
// are listed here with the reason in docs/differences.md.
func TestDocker(t *testing.T) {
	harness.Require(t, "dockerd")
	l := newLab(t, harness.Options{Kind: harness.Docker})
	l.settle(false)
	want := readTable(t, matrix)
	for _, d := range []struct{ row, column, cell string }{
		{"an attacker on the LAN", direct, "yes"},
		{"an attacker on the LAN", loopback, "127"},
		{"a container on the same network", published, "tcp"},
		{"a container on another network", published, "tcp"},
	} {
		for i, c := range want.columns {
			if c == d.column {
				want.cells[d.row][i] = d.cell
			}
		}
	}
	l.check("docker.io", want, l.questions(false))
}

// TestSpoofed: a packet whose source is not of the container's network goes nowhere.
func TestSpoofed(t *testing.T) {
	l := newLab(t, harness.Options{})
	l.cli("network", "create", "--subnet", "10.31.0.0/24", "app")
	l.container("x", "box", "app", "--cap-add", "NET_RAW")
	arrived := l.listen("a neighbour on the LAN", ":7005")
	send := func(source string) {
		if _, errOut, code, err := l.e.CLI("exec", "box", "/probe", "spoof", source, neighbourAddr+":7005"); err != nil || code != 0 {
			t.Fatalf("%d %v %s", code, err, errOut)
		}
	}
	send("203.0.113.9")
	send("127.0.0.1")
	own := l.address("box", "app", false)
	send(own) // arrives, and shows that the others would have been seen before it
	if from := arrived(); from != hostAddr {
		t.Errorf("a packet from %q arrived", from)
	}
}
