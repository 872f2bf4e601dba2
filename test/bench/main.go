// Command bench times the engine beside docker.io, podman and the bare kernel, all
// in one run and interleaved, so that a busy minute of the machine is
// everybody's. It prints a table and judges nothing.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var (
	rounds     = flag.Int("rounds", 15, "how often each command is timed")
	containers = flag.Int("containers", 200, "idle containers for the memory figure (docker.io gets a quarter)")
	parallel   = flag.Int("parallel", 50, "containers of the parallel start")
	only       = flag.String("only", "", "time only the subjects whose name contains this")
	onlyLines  = flag.String("lines", "", "time only the lines whose name contains this, and no memory")
	against    = flag.String("against", "", "a directory with another build's wherryd and wherry, as one more subject")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// sample is what one subject showed for one line of the table.
type sample struct {
	line, subject string
	times         []time.Duration
	note          string
}

func (s *sample) median() time.Duration {
	sort.Slice(s.times, func(i, j int) bool { return s.times[i] < s.times[j] })
	return s.times[len(s.times)/2]
}

func run() (err error) {
	dir, err := os.MkdirTemp("", "wbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if *pulls > 0 {
		fmt.Println(machine())
		return timePulls(dir)
	}
	if *builds > 0 {
		fmt.Println(machine())
		return timeBuilds(dir)
	}
	subjects, closeAll, err := prepare(dir)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, unix.SIGTERM)
	go func() {
		<-stop
		fmt.Fprintln(os.Stderr, "bench: interrupted:", closeAll())
		os.RemoveAll(dir)
		os.Exit(130)
	}()
	defer func() {
		if closeErr := closeAll(); err == nil {
			err = closeErr
		}
	}()
	if err != nil {
		return err
	}
	fmt.Println(machine())
	for _, s := range subjects {
		fmt.Printf("%-22s %s\n", s.name, s.version)
	}
	fmt.Println()

	var all []*sample
	for _, l := range lines() {
		if !strings.Contains(l.name, *onlyLines) {
			continue
		}
		byName := map[string]*sample{}
		for round := 0; round < l.rounds(*rounds)+1; round++ { // the first warms up
			for _, s := range subjects {
				op := l.op(s)
				if op == nil || byName[s.name] != nil && byName[s.name].note != "" {
					continue
				}
				if byName[s.name] == nil {
					byName[s.name] = &sample{line: l.name, subject: s.name}
					all = append(all, byName[s.name])
				}
				took, err := op()
				switch {
				case err != nil:
					byName[s.name].note = firstLine(err.Error())
				case round > 0:
					byName[s.name].times = append(byName[s.name].times, took)
				}
			}
		}
		table(l.name, all)
	}
	if *onlyLines != "" {
		return nil
	}
	return memory(subjects)
}

// table prints the rows of one line: median, fastest, 90th percentile, and how
// many times docker.io's and the bare kernel's.
func table(line string, all []*sample) {
	var docker, floor time.Duration
	for _, s := range all {
		if s.line == line && len(s.times) > 0 {
			switch {
			case strings.HasPrefix(s.subject, "docker.io"):
				docker = s.median()
			case strings.HasPrefix(s.subject, "bare kernel"):
				floor = s.median()
			}
		}
	}
	fmt.Printf("%-34s %10s %10s %10s %14s %12s\n", line, "median", "fastest", "90 %", "of docker.io", "of the floor")
	for _, s := range all {
		if s.line != line {
			continue
		}
		if len(s.times) == 0 || s.note != "" {
			fmt.Printf("  %-32s %s\n", s.subject, s.note)
			continue
		}
		m := s.median()
		fmt.Printf("  %-32s %10s %10s %10s %14s %12s\n", s.subject, ms(m), ms(s.times[0]), ms(s.times[len(s.times)*9/10]), ratio(m, docker, true), ratio(m, floor, false))
	}
	fmt.Println()
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond)) }

func ratio(m, of time.Duration, part bool) string {
	switch {
	case of == 0 || m == 0:
		return "-"
	case part && m < of:
		return fmt.Sprintf("1/%.1f", float64(of)/float64(m))
	}
	return fmt.Sprintf("%.1f x", float64(m)/float64(of))
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

func machine() string {
	var u unix.Utsname
	unix.Uname(&u)
	cpu := "?"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for _, l := range strings.Split(string(b), "\n") {
			if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == "model name" {
				cpu = strings.TrimSpace(v)
				break
			}
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	return fmt.Sprintf("machine: %s, %d cores, kernel %s, %s, load %s", cpu, runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]), runtime.Version(), strings.TrimSpace(string(load)))
}

// timed runs one command to its end.
func timed(cmd *exec.Cmd) (time.Duration, error) {
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	err := cmd.Run()
	took := time.Since(begin)
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, firstLine(out.String()))
	}
	return took, nil
}
