package main

import (
	"errors"
	"time"
)

// networks are those of startOn3.
var networks = []string{"bench-a", "bench-b", "bench-c"}

// startOn times the start of a container without a network: what the networks
// of startOn3 are compared with.
func startOn(s *subject) func() (time.Duration, error) {
	return startOf(s, nil, "--network", "none")
}

// startOn3 times the start of a container with three networks, two ports and an
// alias.
func startOn3(s *subject) func() (time.Duration, error) {
	return startOf(s, networks[1:], "--network", networks[0], "--network-alias", "al", "-p", "18080:80", "-p", "18081:81")
}

// startOf times a start alone; the container is made before, connected to more
// networks, and removed afterwards.
func startOf(s *subject, more []string, flags ...string) func() (time.Duration, error) {
	if s.engine == nil || !s.owner {
		return nil
	}
	return func() (took time.Duration, err error) {
		if len(more) > 0 {
			for _, n := range networks {
				if s.cli("network", "inspect", n).Run() == nil {
					continue
				}
				if _, err := timed(s.cli("network", "create", n)); err != nil {
					return 0, err
				}
			}
		}
		if _, err := timed(s.cli(append(append([]string{"create", "--name", "bench"}, flags...), "busybox", "sleep", "1000")...)); err != nil {
			return 0, err
		}
		for _, n := range more {
			_, connectErr := timed(s.cli("network", "connect", n, "bench"))
			err = errors.Join(err, connectErr)
		}
		if err == nil {
			took, err = timed(s.cli("start", "bench"))
		}
		_, rmErr := timed(s.cli("rm", "-f", "bench"))
		return took, errors.Join(err, rmErr)
	}
}
