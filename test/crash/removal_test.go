package crash

import (
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestRemovalInterrupted has the engine die while it removes containers: one that
// runs on, one that ended before its exit was recorded, one that has ended.
func TestRemovalInterrupted(t *testing.T) {
	e := start(t)
	pids := map[string]int{}
	for _, name := range []string{"runs", "ending", "ended"} {
		create(t, e, name, "busybox", "sleep", "1000")
		pids[name] = inspect(t, e, name).State.Pid
	}
	if code, body, err := e.API("POST", "/containers/ended/stop?t=0", nil); err != nil || code != 204 {
		t.Fatal(code, string(body), err)
	}
	e.Kill()
	for name := range pids {
		removing(t, e, name)
	}
	if err := syscall.Kill(pids["ending"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Until its keeper has reaped it, which tells the engine alone: it is dead.
	for deadline := time.Now().Add(10 * time.Second); processIs(pids["ending"], "sleep"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not end")
		}
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	var list []struct {
		Names []string
		State string
	}
	if err := e.GetJSON("/containers/json?all=1", &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].Names[0] != "/runs" || list[0].State != "running" {
		t.Errorf("there are %v", list)
	}
	if code, body, err := e.API("DELETE", "/containers/runs?force=1", nil); err != nil || code != 204 {
		t.Errorf("the one that runs: %d %s %v", code, body, err)
	}
}

// removing has a container's record say that it is being removed.
func removing(t *testing.T, e *harness.Engine, name string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(e.DataRoot(), "containers", "*", "*", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var record map[string]any
		if err := json.Unmarshal(b, &record); err != nil {
			t.Fatal(err)
		}
		if record["Name"] != name && record["Name"] != "/"+name {
			continue
		}
		record["State"].(map[string]any)["Removing"] = true
		if b, err = json.Marshal(record); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("no record of %s", name)
}
