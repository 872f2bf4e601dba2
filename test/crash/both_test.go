package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestBothKilled ends the engine and its keeper with SIGKILL. Nobody can know
// any more what the containers say and how they end: the next engine ends
// them, says so, and starts again what has a policy that wants it.
func TestBothKilled(t *testing.T) {
	harness.Require(t, "busybox", "runc")
	e := harness.Run(t, harness.Options{Flags: []string{"--add-runtime", "other=runc"}})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	cli := func(args ...string) string {
		t.Helper()
		out, errOut, code, err := e.CLI(args...)
		if err != nil || code != 0 {
			t.Fatalf("wherry %s: %d %s %v", strings.Join(args, " "), code, errOut, err)
		}
		return out
	}
	boxes := map[string][]string{
		"plain": nil, "frozen": nil, "runc-box": {"--runtime", "other"},
		"always": {"--restart", "always"}, "removed": {"--rm"},
	}
	pids := map[string]int{}
	for name, flags := range boxes {
		cli(append(append([]string{"run", "-d", "--name", name}, flags...), "busybox", "sleep", "1000")...)
		in, err := e.Inspect(name)
		if err != nil {
			t.Fatal(err)
		}
		pids[name] = in.State.Pid
	}
	cli("pause", "frozen")
	e.Kill()
	keepers := 0
	for _, p := range e.Processes() {
		if !strings.Contains(p, " wherry-keeper ") {
			continue
		}
		pid, err := strconv.Atoi(strings.Fields(p)[0])
		if err != nil {
			t.Fatalf("%q: %v", p, err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		keepers++
	}
	if keepers == 0 {
		t.Fatal("no keeper was found")
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"plain", "frozen", "runc-box"} {
		in, err := e.Inspect(name)
		if err != nil {
			t.Fatal(err)
		}
		if in.State.Running || in.State.Paused || in.State.Status != "exited" || in.State.ExitCode != 255 {
			t.Errorf("%s: %+v, want exited with 255", name, in.State)
		}
		if why := cli("why", name); !strings.Contains(why, "both been killed") {
			t.Errorf("why %s: %s", name, why)
		}
		// One that ended may wait for the host's init to be reaped.
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pids[name])); err == nil && strings.Contains(string(stat), " (sleep) ") && !strings.Contains(string(stat), " (sleep) Z ") {
			t.Errorf("the process of %s goes on", name)
		}
		cli("start", name)
		if out := cli("exec", name, "echo", "again"); out != "again\n" {
			t.Errorf("%s: exec after a new start: %q", name, out)
		}
	}
	if _, errOut, code, err := e.CLI("wait", "removed"); err != nil || code == 0 && !strings.Contains(errOut, "No such container") {
		t.Errorf("the container with --rm is there: %d %s %v", code, errOut, err)
	}
	// The start by its policy is an event, past or to come.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://engine/events?since=1&filters="+url.QueryEscape(`{"container":["always"],"event":["start"]}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := e.HTTP().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var event struct{ Action string }
	if err := json.NewDecoder(resp.Body).Decode(&event); err != nil || event.Action != "start" {
		t.Fatalf("not started again: %+v %v", event, err)
	}
	if in, err := e.Inspect("always"); err != nil || !in.State.Running || in.State.Pid == pids["always"] {
		t.Errorf("always: %+v %v", in, err)
	}
	for name := range boxes {
		if name != "removed" {
			cli("rm", "-f", name)
		}
	}
}
