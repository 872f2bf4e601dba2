// Package quotatest owns what tests of limits stand on: a file system that
// keeps project quotas, and writing as somebody who is held to them.
package quotatest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/ns"
)

var makers = map[string][]string{
	"ext4": {"mke2fs", "-q", "-F", "-t", "ext4", "-O", "quota,project", "-E", "quotatype=prjquota"},
	"xfs":  {"mkfs.xfs", "-q", "-f"},
}

// Mounted makes a file system of the kind, ext4 or xfs, and mounts it with
// project quotas until the test ends. Where the kernel or its tools cannot do
// that the test is skipped, unless WHERRY_REQUIRE names "quota".
func Mounted(t *testing.T, kind string) (dir string) {
	t.Helper()
	if os.Getuid() != 0 {
		lacking(t, "mounting is root's")
	}
	maker := makers[kind]
	if _, err := exec.LookPath(maker[0]); err != nil {
		lacking(t, "%v", err)
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 320<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(maker[0], append(maker[1:], image)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-t", kind, "-o", "loop,prjquota", image, dir).CombinedOutput(); err != nil {
		lacking(t, "this kernel's %s has no project quotas: %s", kind, out)
	}
	t.Cleanup(func() {
		if err := exec.Command("umount", dir).Run(); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func lacking(t *testing.T, format string, a ...any) {
	t.Helper()
	if slices.Contains(strings.FieldsFunc(os.Getenv("WHERRY_REQUIRE"), func(r rune) bool { return r == ',' || r == ' ' }), "quota") {
		t.Fatalf(format, a...)
	}
	t.Skipf(format, a...)
}

// Write fills a file with so many KiB as a process without CAP_SYS_RESOURCE,
// whom the kernel holds to limits.
func Write(path string, kib int) error {
	return ns.Aside(func() error {
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var have [2]unix.CapUserData
		if err := unix.Capget(&head, &have[0]); err != nil {
			return err
		}
		have[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
		if err := unix.Capset(&head, &have[0]); err != nil {
			return err
		}
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		_, err = f.Write(make([]byte, kib<<10))
		return errors.Join(err, f.Sync(), f.Close())
	})
}

// Full reports whether an error of Write says that the limit is reached.
func Full(err error) bool { return errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.ENOSPC) }
