//go:build unix

package stream

import (
	"os"
	"os/signal"
	"syscall"
)

// resized is the signal of a terminal whose window changed.
const resized = syscall.SIGWINCH

// usual signals are those that users and service managers send.
var usual = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

// private signals are about this process only.
var private = []os.Signal{syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG}

// sizeChanges tells when the terminal may have another size, until stop.
func sizeChanges() (changes <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, resized)
	return c, func() { signal.Stop(c) }
}
