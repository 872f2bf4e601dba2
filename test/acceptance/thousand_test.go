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

// TestThousand: 1,000 containers on one bridge, each answering an exec. The last
// one starts as fast as the first one of a daemon without others, which starts
// its own by turns, so that a busy machine is both's; and nothing is left of them.
func TestThousand(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	harness.Require(t, "busybox")
	e, other := harness.Run(t, harness.Options{}), harness.Run(t, harness.Options{})
	for _, x := range []*harness.Engine{e, other} {
		if err := x.LoadBusybox(); err != nil {
			t.Fatal(err)
		}
	}
	const n, part, clients = 1000, 200, 8
	began := time.Now()
	each(t, n-part, clients, func(i int) error { return startOne(e, fmt.Sprint("c", i)) })
	t.Logf("%d started in %v", n-part, time.Since(began))
	before, beforeOther := cpu(t, e.PID()), cpu(t, other.PID())
	each(t, 2*part, clients, func(i int) error { // by turns: a busy machine is both's
		if i%2 == 0 {
			return startOne(other, fmt.Sprint("c", i/2))
		}
		return startOne(e, fmt.Sprint("c", n-part+i/2))
	})
	used, usedOther := (cpu(t, e.PID())-before)/part, (cpu(t, other.PID())-beforeOther)/part
	t.Logf("processor time of the daemon for each of the last %d: %v, of another daemon for its first: %v", part, used, usedOther)
	// The kernel's own part of it grows somewhat: a bridge goes through its ports
	// when it gets another one.
	if used > usedOther*5/2 {
		t.Errorf("beside %d containers one costs the daemon %v, beside few %v", n-part, used, usedOther)
	}
	each(t, part, clients, func(i int) error { return removeOne(other, fmt.Sprint("c", i)) })
	startTimes(t, e, other)
	began = time.Now()
	each(t, n, clients, func(i int) error { return answers(e, fmt.Sprint("c", i)) })
	t.Logf("%d answered in %v", n, time.Since(began))
	all := fillBridge(t, e, n)
	began = time.Now()
	each(t, all, clients, func(i int) error { return removeOne(e, fmt.Sprint("c", i)) })
	t.Logf("%d removed in %v", all, time.Since(began))
}

// startTimes starts containers with the full engine and the empty one by turns,
// until the shortest start beside many took at most 1.5 times as long as the
// shortest beside none. What truly costs more stays above, however often it is
// tried; on a busy machine either may be unlucky for long.
func startTimes(t *testing.T, full, empty *harness.Engine) {
	t.Helper()
	once := func(e *harness.Engine) time.Duration {
		if err := createOne(e, "timed"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		code, body, err := e.API("POST", "/containers/timed/start", nil)
		took := time.Since(began)
		if err != nil || code != 204 {
			t.Fatal(unexpected("start", code, body, err))
		}
		if err := removeOne(e, "timed"); err != nil {
			t.Fatal(err)
		}
		return took
	}
	const atLeast, atMost = 15, 300
	var beside, alone []time.Duration
	for len(beside) < atLeast || slices.Min(beside) > slices.Min(alone)*3/2 {
		if len(beside) == atMost {
			t.Errorf("of %d starts beside 1,000 containers the shortest took %v, beside none %v", atMost, slices.Min(beside), slices.Min(alone))
			return
		}
		alone, beside = append(alone, once(empty)), append(beside, once(full))
	}
	slices.Sort(beside)
	slices.Sort(alone)
	t.Logf("shortest and median of %d starts beside 1,000: %v, %v; beside none: %v, %v", len(beside), beside[0], beside[len(beside)/2], alone[0], alone[len(alone)/2])
}

// removeOne removes a container that may run.
func removeOne(e *harness.Engine, name string) error {
	code, body, err := e.API("DELETE", "/containers/"+name+"?force=1", nil)
	if err != nil || code != 204 {
		return unexpected("remove", code, body, err)
	}
	return nil
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
