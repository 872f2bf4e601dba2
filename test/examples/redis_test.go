package examples

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

var (
	// times is how often each experiment is made: go test ./test/examples -times 20.
	times = flag.Int("times", 1, "repetitions of the experiments with Redis")
	// asWritten takes minutes: go test ./test/examples -run TestSentinelAsWritten -as-written.
	asWritten = flag.Bool("as-written", false, "the experiments with Sentinel's own timeouts, 30 s and 180 s")
)

// quick are timeouts that a test can wait for.
var quick = []string{"QUICK=1"}

func sentinel(t *testing.T, e *stage) { sentinelWith(t, e, quick, 1500) }

// TestSentinelAsWritten is the story with its own timeouts: half a minute until
// a master counts as down.
func TestSentinelAsWritten(t *testing.T) {
	if !*asWritten {
		t.Skip("takes a few minutes: -as-written (make test-sentinel)")
	}
	archive := harness.ExampleImages(t)
	for _, client := range clients {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			e := newStage(t, archive, client)
			sentinelWith(t, e, nil, 30000)
			left(t, e)
		})
	}
}

func sentinelWith(t *testing.T, e *stage, env []string, downAfter int) {
	want(t, must(t, e, env, "redis-sentinel/start"), "role:master", "connected_slaves:2", "master0:name=qsmaster,status=ok", "slaves=2,sentinels=3")
	for i := range *times {
		for _, how := range []string{"kill", "pause", "disconnect"} {
			out := must(t, e, env, "redis-sentinel/experiment", how)
			want(t, out, fmt.Sprintf(" ms (down-after %d)", downAfter), " follows ", "slaves=2,sentinels=3")
			t.Logf("%d: %s", i+1, strings.ReplaceAll(out, "\n", "; "))
		}
	}
	t.Run("engine", func(t *testing.T) { engineKilled(t, e, env) })
	must(t, e, env, "redis-sentinel/stop")
}

// engineKilled: the engine's end is nobody's failover, and after its start
// everything can be done again.
func engineKilled(t *testing.T, e *stage, env []string) {
	redis := func(args ...string) string {
		out, errOut, code, err := e.Run(e.client, nil, append([]string{"exec", "redis-client", "redis-cli", "-h", "172.30.79.179", "-p", "26379"}, args...)...)
		if code != 0 || err != nil {
			t.Fatalf("%v: %s%s %v", args, out, errOut, err)
		}
		return out
	}
	before := redis("sentinel", "get-master-addr-by-name", "qsmaster")
	e.Kill()
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	if after := redis("sentinel", "get-master-addr-by-name", "qsmaster"); after != before {
		t.Errorf("the master changed from %q to %q", before, after)
	}
	want(t, redis("info", "sentinel"), "name=qsmaster,status=ok", "slaves=2,sentinels=3")
	must(t, e, env, "redis-sentinel/experiment", "kill")
}

func cluster(t *testing.T, e *stage) {
	env := append([]string{"SLOTS=200"}, quick...)
	want(t, must(t, e, env, "redis-cluster/start"), "[OK] All 16384 slots covered.", "\n5798\n", "MOVED 5798 172.30.70.101:7001")
	for i := range *times {
		t.Logf("%d: %s", i+1, strings.ReplaceAll(must(t, e, env, "redis-cluster/experiment", "failover"), "\n", "; "))
	}
	out := must(t, e, env, "redis-cluster/experiment", "grow")
	want(t, out, "7006 has 200 slots", "[OK] All 16384 slots covered.")
	t.Log(out)
	must(t, e, env, "redis-cluster/stop")
}
