package acceptance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestUpdateUnwritten: limits that cannot be put on record are not brought into
// force either, and the next update finds all as it was.
func TestUpdateUnwritten(t *testing.T) {
	harness.Require(t, "busybox")
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	cli := func(args ...string) (string, string, int) {
		t.Helper()
		out, errOut, code, err := e.CLI(args...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out), errOut, code
	}
	id, errOut, code := cli("run", "-d", "--name", "up", "--memory", "64m", "busybox", "sleep", "1000")
	if code != 0 {
		t.Fatal(errOut)
	}
	in, err := e.Inspect(id)
	if err != nil {
		t.Fatal(err)
	}
	k := kernel{t, groups(t, in.State.Pid)}
	limits := func() string {
		if k.v2() {
			return k.read("", "memory.max") + " " + k.read("", "pids.max") + " " + k.read("", "cpu.max")
		}
		return k.read("memory", "memory.limit_in_bytes") + " " + k.read("pids", "pids.max") + " " + k.read("cpu", "cpu.cfs_quota_us")
	}
	before := limits()
	dirs, err := filepath.Glob(filepath.Join(e.Dir, "*", "containers", "*", id))
	if err != nil || len(dirs) != 1 {
		t.Fatal(dirs, err)
	}
	change := []string{"update", "--memory", "96m", "--memory-swap", "192m", "--pids-limit", "55", "--cpus", "0.5", "up"}
	// As a full disk does: the record finds no room.
	if err := os.Rename(dirs[0], dirs[0]+"x"); err != nil {
		t.Fatal(err)
	}
	_, errOut, code = cli(change...)
	if err := os.Rename(dirs[0]+"x", dirs[0]); err != nil {
		t.Fatal(err)
	}
	if code == 0 || !strings.Contains(errOut, "Cannot update container "+id) {
		t.Errorf("an update that cannot be written: %d %q", code, errOut)
	}
	if now := limits(); now != before {
		t.Errorf("limits %q, before %q", now, before)
	}
	if out, _, _ := cli("inspect", "--format", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}", "up"); out != "67108864 0" {
		t.Errorf("shown as %q", out)
	}
	if _, errOut, code = cli(change...); code != 0 || limits() == before {
		t.Errorf("the same with room for it: %d %q, limits %q", code, errOut, limits())
	}
}
