package stream

import (
	"os"
	"syscall"
	"time"
)

// resized is never delivered by Windows.
const resized = syscall.Signal(0x1c)

// usual signals are those that users and service managers send.
var usual = []os.Signal{syscall.SIGINT, syscall.SIGTERM}

// private signals are about this process only.
var private = []os.Signal{syscall.SIGPIPE}

// sizeChanges asks the console's size anew four times a second: Windows has
// no event for it that leaves the console's input alone.
func sizeChanges() (changes <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	t := time.NewTicker(250 * time.Millisecond)
	quit := make(chan struct{})
	go func() {
		for {
			select {
			case <-t.C:
				select {
				case c <- resized:
				default:
				}
			case <-quit:
				return
			}
		}
	}()
	return c, func() {
		t.Stop()
		close(quit)
	}
}
