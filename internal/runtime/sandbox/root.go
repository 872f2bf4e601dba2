package sandbox

import (
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
)

// mountTree mounts an overlay as the host's root may, out of everyone's sight,
// and gives it as a detached tree. It happens in a mount namespace of a thread
// that ends with it.
func mountTree(o *mount.Overlay) (int, error) {
	type result struct {
		tree int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is of no other use
		tree, err := func() (int, error) {
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return -1, err
			}
			if err := mount.Isolate(unix.MS_PRIVATE); err != nil {
				return -1, err
			}
			root, err := o.Mount()
			if err != nil {
				return -1, err
			}
			defer unix.Close(root)
			return mount.Clone(root, "", false)
		}()
		done <- result{tree, err}
	}()
	r := <-done
	return r.tree, r.err
}
