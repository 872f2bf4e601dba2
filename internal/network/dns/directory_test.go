package dns

import (
	"net/netip"
	"testing"
)

func TestDirectory(t *testing.T) {
	var d Directory
	a, b := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	d.Add([]string{"Web", "app"}, a)
	d.Add([]string{"db", "app"}, b)
	if got := d.Lookup("app"); len(got) != 2 {
		t.Errorf("app: %v", got)
	}
	if got := d.Lookup("web"); len(got) != 1 || got[0] != a || d.Name(a) != "Web" {
		t.Errorf("web: %v %q", got, d.Name(a))
	}
	d.Remove(a)
	if got := d.Lookup("app"); len(got) != 1 || got[0] != b {
		t.Errorf("app: %v", got)
	}
	if d.Lookup("web") != nil || d.Name(a) != "" || len(d.names) != 2 {
		t.Errorf("left: %v %v", d.names, d.addrs)
	}
}

func TestReverseAddr(t *testing.T) {
	for name, want := range map[string]string{
		"2.0.17.172.in-addr.arpa.": "172.17.0.2",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.B.D.0.1.0.0.2.ip6.arpa.": "2001:db8::1",
		"0.17.172.in-addr.arpa.":     "",
		"300.0.17.172.in-addr.arpa.": "",
		"1.0.ip6.arpa.":              "",
		"example.":                   "",
	} {
		a, ok := reverseAddr(name)
		if ok != (want != "") || ok && a.String() != want {
			t.Errorf("%s: %s %t", name, a, ok)
		}
	}
}

func FuzzReverseAddr(f *testing.F) {
	f.Add("2.0.17.172.in-addr.arpa.")
	f.Fuzz(func(t *testing.T, s string) {
		if a, ok := reverseAddr(s); ok && !a.IsValid() {
			t.Errorf("%q: accepted without an address", s)
		}
	})
}
