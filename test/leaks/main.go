// Command leaks compares the machine before and after a run: mounts, cgroups,
// links, nft tables, network namespaces and processes.
//
//	leaks save FILE             write what there is
//	leaks diff FILE [NAME...]   print what is new since, exit 1 if anything is;
//	                            with names, only lines that have one of them as a
//	                            word or path, not what other engines do meanwhile
package main

import (
	"fmt"
	"os"
	"slices"
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
	if len(args) < 2 {
		return fmt.Errorf("usage: leaks save FILE | leaks diff FILE [NAME...]")
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
			left := slices.DeleteFunc(after.New(before), func(what string) bool {
				return len(args) > 2 && !slices.ContainsFunc(args[2:], func(name string) bool { return names(what, name) })
			})
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

// names says whether a line has the name, and not as the beginning of a longer one.
func names(what, name string) bool {
	_, rest, ok := strings.Cut(what, name)
	return ok && (rest == "" || strings.ContainsAny(rest[:1], "/ )"))
}
