package network

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
	"github.com/wherry-engine/wherry/test/harness"
)

// BenchmarkTraffic measures what passes through the engines' networks, wherry's
// and docker's, interleaved in one run; or a part of it:
//
//	go test -run '^$' -bench Traffic -benchtime 15x ./test/network
//	go test -run '^$' -bench 'Traffic/LAN.*connections' -benchtime 40x ./test/network
//
// ratio is the median over the rounds of wherry's figure by docker's, ratio-low and
// ratio-high the ends of its 95 % confidence interval; cpu-µs the least processor
// time that the sender used for one connection or MB, which says more than the rest
// while others use the machine.
func BenchmarkTraffic(b *testing.B) {
	harness.Require(b, "dockerd")
	labs := []*lab{newLab(b, harness.Options{}), newLab(b, harness.Options{Kind: harness.Docker})}
	for _, l := range labs {
		l.cli("network", "create", "--subnet", "10.31.0.0/24", "app")
		l.cli("run", "-d", "--name", "sink", "--network", "app", "-p", "8082:82", "probe", "sink", "82")
		l.container("same", "web", "app", "-p", "8080:80")
		l.container("peer", "peer", "app")
		l.sink("a neighbour on the LAN", "7002")
	}
	const lan = "a neighbour on the LAN"
	type line struct{ name, row, verb, to string }
	measure := func(line line) {
		b.Run(line.name, func(b *testing.B) {
			var seen, used [2][]float64
			var ratios []float64
			for round := range b.N {
				for k := range labs { // who is first changes
					i := (k + round) % len(labs)
					l := labs[i]
					out, err := l.run(l.ns[line.row], l.probe, line.verb, line.to, "100ms")
					var v, cpu float64
					if _, bad := fmt.Sscan(out, &v, &cpu); err != nil || bad != nil {
						b.Fatalf("%v %s", err, out)
					}
					seen[i], used[i] = append(seen[i], v), append(used[i], cpu)
				}
				ratios = append(ratios, seen[0][round]/seen[1][round])
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(seen[0]), "wherry")
			b.ReportMetric(median(seen[1]), "docker.io")
			b.ReportMetric(slices.Max(seen[0]), "wherry-best")
			b.ReportMetric(slices.Max(seen[1]), "docker.io-best")
			b.ReportMetric(median(ratios), "ratio")
			low, high := interval(ratios)
			b.ReportMetric(low, "ratio-low")
			b.ReportMetric(high, "ratio-high")
			b.ReportMetric(slices.Min(used[0]), "wherry-cpu-µs")
			b.ReportMetric(slices.Min(used[1]), "docker.io-cpu-µs")
		})
	}
	for _, l := range []line{
		{"published port from the LAN, MB/s", lan, "pour", hostAddr + ":8082"},
		{"published port from the LAN, connections/s", lan, "knock", hostAddr + ":8080"},
		{"published port on the host by 127.0.0.1, MB/s", "the host", "pour", "127.0.0.1:8082"},
		{"published port on the host by 127.0.0.1, connections/s", "the host", "knock", "127.0.0.1:8080"},
		{"container to container, MB/s", "same", "pour", "10.31.0.2:82"},
		{"container to container, connections/s", "peer", "knock", "10.31.0.3:80"},
		{"container to the LAN, MB/s", "same", "pour", neighbourAddr + ":7002"},
	} {
		measure(l)
	}
	aloneOnHost(labs[0])
	measure(line{alone + ", MB/s", "same", "pour", "10.31.0.2:82"})
	measure(line{alone + ", connections/s", "peer", "knock", "10.31.0.3:80"})
}

const alone = "container to container, nobody but docker.io loads br_netfilter"

// aloneOnHost has wherry's host be one where the module br_netfilter is not
// loaded, as Debian's is until docker.io starts: wherry needs it not and does not
// load it. Where the kernel has it built in, as if it were not.
func aloneOnHost(l *lab) {
	l.t.Helper()
	l.within(l.ns["the host"], func(*rtnl.Conn) error {
		err := rtnl.WriteSysctl("net/bridge/bridge-nf-call-iptables", "0")
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

// BenchmarkPath measures what the engines' rules and links cost the kernel, by
// turns in one run: the least time that connections, exchanges of a byte each way,
// and 64 KiB took. It is steady on a busy machine, too.
func BenchmarkPath(b *testing.B) {
	harness.Require(b, "dockerd")
	labs := []*lab{newLab(b, harness.Options{}), newLab(b, harness.Options{Kind: harness.Docker})}
	for _, l := range labs {
		l.cli("network", "create", "--subnet", "10.31.0.0/24", "app")
		l.container("same", "web", "app", "-p", "8090:90") // 10.31.0.2
		l.container("peer", "peer", "app")
	}
	const lan = "a neighbour on the LAN"
	type line struct{ name, client, server, to, port string }
	measure := func(line line) {
		for _, kind := range []string{"connect", "exchange", "pour"} {
			b.Run(line.name+", "+kind, func(b *testing.B) {
				var seen [2][]float64
				for round := range b.N {
					for k := range labs {
						i := (k + round) % len(labs)
						l := labs[i]
						var out, bad bytes.Buffer
						cmd := exec.Command(l.probe, "turns", kind, line.to, line.port, "100ms")
						cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = []*os.File{l.ns[line.client], l.ns[line.server]}, &out, &bad
						var v float64
						if err := cmd.Run(); err != nil {
							b.Fatalf("%v %s", err, &bad)
						}
						if _, err := fmt.Sscan(out.String(), &v); err != nil {
							b.Fatal(err)
						}
						seen[i] = append(seen[i], v)
					}
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(slices.Min(seen[0]), "wherry-µs")
				b.ReportMetric(slices.Min(seen[1]), "docker.io-µs")
				b.ReportMetric(slices.Min(seen[0])/slices.Min(seen[1]), "ratio")
			})
		}
	}
	between := line{"container to container", "peer", "same", "10.31.0.2:91", "91"}
	for _, l := range []line{
		{"published port from the LAN", lan, "same", hostAddr + ":8090", "90"},
		between,
		{"container to the LAN", "same", lan, neighbourAddr + ":7003", "7003"},
	} {
		measure(l)
	}
	aloneOnHost(labs[0])
	between.name = alone
	measure(between)
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// interval is the 95 % confidence interval of the median, from the ranks alone: it
// holds whatever the distribution. Few values have none; then it is their range.
func interval(list []float64) (low, high float64) {
	slices.Sort(list)
	n := len(list)
	off := int(math.Ceil(1.96 * math.Sqrt(float64(n)) / 2))
	return list[max(0, n/2-off)], list[min(n-1, n/2+off)]
}

// sink takes in what comes in a namespace, until the test ends.
func (l *lab) sink(row, port string) {
	l.t.Helper()
	cmd := exec.Command(l.probe, "sink", port)
	l.begin(row, cmd)
}
