package lifecycle

import (
	"fmt"
	"os"
	"strings"
	"testing"

	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/linux/cgroup"
	"github.com/wherry-engine/wherry/test/promise"
)

// TestReleaseBeforeRestart: the group of a run that has ended is removed behind its
// end, and a start that comes first, as that of a restart may, has one of its own
// that the removal leaves alone.
func TestReleaseBeforeRestart(t *testing.T) {
	promise.Root(t)
	groups, err := cgroup.Probe()
	if err != nil {
		promise.Lacks(t, "cgroup", err)
	}
	parent := fmt.Sprintf("/wherry-lifecycle-%d", os.Getpid())
	c := &container.Container{Record: container.Record{
		ID: strings.Repeat("a", 64), HostConfig: &apicontainer.HostConfig{}, CgroupPath: parent + "/one",
	}}
	l := &launcher{&parts{cgroups: groups}}
	t.Cleanup(func() {
		if err := groups.Clean(""); err != nil {
			t.Error(err)
		}
	})
	if _, _, err := groups.Create(c.CgroupPath, nil); err != nil {
		t.Fatal(err)
	}
	var behind []func()
	later := func(f func()) { behind = append(behind, f) }
	l.releaseRun(c, later)
	again, _, err := groups.Create(c.CgroupPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range behind {
		f()
	}
	if _, err := groups.Open(c.CgroupPath); err != nil {
		t.Errorf("the group of the second run: %v", err)
	}
	for _, at := range again.Controllers() {
		if _, err := os.Stat(at.Dir); err != nil {
			t.Error(err)
		}
	}
	behind = nil
	l.releaseRun(c, later)
	for _, f := range behind {
		f()
	}
	if _, err := groups.Open(c.CgroupPath); err == nil {
		t.Error("the group of the second run is left")
	}
}
