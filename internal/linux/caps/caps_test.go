package caps

import (
	"slices"
	"testing"
)

func TestSets(t *testing.T) {
	s, unknown := Of([]string{"CAP_KILL", "CAP_CHOWN", "CAP_NOPE"})
	if s != 1<<5|1 || !slices.Equal(unknown, []string{"CAP_NOPE"}) {
		t.Fatal(s, unknown)
	}
	if got := s.Names(); !slices.Equal(got, []string{"CAP_CHOWN", "CAP_KILL"}) {
		t.Fatal(got)
	}
	// Numbers of the kernel's header, by hand.
	for name, n := range map[string]int{"CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24, "CAP_SETFCAP": 31, "CAP_CHECKPOINT_RESTORE": 40} {
		if Number(name) != n || Name(n) != name {
			t.Errorf("%s is %d", name, Number(name))
		}
	}
	if Number("CAP_NOPE") != -1 || Name(63) != "" {
		t.Fatal("unknown names")
	}
}

func TestCurrent(t *testing.T) {
	permitted, effective, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	if effective&^permitted != 0 {
		t.Fatalf("effective %x beyond permitted %x (bounding %x)", effective, permitted, Bounding())
	}
}
