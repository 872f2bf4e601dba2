package crash

import (
	"fmt"
	"sync"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestShortStreams runs programs that end at once, several at a time: whatever
// is lost or mixed up between a program's end, its output and its exit code shows.
func TestShortStreams(t *testing.T) {
	e := start(t)
	create(t, e, "box", "busybox", "sleep", "1000")
	clients := []string{harness.Binary("wherry")}
	for _, c := range []struct{ condition, path string }{{"docker28", harness.DockerCLI()}, {"docker20", harness.OldDockerCLI()}} {
		if have, _ := harness.Have(c.condition); have {
			clients = append(clients, c.path)
		}
	}
	const each = 40
	for _, client := range clients {
		for _, verb := range [][]string{{"run", "--rm", "busybox"}, {"exec", "box"}} {
			t.Run(client+" "+verb[0], func(t *testing.T) {
				var wg sync.WaitGroup
				for w := range 4 {
					wg.Go(func() {
						for n := range each {
							want := fmt.Sprintf("out %d.%d\n", w, n)
							code := 1 + n%100
							out, errOut, got, err := e.Run(client, nil, append(append([]string{}, verb...), "sh", "-c",
								fmt.Sprintf("echo out %d.%d; echo err >&2; exit %d", w, n, code))...)
							if err != nil || out != want || errOut != "err\n" || got != code {
								t.Errorf("got %q %q %d %v, want %q %q %d", out, errOut, got, err, want, "err\n", code)
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}
