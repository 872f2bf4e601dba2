package quota

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/quota/quotatest"

	"github.com/wherry-engine/wherry/test/promise"
)

func TestSizes(t *testing.T) {
	if n := unsafe.Sizeof(quota{}); n != 112 {
		t.Errorf("fs_disk_quota has 112 bytes, not %d", n)
	}
	if n := unsafe.Sizeof(attributes{}); n != 28 {
		t.Errorf("fsxattr has 28 bytes, not %d", n)
	}
}

// TestUnsupported: what keeps no quotas says so, and nothing is changed.
func TestUnsupported(t *testing.T) {
	dir := t.TempDir()
	promise.Root(t)
	if Supported(dir) == nil {
		t.Skip("the file system of the temporary directory keeps quotas")
	}
	err := Limit(dir, 1<<20)
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "keeps no project quotas") && !strings.Contains(err.Error(), "no quotas by directory") {
		t.Error(err)
	}
	if err := Release(dir); err != nil {
		t.Error(err)
	}
	if err := Release(filepath.Join(dir, "nothere")); err != nil {
		t.Error(err)
	}
}

// TestLimit needs a kernel whose ext4 or xfs keeps project quotas, as that of the VM.
func TestLimit(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) { limit(t, quotatest.Mounted(t, kind)) })
	}
}

func limit(t *testing.T, at string) {
	dir := filepath.Join(at, "limited")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Limit(dir, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := quotatest.Write(filepath.Join(dir, "a", "b", "some"), 512); err != nil {
		t.Fatal(err)
	}
	if err := quotatest.Write(filepath.Join(dir, "more"), 1024); !quotatest.Full(err) {
		t.Errorf("more than the limit: %v", err)
	}
	if err := quotatest.Write(filepath.Join(at, "beside"), 4096); err != nil {
		t.Errorf("beside the directory: %v", err)
	}
	other := filepath.Join(at, "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Limit(other, 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := quotatest.Write(filepath.Join(other, "some"), 1536); err != nil {
		t.Errorf("another directory: %v", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Blocks*uint64(st.Bsize) != 1<<20 {
		t.Errorf("df tells of %d bytes, %v", st.Blocks*uint64(st.Bsize), err)
	}
	if err := Release(dir); err != nil {
		t.Fatal(err)
	}
	if err := quotatest.Write(filepath.Join(dir, "more"), 2048); err != nil {
		t.Errorf("after Release: %v", err)
	}
}
