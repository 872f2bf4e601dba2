package acceptance

import (
	"fmt"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestIdleMemory: 200 idle containers cost the engine, daemon and keeper
// together, at most 200 KB each.
func TestIdleMemory(t *testing.T) {
	harness.Require(t, "busybox")
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	const (
		n     = 200
		limit = 200 << 10
	)
	start(t, e, "first", "sleep", "10000") // the keeper is there from now on
	base, _, _ := e.Memory()
	for i := range n {
		start(t, e, fmt.Sprint("idle", i), "sleep", "10000")
	}
	// What the starts have used comes back when the collector has run and the
	// kernel was told; nothing says when.
	var each int64
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Second) {
		pss, _, processes := e.Memory()
		if each = (pss - base) / n; each <= limit {
			t.Logf("%d KB for each of %d idle containers; %d processes, %d KB before them", each>>10, n, processes, base>>10)
			return
		}
	}
	t.Errorf("%d KB for each idle container, want at most %d", each>>10, limit>>10)
}

// start creates and starts a container of busybox.
func start(t *testing.T, e *harness.Engine, name string, cmd ...string) {
	t.Helper()
	code, body, err := e.API("POST", "/containers/create?name="+name, map[string]any{"Image": "busybox", "Cmd": cmd})
	if err != nil || code != 201 {
		t.Fatalf("create %s: %d %s %v", name, code, body, err)
	}
	if code, body, err = e.API("POST", "/containers/"+name+"/start", nil); err != nil || code != 204 {
		t.Fatalf("start %s: %d %s %v", name, code, body, err)
	}
}
