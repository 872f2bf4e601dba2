package acceptance

import (
	"fmt"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestRemoveDuringStart: of a start and a removal at the same time one wins and
// the other one says so; no process goes on without its container.
func TestRemoveDuringStart(t *testing.T) {
	harness.Require(t, "busybox")
	e := harness.Run(t, harness.Options{Flags: []string{"--bridge", "none"}})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	const rounds = 40
	answer := func(method, path string) (int, error) {
		code, _, err := e.API(method, path, nil)
		return code, err
	}
	for i := range rounds {
		name := fmt.Sprint("c", i)
		request := map[string]any{"Image": "busybox", "Cmd": []string{"sleep", "1000"}}
		if code, body, err := e.API("POST", "/containers/create?name="+name, request); err != nil || code != 201 {
			t.Fatal(unexpected("create", code, body, err))
		}
		started := make(chan error, 1)
		var start int
		go func() {
			var err error
			start, err = answer("POST", "/containers/"+name+"/start")
			started <- err
		}()
		// The moments spread over what a start takes.
		time.Sleep(time.Duration(i) * 20 * time.Millisecond / rounds)
		remove, err := answer("DELETE", "/containers/"+name)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		left, err := answer("GET", "/containers/"+name+"/json")
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case remove == 409 && start == 204 && left == 200:
		case remove == 204 && (start == 404 || start == 409) && left == 404:
		default:
			t.Errorf("round %d: the removal answers %d, the start %d, inspect %d", i, remove, start, left)
		}
		if code, body, err := e.API("DELETE", "/containers/"+name+"?force=1", nil); err != nil || code != 204 && code != 404 {
			t.Fatal(unexpected("remove", code, body, err))
		}
	}
}
