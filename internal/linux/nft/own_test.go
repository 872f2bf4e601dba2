package nft

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/test/promise"
)

// TestOwned: a table that is owned outlives nft flush ruleset, and its owner.
func TestOwned(t *testing.T) {
	promise.Root(t)
	runtime.LockOSThread() // never given back: it ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	dial := func() *Conn {
		c, err := Dial(ns)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first, other := dial(), dial()
	defer other.Close()
	first.Own()
	plan := &Table{Name: "t", Sets: []Set{{Name: "s", Key: []Type{IfName}, Elements: []Element{{Key: []string{"lo"}}}}}}
	for range 2 {
		if err := first.Replace(plan); err != nil {
			t.Fatal(err)
		}
	}
	if !first.Owns() {
		t.Skip("this kernel has no owned tables that stay (Linux 6.9)")
	}
	there := func(want bool) {
		t.Helper()
		if is, err := other.Exists("t"); err != nil || is != want {
			t.Errorf("the table exists: %v, want %v (%v)", is, want, err)
		}
	}
	flush := func() {
		t.Helper()
		if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if _, err := exec.LookPath("nft"); err == nil {
		flush()
		there(true)
	}
	if err := other.Delete("t"); err == nil {
		t.Error("somebody else could delete the table")
	}
	if err := other.Replace(plan); err == nil {
		t.Error("somebody else could replace the table")
	}
	if err := first.Update(plan, []Change{{Set: "s", Add: []Element{{Key: []string{"eth0"}}}}}); err != nil {
		t.Error(err)
	}
	first.Close()
	there(true)
	second := dial()
	defer second.Close()
	second.Own()
	if err := second.Update(plan, []Change{{Set: "s", Remove: []Element{{Key: []string{"eth0"}}}}}); err != nil {
		t.Error("an orphan is not anybody's:", err)
	}
	if err := second.Replace(plan); err != nil {
		t.Fatal(err)
	}
	if err := other.Delete("t"); err == nil {
		t.Error("the table was not taken over")
	}
	if err := second.Delete("t"); err != nil {
		t.Error(err)
	}
	there(false)
}
