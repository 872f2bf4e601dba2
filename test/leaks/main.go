// Command leaks compares the machine before and after a run: mounts, cgroups,
// links, nft tables, network namespaces and processes.
//
//	leaks save FILE    write what there is
//	leaks diff FILE    print what is new since; exit 1 if anything is
package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "leaks:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: leaks save|diff FILE")
	}
	switch args[0] {
	case "save":
		s, err := harness.Take()
		if err != nil {
			return err
		}
		return s.Save(args[1])
	case "diff":
		before, err := harness.LoadSnapshot(args[1])
		if err != nil {
			return err
		}
		// The kernel takes namespaces and cgroups apart behind our back.
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			after, err := harness.Take()
			if err != nil {
				return err
			}
			left := after.New(before)
			if len(left) == 0 {
				return nil
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
			}
		}
	}
	return fmt.Errorf("unknown command %q", args[0])
}
