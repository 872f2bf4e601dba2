package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

const debianRelease = "bookworm"

// debianPackages are those beside the minimal ones; iproute2 and nftables are not
// there: the engine needs none.
const debianPackages = "systemd,systemd-sysv,dbus,apparmor,procps,runc,crun"

// debian fills root with a minimal Debian that has systemd, from the cache or
// with debootstrap, and has it start the guest program.
func debian(ctx context.Context, o Options, root string) error {
	base := filepath.Join(o.Cache, "debian-"+debianRelease+"-"+strings.ReplaceAll(debianPackages, ",", "-"))
	if foreign(o) {
		base += "-" + o.Arch
	}
	if !isDir(base) {
		if _, err := exec.LookPath("debootstrap"); err != nil {
			return err
		}
		fmt.Fprintf(o.Output, "vm: debootstrap %s\n", debianRelease)
		tmp := base + ".new"
		if err := os.RemoveAll(tmp); err != nil {
			return err
		}
		args := []string{"--variant=minbase", "--include=" + debianPackages, debianRelease, tmp}
		if foreign(o) {
			args = append([]string{"--foreign", "--arch", o.Arch}, args...)
		}
		if _, err := output(ctx, o.Cache, "debootstrap", args...); err != nil {
			return err
		}
		if foreign(o) {
			if err := secondStage(ctx, o, tmp); err != nil {
				return err
			}
		}
		if err := os.RemoveAll(filepath.Join(tmp, "var", "cache", "apt")); err != nil {
			return err
		}
		if err := os.Rename(tmp, base); err != nil {
			return err
		}
	}
	if _, err := output(ctx, o.Cache, "cp", "-a", base+"/.", root); err != nil {
		return err
	}
	unit := "[Unit]\nDescription=tests\nAfter=dbus.service\n[Service]\nType=exec\nExecStart=/wherry/init run\nDelegate=yes\nTasksMax=infinity\n[Install]\nWantedBy=multi-user.target\n"
	dir := filepath.Join(root, "etc", "systemd", "system")
	if err := os.WriteFile(filepath.Join(dir, "wherry-tests.service"), []byte(unit), 0o644); err != nil {
		return err
	}
	wants := filepath.Join(dir, "multi-user.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	return os.Symlink("/etc/systemd/system/wherry-tests.service", filepath.Join(wants, "wherry-tests.service"))
}

// secondStage runs what debootstrap left of another architecture: its packages'
// own programs, by an emulator. The kernel keeps emulators by user namespace
// (since 6.7), so this machine gets none.
func secondStage(ctx context.Context, o Options, root string) error {
	program, line, err := fetchEmulator(ctx, Options{Cache: o.Cache, Output: o.Output})
	if err != nil {
		return err
	}
	how, err := os.ReadFile(line)
	if err != nil {
		return err
	}
	fields := strings.Split(strings.TrimSpace(string(how)), ":")
	if len(fields) < 3 {
		return fmt.Errorf("%s: %q is no line of binfmt_misc", line, how)
	}
	fields[len(fields)-2] = program
	const script = `set -e
mount -t proc proc /proc
mkdir -p "$1/mnt"
mount -t binfmt_misc binfmt_misc "$1/mnt"
printf %s "$2" >"$1/mnt/register"
exec chroot "$1" /debootstrap/debootstrap --second-stage`
	cmd := exec.CommandContext(ctx, "sh", "-c", script, "sh", root, strings.Join(fields, ":"))
	cmd.Env = append(os.Environ(), "container=lxc") // debootstrap tries to make devices elsewhere, which are there already
	ids := []syscall.SysProcIDMap{{HostID: 0, Size: 1 << 16}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("debootstrap's second stage: %w\n%s", err, out[max(0, len(out)-2000):])
	}
	return nil
}
