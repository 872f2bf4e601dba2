package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// memory starts idle containers and prints what each costs: the engine's own
// processes (proportional and resident), and what the kernel holds for it.
func memory(subjects []*subject) error {
	fmt.Printf("%-34s %12s %12s %14s %14s %14s\n", "memory", "idle PSS", "idle RSS", "PSS each", "RSS each", "kernel each")
	for _, s := range subjects {
		if s.engine == nil || !s.owner {
			continue
		}
		n := *containers
		if s.name != "wherry" {
			n = max(1, n/4)
		}
		if err := idle(s, n); err != nil {
			fmt.Printf("  %-32s %s\n", s.name, firstLine(err.Error()))
		}
	}
	return nil
}

func idle(s *subject, n int) error {
	settle()
	pss, rss, _ := s.engine.Memory()
	kernel := kernelMemory()
	var names []string
	for i := range n {
		name := fmt.Sprint("idle", i)
		if _, err := timed(s.cli("run", "-d", "--name", name, "busybox", "sleep", "10000")); err != nil {
			return err
		}
		names = append(names, name)
	}
	settle()
	morePSS, moreRSS, count := s.engine.Memory()
	moreKernel := kernelMemory()
	each := func(a, b int64) string { return fmt.Sprintf("%.0f KB", float64(b-a)/1024/float64(n)) }
	fmt.Printf("  %-32s %9.1f MB %9.1f MB %14s %14s %14s   (%d containers, %d processes)\n", s.name,
		float64(pss)/(1<<20), float64(rss)/(1<<20), each(pss, morePSS), each(rss, moreRSS), each(kernel, moreKernel), n, count)
	_, err := timed(s.cli(append([]string{"rm", "-f"}, names...)...))
	return err
}

// settle lets a garbage collector and the kernel's deferred work come to rest.
func settle() { time.Sleep(2 * time.Second) }

// kernelMemory is what the kernel uses for itself and would not give back for
// asking: stacks, page tables, per-CPU areas and unreclaimable slab.
func kernelMemory() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	var sum int64
	for _, line := range strings.Split(string(b), "\n") {
		var kb int64
		k, v, _ := strings.Cut(line, ":")
		switch k {
		case "SUnreclaim", "KernelStack", "PageTables", "Percpu":
			if _, err := fmt.Sscanf(v, "%d kB", &kb); err == nil {
				sum += kb << 10
			}
		}
	}
	return sum
}
