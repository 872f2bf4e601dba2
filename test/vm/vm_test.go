package vm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/promise"
)

// packages run in the guest: those whose code depends on the kernel and on the
// version of cgroups. WHERRY_VM_PACKAGES names others.
var packages = []string{
	"./internal/linux/caps", "./internal/linux/cgroup", "./internal/linux/device", "./internal/linux/mount", "./internal/linux/pidfd", "./internal/linux/quota",
	"./internal/linux/scope", "./internal/linux/seccomp", "./internal/runtime/initproto", "./internal/runtime/sandbox", "./internal/runtime/spec",
	"./internal/network", "./internal/network/firewall", "./internal/snapshot", "./internal/supervise", "./internal/supervise/keeper", "./internal/volume",
}

// needs ends a test on a machine that cannot run a guest.
func needs(t *testing.T) { needsArch(t, "vm", "amd64") }

func needsArch(t *testing.T, name, arch string) {
	t.Helper()
	if testing.Short() {
		t.Skip("short")
	}
	if missing := Missing(arch); missing != "" || runtime.GOARCH != "amd64" {
		promise.Lacks(t, name, missing, " on amd64")
	}
}

func guest(t *testing.T, o Options) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	o.Module, o.Output = root, io.MultiWriter(&out, os.Stdout)
	ctx, cancel := context.WithTimeout(t.Context(), max(12*time.Minute, o.Patience))
	defer cancel()
	if err := Run(ctx, o); err != nil {
		t.Error(err)
	}
	return out.String()
}

// withLibraries lists the programs that this machine has and the files that
// they are linked with; the others' tests say that they are missing.
func withLibraries(t *testing.T, programs ...string) []string {
	t.Helper()
	var files []string
	for _, p := range programs {
		out, err := exec.Command("ldd", p).Output()
		if err != nil {
			continue
		}
		files = append(files, p)
		for f := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(f, "/") && !slices.Contains(files, f) {
				files = append(files, f)
			}
		}
	}
	return files
}

// emulator lists an emulator of arm64, how Debian registers it, and a program
// for it, as files of a guest.
func emulator(t *testing.T) []string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	qemu, line, err := fetchEmulator(ctx, Options{Cache: filepath.Join(root, ".cache", "vm"), Output: os.Stdout})
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", "build", "-trimpath", "-o", program, "./cmd/wherry-hello")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return []string{
		qemu + "=/usr/libexec/qemu-binfmt/aarch64-binfmt-P",
		line + "=/wherry/emulator/aarch64.conf",
		program + "=/wherry/emulator/program",
	}
}

// fileServers lists what makes a guest serve NFS and SMB.
func fileServers(t *testing.T) []string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	files, err := fetchFileServers(ctx, Options{Cache: filepath.Join(root, ".cache", "vm"), Output: os.Stdout})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestVM(t *testing.T) {
	list := packages
	if more := os.Getenv("WHERRY_VM_PACKAGES"); more != "" {
		list = strings.Fields(more)
	}
	needs(t)
	out := guest(t, Options{Packages: list, Files: withLibraries(t, "/usr/sbin/mke2fs", "/usr/sbin/mkfs.xfs"), Programs: []string{"./cmd/wherry-init", "./cmd/wherry-keeper"}, Require: []string{"root", "cgroup", "cgroup2", "quota"}})
	if !t.Failed() && !t.Skipped() && !strings.Contains(out, "cgroup v2 (") {
		t.Error("the guest did not run cgroup v2")
	}
}

// TestFailure checks that the lane can fail: the guest has no libseccomp, which
// is promised to it here.
func TestFailure(t *testing.T) {
	o := Options{Packages: []string{"./internal/linux/seccomp"}, Run: "TestAgainstLibseccomp", Require: []string{"libseccomp"}}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	needs(t)
	var out bytes.Buffer
	o.Module, o.Output = root, &out
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var failed *FailedError
	if err := Run(ctx, o); !errors.As(err, &failed) || !strings.Contains(out.String(), "libseccomp is required") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// scripts are those of the whole engine that depend on the kernel and on the
// version of cgroups.
const scripts = "TestScript/wherry/(apparmor|userns|exec|options|namespaces|buildstep|emulator|parents|fileserver|shares)$"

// TestSystemd is the same with systemd as init, for the driver that talks to
// it, and with the whole engine: on cgroup v2, and on a kernel with AppArmor.
func TestSystemd(t *testing.T) {
	needs(t)
	out := guest(t, Options{
		Packages: []string{"./internal/linux/cgroup", "./internal/linux/scope", "./internal/linux/apparmor", "./internal/runtime/foreign", "./test/script=" + scripts, "./test/acceptance=(TestStats|TestJournal|TestProfileUnloaded)$", "./test/crash=TestBothKilled$"}, Systemd: true,
		Programs: []string{"./cmd/wherryd", "./cmd/wherry", "./cmd/wherry-build", "./cmd/wherry-registry", "./cmd/wherry-init", "./cmd/wherry-keeper"},
		Files:    append(emulator(t), fileServers(t)...),
		Require:  []string{"root", "engine", "busybox", "guest", "cgroup", "cgroup2", "systemd-init", "apparmor", "emulator", "runc", "crun", "apparmor_parser", "journal"},
	})
	for _, s := range []string{"apparmor", "buildstep", "emulator", "parents", "fileserver", "shares"} {
		if !t.Failed() && !t.Skipped() && !strings.Contains(out, "--- PASS: TestScript/wherry/"+s) {
			t.Errorf("the guest did not run the script %s", s)
		}
	}
	for test, what := range map[string]string{
		"TestStats": "compare the figures of stats", "TestJournal": "write to the journal", "TestBothKilled": "kill engine and keeper",
		"TestProfileUnloaded": "unload the default profile of AppArmor",
	} {
		if !t.Failed() && !t.Skipped() && !strings.Contains(out, "--- PASS: "+test+" ") {
			t.Error("the guest did not " + what)
		}
	}
}
