package device

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func rule(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	r := specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Access: access}
	if major >= 0 {
		r.Major = &major
	}
	if minor >= 0 {
		r.Minor = &minor
	}
	return r
}

func TestParse(t *testing.T) {
	text := func(list ...specs.LinuxDeviceCgroup) string {
		d, err := Parse(list)
		if err != nil {
			return err.Error()
		}
		out := []string{"deny"}
		if d.Allow {
			out[0] = "allow"
		}
		for _, e := range d.Exceptions {
			out = append(out, e.String())
		}
		return strings.Join(out, "; ")
	}
	minus := int64(-7)
	deny, all := rule(false, "a", -1, -1, "rwm"), rule(true, "a", -1, -1, "rwm")
	for _, c := range []struct {
		got, want string
	}{
		{text(), "allow"},
		{text(all), "allow"},
		{text(deny), "deny"},
		{text(deny, rule(true, "c", 1, 3, "rwm"), all), "allow"},
		{text(deny, rule(true, "c", 1, 3, "r"), rule(true, "c", 1, 3, "wm")), "deny; c 1:3 mrw"},
		{text(deny, rule(true, "c", 1, 3, "rwm"), rule(false, "c", 1, 3, "w")), "deny; c 1:3 mr"},
		{text(deny, rule(true, "c", 1, 3, "rw"), rule(false, "c", 1, 3, "rw")), "deny"},
		{text(deny, rule(true, "b", 8, -1, "r"), rule(true, "c", -1, -1, "m")), "deny; b 8:* r; c *:* m"},
		{text(rule(false, "c", 1, 3, "w")), "allow; c 1:3 w"},
		{text(deny, rule(true, "p", 1, 3, "w")), "deny"},
		{text(rule(false, "c", -1, 3, "w")), "allow; c *:3 w"},
		{text(specs.LinuxDeviceCgroup{Type: "c", Major: &minus, Access: "w"}), "invalid device number -7:-1"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
	a, _ := Parse([]specs.LinuxDeviceCgroup{deny, rule(true, "c", 1, 3, "rwm"), rule(true, "c", 1, 5, "rwm")})
	b, _ := Parse([]specs.LinuxDeviceCgroup{deny, rule(true, "c", 1, 5, "mrw"), rule(true, "c", 1, 3, "rwm")})
	if a.Hash() != b.Hash() {
		t.Error("equal rules have two names")
	}
}
