package harness

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OverEtc gives the engine an /etc of its own, from its next start on: the
// machine's, with the files of a directory over it. The machine's stays as it is.
func (e *Engine) OverEtc(files string) error {
	if e.netns == nil {
		return errors.New("only an engine with a network namespace of its own is started on a thread of its own")
	}
	upper, work := e.path("etc"), e.path("etc.work")
	if err := os.CopyFS(upper, os.DirFS(files)); err != nil {
		return err
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		return err
	}
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result, 1)
	onThread(func() {
		f, err := newMountNS("lowerdir=/etc,upperdir=" + upper + ",workdir=" + work)
		done <- result{f, err}
	})
	r := <-done
	e.etc = r.f
	return r.err
}

// newMountNS leaves the calling thread in a mount namespace with an overlay
// over /etc.
func newMountNS(overlay string) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("isolate a mount namespace: %w", err)
	}
	if err := unix.Mount("overlay", "/etc", "overlay", 0, overlay); err != nil {
		return nil, fmt.Errorf("mount an /etc: %w", err)
	}
	return os.Open("/proc/thread-self/ns/mnt")
}

// inMountNS calls f in a mount namespace, which the calling thread joins for good.
func inMountNS(ns *os.File, f func() error) error {
	if ns == nil {
		return f()
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return err
	}
	return f()
}
