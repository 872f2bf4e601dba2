package network

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/promise"
)

// TestOlderTables: what iptables-legacy has put beside nftables is told of.
func TestOlderTables(t *testing.T) { fresh(t, func() { olderTables(t) }) }

func olderTables(t *testing.T) {
	for _, p := range []string{"iptables-legacy", "ip6tables-legacy"} {
		promise.Program(t, p)
	}
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
	}
	if out, err := exec.Command("iptables-legacy", "-t", "raw", "-L").CombinedOutput(); err != nil {
		promise.Lacks(t, "ip_tables", fmt.Errorf("%w: %s", err, out)) // a kernel without the older interface
	}
	log := logged(t)
	m, err := Open(context.Background(), proxied(t))
	if err != nil {
		t.Fatal(err)
	}
	warnings := func(want ...string) {
		t.Helper()
		for i := range want {
			want[i] += ", beside nftables; it may drop what published ports and containers send"
		}
		if w := m.Warnings(); !slices.Equal(w, want) {
			t.Errorf("warnings %q, want %q", w, want)
		}
	}
	warnings()
	run("iptables-legacy", "-L") // the table is there, and empty
	run("iptables-legacy", "-A", "INPUT", "-j", "DROP")
	warnings()
	run("iptables-legacy", "-A", "FORWARD", "-p", "tcp", "-m", "tcp", "--dport", "80", "-j", "REJECT")
	warnings("iptables-legacy: chain FORWARD has rules")
	run("ip6tables-legacy", "-P", "FORWARD", "DROP")
	warnings("iptables-legacy: chain FORWARD has rules", "ip6tables-legacy: chain FORWARD has the policy DROP")
	if text := log(); strings.Contains(text, "tables-legacy") {
		t.Errorf("logged before anybody looked: %q", text)
	}
	// An engine that starts says so, once.
	if err := m.Close(false); err != nil {
		t.Fatal(err)
	}
	m = open(t, proxied(t))
	if err := m.ports.pass(); err != nil {
		t.Fatal(err)
	}
	if text := log(); strings.Count(text, "iptables-legacy: chain FORWARD has rules") != 1 || strings.Count(text, "ip6tables-legacy: chain FORWARD has the policy DROP") != 1 {
		t.Errorf("logged %q", text)
	}
	run("iptables-legacy", "-F", "FORWARD")
	run("ip6tables-legacy", "-P", "FORWARD", "ACCEPT")
	warnings()
}

// TestOwnedGate: a firewall that lets nobody into its table keeps no engine
// from starting, and is told of.
func TestOwnedGate(t *testing.T) { fresh(t, func() { ownedGate(t) }) }

func ownedGate(t *testing.T) {
	promise.Program(t, "nft")
	firewall := exec.Command("nft", "-i")
	in, err := firewall.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := firewall.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := firewall.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); firewall.Wait() }()
	if _, err := io.WriteString(in, "add table inet firewalld { flags owner; chain filter_FORWARD { type filter hook forward priority 10; policy accept; reject; }; }\nlist tables\n"); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "table inet firewalld") {
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	log := logged(t)
	m := open(t, proxied(t))
	const want = "let containers pass chain filter_FORWARD of nft table firewalld: operation not permitted: another process owns the table (firewalld does not with NftablesTableOwner=no); published ports and containers' traffic pass only as far as its rules accept them"
	if w := m.Warnings(); len(w) != 1 || w[0] != want {
		t.Errorf("warnings %q", w)
	}
	if err := m.ports.pass(); err != nil {
		t.Fatal(err)
	}
	if text := log(); strings.Count(text, want) != 1 {
		t.Errorf("logged %q", text)
	}
	if _, err := io.WriteString(in, "delete table inet firewalld\n"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the warning to go", func() bool { return len(m.Warnings()) == 0 })
}
