package network

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/id"
)

// BenchmarkAttachMany is what networks, ports and a name cost a start: the
// median and the least of what Attach takes, in milliseconds, beside a start without
// networks. What waits in the pool is there.
func BenchmarkAttachMany(b *testing.B) { fresh(b, func() { attachMany(b) }) }

func attachMany(b *testing.B) {
	cfg := testConfig(b)
	cfg.PoolSize = 4
	m := open(b, cfg)
	for _, name := range []string{"one", "two", "three"} {
		create(b, m, network.CreateRequest{Name: name})
	}
	port := func(s string) network.Port { return network.MustParsePort(s) }
	bind := func(s string) []network.PortBinding {
		return []network.PortBinding{{HostIP: netip.Addr{}, HostPort: s}}
	}
	kinds := []struct {
		name string
		r    Request
	}{
		{"none", Request{Network: "none"}},
		{"one", Request{Network: "one"}},
		{"three", Request{Network: "one", Endpoints: map[string]*network.EndpointSettings{"one": {Aliases: []string{"al"}}, "two": {}, "three": {}}}},
		{"three+2ports", Request{Network: "one", Endpoints: map[string]*network.EndpointSettings{"one": {Aliases: []string{"al"}}, "two": {}, "three": {}},
			Ports: network.PortMap{port("80/tcp"): bind("18080"), port("81/tcp"): bind("18081")}}},
	}
	took := make([][]float64, len(kinds))
	for b.Loop() {
		for i, k := range kinds {
			for !spared(m) {
				m.Refill()
				time.Sleep(time.Millisecond)
			}
			k.r.ContainerID = id.New()
			start := time.Now()
			sb, err := m.Attach(context.Background(), k.r)
			took[i] = append(took[i], float64(time.Since(start).Microseconds())/1000)
			if err != nil {
				b.Fatal(err)
			}
			sb.NS.Close()
			m.Release(context.Background(), k.r.ContainerID)
		}
	}
	for i, k := range kinds {
		slices.Sort(took[i])
		b.ReportMetric(took[i][0], k.name+"-min-ms")
		b.ReportMetric(took[i][len(took[i])/2], k.name+"-median-ms")
	}
}
