package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// buildImages makes the small file system that the kernel starts from, which
// only finds the disk, and the disk with all that runs.
func buildImages(ctx context.Context, o Options, k *kernel, work, initrd, disk string) error {
	root := filepath.Join(work, "root")
	if err := os.MkdirAll(filepath.Join(root, "wherry", "tests"), 0o755); err != nil {
		return err
	}
	if o.Systemd {
		if err := debian(ctx, o, root); err != nil {
			return err
		}
	}
	if foreign(o) {
		fmt.Fprintf(o.Output, "vm: building programs\n")
		if _, err := output(ctx, o.Module, "scripts/build_for", o.Arch); err != nil {
			return err
		}
	}
	guest := filepath.Join(root, "wherry", "init")
	if err := goTool(ctx, o, "build", "-trimpath", "-o", guest, "./test/vm/guest"); err != nil {
		return err
	}
	fmt.Fprintf(o.Output, "vm: building tests\n")
	if err := tests(ctx, o, root); err != nil {
		return err
	}
	if err := system(o, k, root); err != nil {
		return err
	}
	if err := start(k, machines[o.Arch].modules, guest, initrd); err != nil {
		return err
	}
	// mke2fs copies the tree; the size leaves room for what tests write.
	size, err := treeSize(root)
	if err != nil {
		return err
	}
	args := []string{"-q", "-t", "ext4", "-E", "lazy_itable_init=1,root_owner=0:0", "-d", root, disk, fmt.Sprintf("%dM", size>>20*5/4+1024)}
	if _, err := output(ctx, work, "mke2fs", args...); err != nil {
		return err
	}
	return os.RemoveAll(root)
}

// built is where scripts/build_for puts the programs of another architecture.
func built(o Options, name string) string {
	return filepath.Join(o.Module, "bin", "linux-"+o.Arch, name)
}

