package foreign

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/wherry-engine/wherry/internal/linux/mount"
	"github.com/wherry-engine/wherry/internal/linux/ns"
)

// bring attaches to directories of the host what mounts take out of the root
// of another process (/proc/PID/root/...): the kernel lets nobody bind it from there.
func bring(mounts []specs.Mount, dir string) error {
	for i := range mounts {
		m := &mounts[i]
		rest, ok := strings.CutPrefix(m.Source, "/proc/")
		pid, inside, below := strings.Cut(rest, "/root/")
		n, err := strconv.Atoi(pid)
		if !ok || !below || err != nil {
			continue
		}
		tree, err := cloneFrom(n, "/"+inside)
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Source, err)
		}
		at := filepath.Join(dir, strconv.Itoa(i))
		err = attach(tree, at)
		unix.Close(tree)
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Source, err)
		}
		m.Source = at
	}
	return nil
}

func cloneFrom(pid int, path string) (tree int, err error) {
	err = ns.Aside(func() error {
		f, err := os.Open(ns.Path(pid, "mnt"))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNS); err != nil {
			return err
		}
		source, err := mount.OpenStrict(unix.AT_FDCWD, path, unix.O_PATH)
		if err != nil {
			return err
		}
		defer unix.Close(source)
		tree, err = mount.Clone(source, "", true)
		return err
	})
	return tree, err
}

// attach makes the place for a tree, a directory or a file as its root is one.
func attach(tree int, path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
	} else if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	at, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return mount.Attach(tree, at)
}
