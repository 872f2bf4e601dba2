package network

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// BenchmarkTraffic measures what passes through the engines' networks, wherry's
// and docker's, interleaved in one run:
//
//	go test -run '^$' -bench Traffic -benchtime 7x ./test/network
func BenchmarkTraffic(b *testing.B) {
	harness.Require(b, "dockerd")
	labs := []*lab{newLab(b, harness.Options{}), newLab(b, harness.Options{Kind: harness.Docker})}
	for _, l := range labs {
		l.cli("network", "create", "--subnet", "10.31.0.0/24", "app")
		l.cli("run", "-d", "--name", "sink", "--network", "app", "-p", "8082:82", "probe", "sink", "82")
		l.container("same", "web", "app", "-p", "8080:80")
		l.sink("a neighbour on the LAN", "7002")
	}
	const lan = "a neighbour on the LAN"
	lines := []struct{ name, row, verb, to string }{
		{"published port from the LAN, MB/s", lan, "pour", hostAddr + ":8082"},
		{"published port from the LAN, connections/s", lan, "knock", hostAddr + ":8080"},
		{"published port on the host by 127.0.0.1, MB/s", "the host", "pour", "127.0.0.1:8082"},
		{"published port on the host by 127.0.0.1, connections/s", "the host", "knock", "127.0.0.1:8080"},
		{"container to container, MB/s", "same", "pour", "10.31.0.2:82"},
		{"container to the LAN, MB/s", "same", "pour", neighbourAddr + ":7002"},
	}
	seen := map[string][2][]float64{}
	b.ResetTimer()
	for round := range b.N {
		for _, line := range lines {
			for k := range labs { // who is first changes
				i := (k + round) % len(labs)
				l := labs[i]
				out, err := l.run(l.ns[line.row], l.probe, line.verb, line.to, "300ms")
				v, bad := strconv.ParseFloat(strings.TrimSpace(out), 64)
				if err != nil || bad != nil {
					b.Fatalf("%s: %v %s", line.name, err, out)
				}
				s := seen[line.name]
				s[i] = append(s[i], v)
				seen[line.name] = s
			}
		}
	}
	b.StopTimer()
	if b.N == 1 {
		return // the trial before the measurement
	}
	var table strings.Builder
	fmt.Fprintf(&table, "%-58s %10s %10s %12s %10s\n", "", "wherry", "docker.io", "best: wherry", "docker.io")
	for _, line := range lines {
		w, d := seen[line.name][0], seen[line.name][1]
		fmt.Fprintf(&table, "%-58s %10.0f %10.0f %12.0f %10.0f\n", line.name, median(w), median(d), slices.Max(w), slices.Max(d))
	}
	b.Log("\n" + table.String())
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// sink takes in what comes in a namespace, until the test ends.
func (l *lab) sink(row, port string) {
	l.t.Helper()
	cmd := exec.Command(l.probe, "sink", port)
	l.begin(row, cmd)
}