func goTool(ctx context.Context, o Options, args ...string) error {
	if foreign(o) {
		args = slices.Insert(args, 1, "-overlay", built(o, "overlay.json"))
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = o.Module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+o.Arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// tests puts each package's test binary where the guest looks for it, in a
// directory of its own with the package's testdata.
func tests(ctx context.Context, o Options, root string) error {
	var packages []string
	patterns := map[string]string{}
	for _, p := range o.Packages {
		name, pattern, _ := strings.Cut(p, "=")
		packages = append(packages, name)
		patterns[strings.TrimPrefix(name, "./")] = pattern
	}
	list, err := output(ctx, o.Module, "go", append([]string{"list", "-f", "{{.ImportPath}}\t{{.Dir}}\t{{len .TestGoFiles}}{{len .XTestGoFiles}}"}, packages...)...)
	if err != nil {
		return err
	}
	for line := range strings.Lines(list) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		pkg, dir := f[0], f[1]
		pattern := o.Run
		for name, own := range patterns {
			if own != "" && strings.HasSuffix(pkg, "/"+name) {
				pattern = own
			}
		}
		if f[2] == "00" {
			continue // matched by a pattern, has no tests
		}
		to := filepath.Join(root, "wherry", "tests", strings.ReplaceAll(pkg, "/", "__"))
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		if err := goTool(ctx, o, "test", "-c", "-o", filepath.Join(to, "test"), pkg); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, "run"), []byte(pattern), 0o644); err != nil {
			return err
		}
		if data := filepath.Join(dir, "testdata"); isDir(data) {
			if err := os.CopyFS(filepath.Join(to, "testdata"), os.DirFS(data)); err != nil {
				return err
			}
		}
	}
	bin := filepath.Join(root, "usr", "local", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	if err := os.Symlink("/wherry/init", filepath.Join(bin, "go")); err != nil {
		return err
	}
	for _, p := range o.Programs {
		to := filepath.Join(root, "wherry", "programs", filepath.Base(p))
		if own := built(o, filepath.Base(p)); foreign(o) && exists(own) {
			if err := copyFile(own, to); err != nil {
				return err
			}
			continue
		}
		if err := goTool(ctx, o, "build", "-trimpath", "-o", to, p); err != nil {
			return err
		}
	}
	for _, f := range o.Files {
		from, to, ok := strings.Cut(f, "=")
		if !ok {
			to = from
		}
		if err := copyFile(from, filepath.Join(root, to)); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("require %s\ntimeout %s\n", strings.Join(o.Require, ","), o.Patience)
	return os.WriteFile(filepath.Join(root, "wherry", "options"), []byte(text), 0o644)
}

// system adds what a small Linux has: modules, busybox under its names, users.
func system(o Options, k *kernel, root string) error {
	modules := filepath.Join(root, "lib", "modules", k.release)
	if o.Systemd {
		modules = filepath.Join(root, "usr", "lib", "modules", k.release) // /lib is a link there
	}
	if err := os.CopyFS(modules, os.DirFS(k.modules)); err != nil {
		return err
	}
	var dep strings.Builder
	for rel, deps := range k.deps {
		fmt.Fprintf(&dep, "%s: %s\n", rel, strings.Join(deps, " "))
	}
	slices.Sort(k.alias)
	for name, text := range map[string]string{"modules.dep": dep.String(), "modules.alias": strings.Join(k.alias, "\n") + "\n"} {
		if err := os.WriteFile(filepath.Join(modules, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if o.Systemd {
		if err := copyFile(k.busybox, filepath.Join(root, "usr", "bin", "busybox")); err != nil {
			return err
		}
		link := filepath.Join(root, "usr", "sbin", "modprobe")
		if _, err := os.Lstat(link); errors.Is(err, fs.ErrNotExist) {
			return os.Symlink("/usr/bin/busybox", link)
		}
		return nil
	}
	for _, d := range []string{"bin", "sbin", "usr/bin", "usr/sbin", "etc", "proc", "sys", "dev", "run", "tmp", "root", "var/lib", "var/tmp", "mnt"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(k.busybox, filepath.Join(root, "bin", "busybox")); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"sbin/modprobe": "", "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"etc/group": "root:x:0:\nnogroup:x:65534:\n", "etc/hostname": "vm\n", "etc/hosts": "127.0.0.1 localhost vm\n", "etc/resolv.conf": "",
	} {
		if text == "" && name == "sbin/modprobe" {
			if err := os.Symlink("/bin/busybox", filepath.Join(root, name)); err != nil {
				return err
			}
			continue
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// start writes the initial file system: the guest program as /init and the
// modules to reach the disk, numbered in the order in which they load.
func start(k *kernel, more []string, guest, to string) error {
	var b bytes.Buffer
	program, err := os.ReadFile(guest)
	if err != nil {
		return err
	}
	a := archive{&b, 1}
	for _, d := range []string{"dev", "proc", "sys", "disk", "modules"} {
		a.add(d, 0o40755, nil)
	}
	a.add("init", 0o100755, program)
	for i, rel := range k.order(append([]string{"crc32c_generic", "virtio_pci", "virtio_blk", "ext4"}, more...)...) {
		m, err := readModule(filepath.Join(k.modules, rel))
		if err != nil {
			return err
		}
		a.add(fmt.Sprintf("modules/%02d-%s", i, strings.TrimSuffix(filepath.Base(rel), ".xz")), 0o100644, m)
	}
	a.add("TRAILER!!!", 0, nil)
	return os.WriteFile(to, b.Bytes(), 0o644)
}

// archive is a cpio file in the "newc" format.
type archive struct {
	w     *bytes.Buffer
	inode int
}

func (a *archive) add(name string, mode int, data []byte) {
	fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	a.inode++
	a.pad()
	a.w.Write(data)
	a.pad()
}

func (a *archive) pad() {
	for a.w.Len()%4 != 0 {
		a.w.WriteByte(0)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

func treeSize(root string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size() + 4096
		}
		return err
	})
	return sum, err
}
