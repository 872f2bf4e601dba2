package firewall

import (
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/nft"
	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/internal/network/spec"
	"github.com/wherry-engine/wherry/test/promise"
)

var update = flag.Bool("update", false, "write the golden files")

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr    { return netip.MustParseAddr(s) }

func four(subnet string, masquerade bool) [2]Stack {
	return [2]Stack{{Subnet: pfx(subnet), Masquerade: masquerade, Mode: spec.NAT}, {}}
}

func dual(subnet, subnet6 string, mode spec.Mode) [2]Stack {
	masquerade := mode == spec.NAT || mode == spec.Unprotected
	return [2]Stack{{Subnet: pfx(subnet), Masquerade: masquerade, Mode: mode}, {Subnet: pfx(subnet6), Masquerade: masquerade, Mode: mode}}
}

var states = map[string]State{
	"empty":            {},
	"default":          {LocalPublish: true, CloseForward: [2]bool{true, true}, Networks: []Network{{Bridge: "wherry0", Stacks: four("172.17.0.0/16", true), ICC: true}}},
	"no_local_publish": {Accept: nft.Mark{Value: 7, Mask: 1<<32 - 1}, Networks: []Network{{Bridge: "wherry0", Stacks: four("172.17.0.0/16", true)}}},
	"several": {
		LocalPublish: true,
		Networks: []Network{
			{Bridge: "wherry0", Stacks: four("172.17.0.0/16", true), ICC: true},
			{Bridge: "br-0123456789ab", Stacks: four("172.18.0.0/16", true), ICC: true},
			{Bridge: "br-internal", Stacks: four("192.168.16.0/20", false), ICC: true, Internal: true},
			{Bridge: "br-plain", Stacks: four("10.9.0.0/24", false)},
			{Bridge: "br-plain", Stacks: four("10.10.0.0/24", true), ICC: true}, // a bridge belongs to one
			{Bridge: "b@ñ", Stacks: four("10.11.0.0/24", true), ICC: true},
		},
		Publications: []Publication{
			{Proto: "tcp", HostPort: 8080, IP: ip("172.17.0.2"), Port: 80},
			{Proto: "udp", HostIP: ip("0.0.0.0"), HostPort: 53, IP: ip("172.18.0.2"), Port: 5353},
			{Proto: "tcp", HostIP: ip("127.0.0.1"), HostPort: 8080, IP: ip("172.18.0.3"), Port: 80},
			{Proto: "sctp", HostIP: ip("192.0.2.7"), HostPort: 9, IP: ip("172.18.0.3"), Port: 9},
			{Proto: "udp", From: ip("10.9.0.2"), IP: ip("10.9.0.3"), Port: 53},
		},
	},
	"dual": {
		LocalPublish: true, CloseForward: [2]bool{false, true}, Accept: nft.Mark{Value: 1, Mask: 3},
		Networks: []Network{
			{Bridge: "br-nat", Stacks: dual("10.1.0.0/24", "fd00:1::/64", spec.NAT), ICC: true, Trusted: []string{"eth1", "wg0"}},
			{Bridge: "br-open", Stacks: dual("10.2.0.0/24", "fd00:2::/64", spec.Unprotected), ICC: true},
			{Bridge: "br-routed", Stacks: dual("10.3.0.0/24", "fd00:3::/64", spec.Routed), ICC: true},
			{Bridge: "br-snat", ICC: true, Stacks: [2]Stack{
				{Subnet: pfx("10.4.0.0/24"), Mode: spec.NAT, Masquerade: true, Source: ip("192.0.2.9")},
				{Subnet: pfx("fd00:4::/64"), Mode: spec.NAT, Masquerade: true, Source: ip("2001:db8::9")},
			}},
		},
		Publications: []Publication{
			{Proto: "tcp", HostIP: ip("::"), HostPort: 8080, IP: ip("fd00:1::2"), Port: 80},
			{Proto: "tcp", HostIP: ip("2001:db8::1"), HostPort: 8081, IP: ip("fd00:1::2"), Port: 80},
			{Proto: "tcp", IP: ip("10.3.0.2"), Port: 80},
			{Proto: "udp", IP: ip("fd00:3::2"), Port: 53},
		},
	},
}

func TestPlan(t *testing.T) {
	for name, s := range states {
		t.Run(name, func(t *testing.T) {
			got := Plan(s).String()
			file := filepath.Join("testdata", name+".nft")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("%s (-want +got):\n%s", file, d)
			}
		})
	}
}

// TestKernelAgrees applies every plan through netlink and, in a second
// namespace, its text through the nft program: the kernel must show the same.
func TestKernelAgrees(t *testing.T) {
	promise.Root(t)
	tool := promise.Program(t, "nft")
	// This goroutine's thread is never given back: it ends with the test.
	runtime.LockOSThread()
	home, err := rtnl.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	for name, s := range states {
		plan := Plan(s)
		netlink := inNew(t, func(ns *os.File) {
			c, err := nft.Dial(ns)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for range 2 { // idempotent
				if err := c.Replace(plan); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
			bare := s
			bare.Publications = nil
			if err := c.Replace(Plan(bare)); err != nil {
				t.Fatal(err)
			}
			if err := c.Update(plan, Publish(s.Publications, nil)); err != nil {
				t.Fatalf("%s: publish: %v", name, err)
			}
			if len(s.Publications) > 0 {
				if err := c.Update(plan, Publish(s.Publications[:1], s.Publications[:1])); err != nil {
					t.Fatalf("%s: publish again: %v", name, err)
				}
			}
		}, tool, "list", "ruleset")
		text := inNew(t, func(*os.File) {
			cmd := exec.Command(tool, "-f", "-")
			cmd.Stdin = strings.NewReader(plan.String())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: nft -f: %v\n%s\n%s", name, err, out, plan)
			}
		}, tool, "list", "ruleset")
		if d := cmp.Diff(text, netlink); d != "" {
			t.Errorf("%s (-text +netlink):\n%s", name, d)
		}
		if !strings.Contains(netlink, "chain guard") {
			t.Errorf("%s: the kernel has no table: %s", name, netlink)
		}
	}
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

// inNew moves the thread to a new namespace, runs fn and then a program there,
// and returns the program's output without what differs by chance.
func inNew(t *testing.T, fn func(ns *os.File), argv ...string) string {
	t.Helper()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	ns, err := rtnl.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	fn(ns)
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	// Elements of hash sets come in the order of a random seed, chains in that in
	// which they were made.
	text := regexp.MustCompile(`(?s)elements = \{.*?\}`).ReplaceAllStringFunc(string(out), func(s string) string {
		f := strings.FieldsFunc(strings.Trim(strings.TrimPrefix(s, "elements = "), "{}"), func(r rune) bool { return r == ',' || r == '\n' })
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		slices.Sort(f)
		return "elements = {" + strings.Join(f, ", ") + "}"
	})
	parts := strings.Split(strings.TrimSuffix(text, "\t}\n}\n"), "\t}\n\n")
	slices.Sort(parts[1:])
	return strings.Join(parts, "\t}\n\n")
}
