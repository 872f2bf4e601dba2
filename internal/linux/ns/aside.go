package ns

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Aside runs f on a thread of its own that ends with it, so that f may leave
// its thread in other namespaces or with another root directory. What f makes
// for others it hands out as descriptors; it starts no goroutines.
func Aside(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: a locked thread ends with its goroutine
		if unix.Gettid() == unix.Getpid() {
			// The process's first thread cannot end, and /proc/self shows it to
			// the world. While it is locked here, f gets another one.
			defer runtime.UnlockOSThread()
			result <- Aside(f)
			return
		}
		result <- f()
	}()
	return <-result
}
