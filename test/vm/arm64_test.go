package vm

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
	"github.com/wherry-engine/wherry/test/promise"
)

var all = flag.Bool("all", false, "on arm64 every package and script that the lane can run, which takes half an hour")

// armPackages hold code of their own for arm64, or tables of it.
var armPackages = []string{"./internal/linux/seccomp", "./internal/linux/scope"}

// armScripts go through the engine: what depends on the processor, and of the
// rest once what a program meets first.
const (
	armScripts    = "TestScript/(wherry|docker)/(machine|platforms)$|TestScript/wherry/(exec|buildstep|live)$"
	armAllScripts = "TestScript/(wherry|docker)/(machine|platforms|run|exec|lifecycle|restart|signals|logs|networks)$" +
		"|TestScript/wherry/(volumes|hello|builder|buildstep|images|live|namespaces|options|reach|restartengine|userns)$"
)

// TestARM64 is the engine, its programs and both clients on processors that
// qemu emulates. Images come from here: built by the engine of this machine, for
// several kinds, pushed, and what the registry then has is in the guest.
func TestARM64(t *testing.T) {
	needsArch(t, "vm-arm64", "arm64")
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Arch: "arm64", Packages: append(armPackages, "./test/script="+armScripts),
		Programs: []string{"./cmd/wherryd", "./cmd/wherry", "./cmd/wherry-build", "./cmd/wherry-registry", "./cmd/wherry-init", "./cmd/wherry-keeper"},
		Require:  []string{"root", "engine", "busybox", "guest", "cgroup", "cgroup2", "docker20", "carried"},
		Cache:    filepath.Join(root, ".cache", "vm"), Output: os.Stdout,
	}
	if *all {
		o.Patience = 40 * time.Minute
		o.Packages = append(packages, "./test/script="+armAllScripts)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if o.Files, err = fetchForeign(ctx, o); err != nil {
		t.Fatal(err)
	}
	o.Files = append(o.Files, carried(t, root)...)
	out := guest(t, o)
	for _, s := range []string{"wherry/machine", "wherry/platforms", "docker/machine", "docker/platforms"} {
		if !t.Failed() && !strings.Contains(out, "--- PASS: TestScript/"+s) {
			t.Errorf("the guest did not run the script %s", s)
		}
	}
}

// TestPackageARM64 installs the package for arm64 on a Debian with systemd.
func TestPackageARM64(t *testing.T) {
	if !*all {
		t.Skip("-all: the first time takes ten minutes")
	}
	needsArch(t, "vm-arm64", "arm64")
	promise.Program(t, "debootstrap")
	cmd := exec.Command("scripts/build_deb")
	cmd.Dir, cmd.Env = harness.Root(), append(os.Environ(), "ARCH=arm64", "DEB_COMPRESSION=none")
	out, err := cmd.CombinedOutput()
	_, after, _ := strings.Cut(string(out), "building package 'wherry' in '")
	deb, _, ok := strings.Cut(after, "'")
	if err != nil || !ok {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() { os.Remove(filepath.Join(harness.Root(), deb)) })
	guest(t, Options{
		Arch: "arm64", Systemd: true, Packages: []string{"./test/systemd=TestGuest"}, Patience: 20 * time.Minute,
		Files:   []string{filepath.Join(harness.Root(), deb) + "=" + harness.GuestPackage},
		Require: []string{"root", "guest", "cgroup", "cgroup2", "deb"},
	})
}

// carried lists the files of a registry that this machine's engine pushed to: an
// image for amd64, arm64 and arm, and one for amd64 alone.
func carried(t *testing.T, root string) []string {
	t.Helper()
	dir, data := t.TempDir(), filepath.Join(t.TempDir(), "carried")
	for _, arch := range []string{"amd64", "arm64", "arm"} {
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "hello-"+arch), "./cmd/wherry-hello")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOARM=7")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	text := "FROM scratch\nARG TARGETARCH\nCOPY hello-$TARGETARCH /hello\nCMD [\"/hello\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	e := harness.Run(t, harness.Options{})
	registry := e.ServeRegistry(t, "127.0.0.1:5000", "--data", data)
	for name, platforms := range map[string]string{"many": "linux/amd64,linux/arm64,linux/arm/v7", "amd64": "linux/amd64"} {
		if out, stderr, code, err := e.CLI("build", "--platform", platforms, "--push", "-t", registry+"/"+name, dir); err != nil || code != 0 {
			t.Fatalf("build for %s: exit %d %v\n%s%s", platforms, code, err, out, stderr)
		}
	}
	files, err := placed(data)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		from, to, _ := strings.Cut(f, "=")
		files[i] = from + "=/wherry/carried" + to
	}
	return files
}
