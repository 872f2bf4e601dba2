package sandbox_test

import (
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/wherry-engine/wherry/internal/linux/pidfd"
	"github.com/wherry-engine/wherry/internal/runtime/sandbox"
	"github.com/wherry-engine/wherry/internal/runtime/spec"
)

// BenchmarkStart is from Start to the end of `true`, with everything docker
// isolates but the cgroups; "netns" makes a network namespace as well.
func BenchmarkStart(b *testing.B) {
	for _, c := range []struct {
		name    string
		network bool
	}{{"host network", false}, {"netns", true}} {
		b.Run(c.name, func(b *testing.B) {
			x := newBox(b, "true")
			if !c.network {
				x.in.Namespaces[specs.NetworkNamespace] = spec.NS{Kind: spec.Host}
			}
			plan, init := x.plan(), initFile(b)
			var times []time.Duration
			b.ResetTimer()
			for range b.N {
				began := time.Now()
				p, err := sandbox.Start(init, plan, sandbox.Stdio{}, nil)
				if err != nil {
					b.Fatal(err)
				}
				if e, _, err := pidfd.Wait(p.PIDFD, false); err != nil || e.Status() != 0 {
					b.Fatal(e, err)
				}
				times = append(times, time.Since(began))
				p.PIDFD.Close()
			}
			slices.Sort(times)
			// On a shared machine the smallest is the quiet figure.
			b.ReportMetric(float64(times[0].Microseconds()), "min-µs")
			b.ReportMetric(float64(times[len(times)/2].Microseconds()), "median-µs")
		})
	}
}
