package acceptance

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestExecsCutOff: 1,000 execs whose clients close the connection without a
// word leave nothing behind: no process, no exec, no descriptor. What reads its
// input ends with it; the others are killed because they asked for it.
func TestExecsCutOff(t *testing.T) {
	harness.Require(t, "busybox")
	const n, at = 1000, 10 // execs, at once
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	start(t, e, "box", "sleep", "10000")
	kinds := []map[string]any{
		{"Cmd": []string{"cat"}, "AttachStdin": true},
		{"Cmd": []string{"sleep", "1000"}, "KillOnDisconnect": true},
		{"Cmd": []string{"sh"}, "AttachStdin": true, "Tty": true, "KillOnDisconnect": true},
		{"Cmd": []string{"sh", "-c", "sleep 1000 & sleep 1000 & wait"}, "KillOnDisconnect": true},
	}
	cut := func(i int) error {
		request := maps.Clone(kinds[i%len(kinds)])
		request["AttachStdout"], request["AttachStderr"] = true, true
		code, body, err := e.API("POST", "/containers/box/exec", request)
		if err != nil || code != 201 {
			return unexpected("create", code, body, err)
		}
		var made struct{ ID string }
		if err := json.Unmarshal(body, &made); err != nil {
			return err
		}
		conn, err := net.Dial("unix", e.Socket())
		if err != nil {
			return err
		}
		defer conn.Close()
		tty := request["Tty"] == true
		options := fmt.Sprintf(`{"Tty":%v}`, tty)
		fmt.Fprintf(conn, "POST /exec/%s/start HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s", made.ID, len(options), upgrade, options)
		head, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return fmt.Errorf("start: %w", err)
		}
		if head.StatusCode != 101 {
			return fmt.Errorf("start: %v", head)
		}
		return nil
	}
	if err := cut(0); err != nil { // whatever is made once is there from now on
		t.Fatal(err)
	}
	left := func() (descriptors, processes int, execs []string) {
		in, err := e.Inspect("box")
		if err != nil {
			t.Fatal(err)
		}
		var top struct{ Processes [][]string }
		if err := e.GetJSON("/containers/box/top", &top); err != nil {
			t.Fatal(err)
		}
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", e.PID()))
		if err != nil {
			t.Fatal(err)
		}
		return len(list), len(top.Processes), in.ExecIDs
	}
	settled := func(base int) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for {
			fds, processes, execs := left()
			if processes == 1 && len(execs) == 0 && (base == 0 || fds <= base) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("left over: %d descriptors (%d before), %d processes (1 before), execs %s", fds, base, processes, strings.Join(execs, " "))
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	settled(0)
	base, _, _ := left()
	var wg sync.WaitGroup
	for worker := range at {
		wg.Go(func() {
			for i := worker; i < n; i += at {
				if err := cut(i); err != nil {
					t.Errorf("exec %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	settled(base + 2) // one for the listing itself, one for a connection that is being closed
}
