package scope

import (
	"fmt"
	"os"
	"testing"
)

func TestScope(t *testing.T) {
	for in, want := range map[string]string{
		"system.slice:wherry:abc":  "wherry-abc.scope /system.slice/wherry-abc.scope",
		":wherry:abc":              "wherry-abc.scope /system.slice/wherry-abc.scope",
		"user-1000-x.slice:w:abc":  "w-abc.scope /user.slice/user-1000.slice/user-1000-x.slice/w-abc.scope",
		"-.slice::abc":             "abc.scope /abc.scope",
		"/docker/abc":              "error",
		"a--b.slice:x:abc":         "error",
		"system:x:abc":             "error",
		"system.slice:x:":          "error",
		"system.slice:../x:abc":    "error",
		"system.slice:x:abc:extra": "error",
	} {
		u, err := Parse(in)
		got := u.Name + " " + u.Path
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestHolder(t *testing.T) {
	h, err := NewHolder()
	if err != nil {
		t.Fatal(err)
	}
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", h.PID)); err != nil || len(name) == 0 {
		t.Errorf("%q, %v", name, err)
	}
	h.Leave()
	h.Leave()
	if h.cmd.ProcessState == nil || !h.cmd.ProcessState.Success() {
		t.Errorf("%v", h.cmd.ProcessState)
	}
}

func TestCPUWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 0, 1: 1, 2: 1, 512: 59, 1024: 100, 2048: 174, 262144: 10000, 1 << 30: 10000} {
		if got := CPUWeight(shares); got != want {
			t.Errorf("%d shares: weight %d, want %d", shares, got, want)
		}
	}
	for w, want := range map[uint16]uint64{10: 1, 500: 4950, 1000: 10000} {
		if got := IOWeight(w); got != want {
			t.Errorf("weight %d: %d, want %d", w, got, want)
		}
	}
}

func TestBitmask(t *testing.T) {
	if m, err := bitmask("0-2,9"); err != nil || len(m) != 2 || m[0] != 7 || m[1] != 2 {
		t.Errorf("%v, %v", m, err)
	}
}
