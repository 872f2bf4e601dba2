package rtnl

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/test/promise"
)

// TestFirstThreadStays: /proc/PID/ns/net is the first thread's, and others enter
// a process's namespace by that name.
func TestFirstThreadStays(t *testing.T) {
	promise.Root(t)
	home, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	var all sync.WaitGroup
	for range 4 * runtime.NumCPU() {
		all.Go(func() {
			for range 200 {
				err := inside(home, func() error {
					runtime.Gosched()
					if unix.Gettid() == os.Getpid() {
						return errors.New("runs on the first thread")
					}
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}
