package restart

import (
	"testing"
	"time"

	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/container"
)

func TestRestartPolicy(t *testing.T) {
	c := &container.Container{Record: container.Record{ID: "x", HostConfig: &apicontainer.HostConfig{}}}
	pol := New(nil)
	ask := func(name apicontainer.RestartPolicyMode, max, code int, ran time.Duration) (bool, time.Duration) {
		c.HostConfig.RestartPolicy = apicontainer.RestartPolicy{Name: name, MaximumRetryCount: max}
		return pol.Decide(c, code, ran)
	}
	for i, want := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond} {
		if again, d := ask("always", 0, 0, time.Second); !again || d != want {
			t.Errorf("run %d: %v after %v, want after %v", i, again, d, want)
		}
	}
	if _, d := ask("always", 0, 0, 11*time.Second); d != firstDelay {
		t.Errorf("after a good run: %v", d)
	}
	for range 20 {
		ask("always", 0, 0, 0)
	}
	if _, d := ask("always", 0, 0, 0); d != lastDelay {
		t.Errorf("at last: %v", d)
	}
	if again, _ := ask("no", 0, 1, 0); again {
		t.Error("restarted without a policy")
	}
	if again, _ := ask("on-failure", 0, 0, 0); again {
		t.Error("on-failure restarts a success")
	}
	c.RestartCount = 2
	if again, _ := ask("on-failure", 2, 1, 0); again {
		t.Error("on-failure:2 restarts a third time")
	}
	c.ManuallyStopped = true
	if again, _ := ask("unless-stopped", 0, 1, 0); again {
		t.Error("restarted what the user stopped")
	}
}
