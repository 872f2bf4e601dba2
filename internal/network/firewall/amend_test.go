package firewall

import (
	"maps"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/nft"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/test/promise"
)

var handle = regexp.MustCompile(`table inet wherry \{ (?:#.*)?# handle (\d+)`)

// TestAmended goes from each plan to each other one: the kernel's table becomes
// the plan, by a change of the table that is there, never by another table.
func TestAmended(t *testing.T) {
	promise.Root(t)
	tool := promise.Program(t, "nft")
	runtime.LockOSThread() // never given back: the thread ends with the test
	home, err := rtnl.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	states := maps.Clone(states)
	// Subnets that end where others begin.
	for name, list := range map[string][]string{"first": {"172.17.0.0/16"}, "second": {"172.18.0.0/16"}, "all three": {"172.17.0.0/16", "172.18.0.0/16", "172.19.0.0/16"}} {
		var s State
		for _, subnet := range list {
			s.Networks = append(s.Networks, Network{Bridge: "br-" + subnet[4:6], Stacks: four(subnet, true)})
		}
		states[name] = s
	}
	names := slices.Sorted(maps.Keys(states))
	fresh := map[string]string{}
	for _, name := range names {
		fresh[name] = inNew(t, func(ns *os.File) { replace(t, ns, Plan(states[name])) }, tool, "list", "ruleset")
	}
	id := func() string {
		out, err := exec.Command(tool, "-a", "list", "ruleset").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		m := handle.FindSubmatch(out)
		if m == nil {
			t.Fatalf("no table with a handle: %s", out)
		}
		return string(m[1])
	}
	for _, from := range names {
		for _, to := range names {
			got := inNew(t, func(ns *os.File) {
				replace(t, ns, Plan(states[from]))
				before := id()
				replace(t, ns, Plan(states[to]))
				if after := id(); after != before {
					t.Errorf("from %s to %s: another table", from, to)
				}
			}, tool, "list", "ruleset")
			if d := cmp.Diff(fresh[to], got); d != "" {
				t.Errorf("from %s to %s (-want +got):\n%s", from, to, d)
			}
		}
	}
	// What somebody else did to the table is undone.
	for _, damage := range [][]string{
		{"flush", "chain", "inet", "wherry", "guard"},
		{"flush", "chain", "inet", "wherry", "from_br-plain"},
		{"flush", "map", "inet", "wherry", "from"},
		{"flush", "set", "inet", "wherry", "masqueraded"},
		{"insert", "rule", "inet", "wherry", "into_br-plain", "accept"},
		{"add", "chain", "inet", "wherry", "more"},
		{"add", "set", "inet", "wherry", "more", "{ type ifname; }"},
		{"delete", "element", "inet", "wherry", "published", "{ tcp . 8080 }"},
		{"add", "element", "inet", "wherry", "bridges", "{ eth7 }"},
	} {
		got := inNew(t, func(ns *os.File) {
			replace(t, ns, Plan(states["several"]))
			if out, err := exec.Command(tool, damage...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v %s", damage, err, out)
			}
			replace(t, ns, Plan(states["several"]))
		}, tool, "list", "ruleset")
		if d := cmp.Diff(fresh["several"], got); d != "" {
			t.Errorf("after %v (-want +got):\n%s", damage, d)
		}
	}
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

// replace writes a plan as an engine does that has just started.
func replace(t *testing.T, ns *os.File, plan *nft.Table) {
	t.Helper()
	c, err := nft.Dial(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Replace(plan); err != nil {
		t.Fatal(err)
	}
}
