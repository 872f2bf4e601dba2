package vm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// fetchEmulator gives a directory with qemu-aarch64-static and the line that
// registers it, of Debian's package; nothing is installed or registered here.
func fetchEmulator(ctx context.Context, o Options) (string, error) {
	dir := filepath.Join(o.Cache, "emulator")
	if isDir(dir) {
		return dir, nil
	}
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(o.Cache, "fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	const name = "qemu-user-static"
	fmt.Fprintf(o.Output, "vm: downloading %s\n", name)
	all := filepath.Join(tmp, "all")
	if err := unpack(ctx, tmp, name, all); err != nil {
		return "", err
	}
	kept := filepath.Join(tmp, "kept")
	for _, f := range []string{"usr/bin/qemu-aarch64-static", "usr/lib/binfmt.d/qemu-aarch64.conf"} {
		if err := copyFile(filepath.Join(all, f), filepath.Join(kept, filepath.Base(f))); err != nil {
			return "", err
		}
	}
	return dir, os.Rename(kept, dir)
}
