package acceptance

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestThousand: 1,000 containers on one bridge, each answering an exec. What
// one costs the daemon does not grow with how many there are, and nothing is
// left of them; the kernel's time for links and namespaces counts as the daemon's.
func TestThousand(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	harness.Require(t, "busybox")
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	const n, part, clients = 1000, 200, 8
	firstStarts := startTimes(t, e)
	began := time.Now()
	var used []time.Duration // of processor, for each part
	for at := 0; at < n; at += part {
		before := cpu(t, e.PID())
		each(t, part, clients, func(i int) error { return startOne(e, fmt.Sprint("c", at+i)) })
		used = append(used, cpu(t, e.PID())-before)
	}
	t.Logf("%d started in %v; processor time of the daemon for each of the first %d: %v, of the last: %v", n, time.Since(began), part, used[0]/part, used[len(used)-1]/part)
	if used[len(used)-1] > used[0]*3/2 {
		t.Errorf("the last %d containers cost the daemon %v, the first %v", part, used[len(used)-1], used[0])
	}
	lastStarts := startTimes(t, e)
	t.Logf("start of one beside none: %v, median %v; beside %d: %v, median %v", firstStarts[0], firstStarts[len(firstStarts)/2], n, lastStarts[0], lastStarts[len(lastStarts)/2])
	began = time.Now()
	each(t, n, clients, func(i int) error { return answers(e, fmt.Sprint("c", i)) })
	t.Logf("%d answered in %v", n, time.Since(began))
	all := fillBridge(t, e, n)
	began = time.Now()
	each(t, all, clients, func(i int) error {
		code, body, err := e.API("DELETE", fmt.Sprintf("/containers/c%d?force=1", i), nil)
		if err != nil || code != 204 {
			return unexpected("remove", code, body, err)
		}
		return nil
	})
	t.Logf("%d removed in %v", all, time.Since(began))
}

// startTimes starts a container 15 times, alone, and tells how long each start
// took, the shortest first. Times are told and not judged: others may use the
// machine, and processor time is what the test judges by.
func startTimes(t *testing.T, e *harness.Engine) (out []time.Duration) {
	t.Helper()
	for range 15 {
		if err := createOne(e, "timed"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		code, body, err := e.API("POST", "/containers/timed/start", nil)
		out = append(out, time.Since(began))
		if err == nil && code == 204 {
			code, body, err = e.API("DELETE", "/containers/timed?force=1", nil)
		}
		if err != nil || code != 204 {
			t.Fatal(unexpected("start and remove", code, body, err))
		}
	}
	slices.Sort(out)
	return out
}

// fillBridge starts more containers than a bridge has ports: the one too many
// is refused by name, and starts when another has gone. It returns how many
// there are then.
func fillBridge(t *testing.T, e *harness.Engine, n int) int {
	t.Helper()
	for ; n <= 1024; n++ {
		err := startOne(e, fmt.Sprint("c", n))
		if err == nil {
			continue
		}
		if !strings.Contains(err.Error(), "is full: the kernel gives a bridge 1,023 ports") {
			t.Fatalf("container %d: %v", n, err)
		}
		t.Logf("container %d: %v", n, err)
		if code, body, err := e.API("DELETE", "/containers/c0?force=1", nil); err != nil || code != 204 {
			t.Fatalf("remove: %d %s %v", code, body, err)
		}
		// The kernel gives the port back in its own time.
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			code, body, err := e.API("POST", fmt.Sprintf("/containers/c%d/start", n), nil)
			if err == nil && code == 204 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("after another has gone: %d %s %v", code, body, err)
			}
		}
		if err := createOne(e, "c0"); err != nil {
			t.Fatal(err)
		}
		return n + 1
	}
	t.Fatalf("%d containers are on one bridge", n)
	return n
}

// unexpected is the error of a request whose answer is not the one wanted.
func unexpected(what string, code int, body []byte, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %d %s: %w", what, code, body, err)
	}
	return fmt.Errorf("%s: %d %s", what, code, body)
}

// createOne makes a container that does not run.
func createOne(e *harness.Engine, name string) error {
	code, body, err := e.API("POST", "/containers/create?name="+name, map[string]any{"Image": "busybox"})
	if err != nil || code != 201 {
		return unexpected("create", code, body, err)
	}
	return nil
}

// each calls f for 0 to n-1, so many at a time, and fails with the first error.
func each(t *testing.T, n, at int, f func(i int) error) {
	t.Helper()
	jobs := make(chan int)
	failed := make(chan error, n)
	var workers sync.WaitGroup
	for range at {
		workers.Go(func() {
			for i := range jobs {
				if err := f(i); err != nil {
					failed <- fmt.Errorf("%d: %w", i, err)
				}
			}
		})
	}
	for i := range n {
		jobs <- i
	}
	close(jobs)
	workers.Wait()
	close(failed)
	if err := <-failed; err != nil {
		t.Fatalf("%v (and %d more)", err, len(failed))
	}
}

func startOne(e *harness.Engine, name string) error {
	code, body, err := e.API("POST", "/containers/create?name="+name, map[string]any{"Image": "busybox", "Cmd": []string{"sleep", "10000"}})
	if err != nil || code != 201 {
		return unexpected("create", code, body, err)
	}
	if code, body, err = e.API("POST", "/containers/"+name+"/start", nil); err != nil || code != 204 {
		return unexpected("start", code, body, err)
	}
	return nil
}

// answers runs a command in a container and looks at what it prints.
func answers(e *harness.Engine, name string) error {
	code, body, err := e.API("POST", "/containers/"+name+"/exec", map[string]any{"Cmd": []string{"echo", name}, "AttachStdout": true, "Tty": true})
	var made struct{ ID string }
	if err == nil && code == 201 {
		err = json.Unmarshal(body, &made)
	}
	if err != nil || made.ID == "" {
		return unexpected("exec", code, body, err)
	}
	resp, err := e.HTTP().Post("http://engine/exec/"+made.ID+"/start", "application/json", strings.NewReader(`{"Tty": true}`))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("exec start: %s %q: %w", resp.Status, out, err)
	}
	if resp.StatusCode != http.StatusOK || strings.TrimSpace(string(out)) != name {
		return fmt.Errorf("exec start: %s %q", resp.Status, out)
	}
	return nil
}

// cpu is the processor time that a process has used, in ticks of 10 ms.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	f := strings.Fields(rest)
	var ticks int
	for _, s := range f[11:13] { // utime, stime
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
