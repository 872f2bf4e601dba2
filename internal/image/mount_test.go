package image

import (
	"syscall"
	"testing"

	"github.com/wherry-engine/wherry/internal/snapshot"
)

// mountWritable mounts a container's root for the length of the test.
func mountWritable(t *testing.T, w *snapshot.Writable) string {
	t.Helper()
	if w.Dir != "" {
		return w.Dir
	}
	root := t.TempDir()
	data, chdir := w.OverlayOptions()
	if chdir != "" {
		t.Chdir(chdir)
	}
	if err := syscall.Mount("overlay", root, "overlay", 0, data); err != nil {
		t.Fatalf("mount %q: %v", data, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	return root
}
