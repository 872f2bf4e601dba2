package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/promise"
)

// Root is the module's directory.
func Root() string {
	_, file, _, ok := runtime.Caller(0)
	if ok {
		if _, err := os.Stat(file); err == nil {
			return filepath.Join(filepath.Dir(file), "..", "..")
		}
	}
	// Built with -trimpath: look upwards from where we run.
	dir, _ := os.Getwd()
	for dir != "/" && dir != "" {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return "."
}

// Binary is the path of one of our built programs; WHERRY_BIN may name
// another directory than bin/.
func Binary(name string) string {
	dir := os.Getenv("WHERRY_BIN")
	if dir == "" {
		dir = filepath.Join(Root(), "bin")
	}
	abs, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		return filepath.Join(dir, name)
	}
	return abs
}

const (
	newDocker = "/usr/local/bin/docker" // 28 or later, where somebody put it
	oldDocker = "/usr/bin/docker"       // Debian's 20.10
)

// DockerCLI is the newest real docker client here, "" when there is none.
func DockerCLI() string {
	for _, path := range []string{newDocker, oldDocker} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	path, _ := exec.LookPath("docker")
	return path
}

// OldDockerCLI is Debian's client.
func OldDockerCLI() string { return oldDocker }

func dockerVersion(path, prefix string) bool {
	out, err := exec.Command(path, "--version").Output()
	return err == nil && strings.Contains(string(out), "version "+prefix)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// GuestPackage is where a guest of test/vm has our Debian package.
const GuestPackage = "/wherry/wherry.deb"

// conditions are what a test may ask of the machine.
var conditions = map[string]func() bool{
	"root": func() bool { return os.Geteuid() == 0 },
	"engine": func() bool {
		return exists(Binary("wherryd")) && exists(Binary("wherry")) && exists(Binary("wherry-build"))
	},
	"cgroup2":  func() bool { return exists("/sys/fs/cgroup/cgroup.controllers") },
	"cgroup1":  func() bool { return !exists("/sys/fs/cgroup/cgroup.controllers") && len(cgroupRoots()) > 0 },
	"busybox":  func() bool { return exists("/bin/busybox") },
	"journal":  func() bool { return exists("/run/systemd/journal/socket") && exists("/usr/bin/journalctl") },
	"dockerd":  func() bool { return exists("/usr/sbin/dockerd") },
	"docker20": func() bool { return dockerVersion(oldDocker, "20.") },
	"docker28": func() bool { return dockerVersion(newDocker, "28.") || dockerVersion(newDocker, "29.") },
	"sshd":     func() bool { return exists("/usr/sbin/sshd") && exists("/usr/bin/ssh") },
	"activate": func() bool { return exists("/usr/bin/systemd-socket-activate") },
	"systemd":  func() bool { return exists("/usr/bin/systemd-analyze") },
	"man":      func() bool { return exists("/usr/bin/man") },
	"dpkg":     func() bool { return exists("/usr/bin/dpkg-deb") },
	"redis":    func() bool { return exists("/usr/bin/redis-server") && exists("/usr/bin/redis-cli") },
	"compose1": func() bool { return exists("/usr/bin/docker-compose") },
	"runc":     func() bool { _, err := exec.LookPath("runc"); return err == nil },
	"apparmor": func() bool {
		b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
		return err == nil && strings.HasPrefix(string(b), "Y")
	},
	// The guest of test/vm, for what changes the whole machine.
	"guest": func() bool { return exists("/wherry/init") },
	// Only there: registering one does.
	"emulator": func() bool { return exists("/wherry/emulator/aarch64.conf") },
	"deb":      func() bool { return exists(GuestPackage) },
	// What another engine pushed, see TestARM64 there.
	"carried": func() bool { return exists("/wherry/carried") },
	"nft":     func() bool { _, err := exec.LookPath("nft"); return err == nil },
	"skopeo":  func() bool { _, err := exec.LookPath("skopeo"); return err == nil },
	"podman":  func() bool { _, err := exec.LookPath("podman"); return err == nil },
	"buildah": func() bool { _, err := exec.LookPath("buildah"); return err == nil },
	"python":  func() bool { return exists("/usr/lib/python3/dist-packages/docker/__init__.py") },
	"git":     func() bool { return exists("/usr/lib/git-core/git-http-backend") },
	"compose": func() bool { return exists("/usr/bin/docker-compose") },
	// A mirror that apt is set up with is reachable, so containers can be, too.
	"net": func() bool { return exec.Command("apt-get", "update", "-q").Run() == nil },
}

// Promised says whether WHERRY_REQUIRE lists the condition.
func Promised(name string) bool { return promise.Made(name) }

// Have reports whether a condition holds; known is false for one that nobody
// defined.
func Have(name string) (have, known bool) {
	f, known := conditions[name]
	return known && f(), known
}

// Require skips a test on a machine that lacks a condition, and fails it when
// WHERRY_REQUIRE promised it.
func Require(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		have, known := Have(name)
		switch {
		case !known:
			t.Fatalf("unknown condition %q", name)
		case !have:
			promise.Lacks(t, name)
		}
	}
}

// Run starts a private engine for one test and closes it afterwards; what it
// leaves behind fails the test.
func Run(t testing.TB, o Options) *Engine {
	t.Helper()
	if o.Kind == Docker {
		Require(t, "root", "dockerd")
	} else {
		Require(t, "root", "engine")
	}
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tail := e.LogTail(40)
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the daemon's log ends with:\n%s", tail)
		}
	})
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	return e
}
