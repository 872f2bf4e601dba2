package netfiles

import (
	"testing"

	"github.com/wherry-engine/wherry/internal/container"
)

func TestAmend(t *testing.T) {
	was := []byte("127.0.0.1\tlocalhost\n10.0.0.2\tbox\n")
	for _, c := range []struct {
		name, now, is, want string
		stale               []string
	}{
		{"one more", "127.0.0.1\tlocalhost\n10.0.0.2\tbox\n1.2.3.4\tmine\n", "127.0.0.1\tlocalhost\n10.0.0.2\tbox\n10.1.0.2\tbox\n", "127.0.0.1\tlocalhost\n10.0.0.2\tbox\n1.2.3.4\tmine\n10.1.0.2\tbox\n", nil},
		{"one less", "127.0.0.1\tlocalhost\n10.0.0.2\tbox\n1.2.3.4\tmine\n", "127.0.0.1\tlocalhost\n", "127.0.0.1\tlocalhost\n1.2.3.4\tmine\n", nil},
		{"taken out by its owner", "127.0.0.1\tlocalhost\n", "127.0.0.1\tlocalhost\n10.0.0.2\tbox\n", "127.0.0.1\tlocalhost\n", nil},
		{"unchanged", string(was), string(was), string(was), nil},
	} {
		if got := string(amend([]byte(c.now), was, []byte(c.is), c.stale)); got != c.want {
			t.Errorf("%s: %q, not %q", c.name, got, c.want)
		}
	}
}

// A container that a link leads to comes back with another address.
func TestAmendLink(t *testing.T) {
	is := []byte("127.0.0.1\tlocalhost\n10.0.0.9\tdb 0123 database\n")
	now := []byte("127.0.0.1\tlocalhost\n10.0.0.3\tdb 0123 database\n1.1.1.1\tdb\n")
	want := "127.0.0.1\tlocalhost\n1.1.1.1\tdb\n10.0.0.9\tdb 0123 database\n"
	if got := string(amend(now, is, is, []string{"db 0123 database"})); got != want {
		t.Errorf("%q, not %q", got, want)
	}
}

func TestParseLink(t *testing.T) {
	for in, want := range map[string][2]string{"db": {"db", "db"}, "db:d": {"db", "d"}, "/db:/web/d": {"db", "d"}} {
		name, alias, err := container.ParseLink(in)
		if err != nil || name != want[0] || alias != want[1] {
			t.Errorf("%s: %s %s %v", in, name, alias, err)
		}
	}
	for _, in := range []string{"", ":a", "a:", "a:b:c", "a:b/c", "a:b c"} {
		if _, _, err := container.ParseLink(in); err == nil {
			t.Errorf("%q was taken", in)
		}
	}
}
