package cgroup

import (
	"fmt"
	"strconv"
	"strings"
)

// ParseSet reads a list such as "0-2,7", the form of cpuset's files.
func ParseSet(list string) (map[int]bool, error) {
	set := map[int]bool{}
	for _, part := range strings.Split(strings.TrimSpace(list), ",") {
		from, to, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(strings.TrimSpace(from))
		if err != nil {
			return nil, err
		}
		b := a
		if isRange {
			if b, err = strconv.Atoi(strings.TrimSpace(to)); err != nil {
				return nil, err
			}
		}
		if a < 0 || b < a || b > 8192 { // the kernel's largest NR_CPUS
			return nil, fmt.Errorf("%q is not a range", part)
		}
		for ; a <= b; a++ {
			set[a] = true
		}
	}
	return set, nil
}
