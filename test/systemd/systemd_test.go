// Package systemd installs the Debian package where the first process is systemd,
// in a container and in a guest of test/vm, and tries what the units promise.
package systemd

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// machine runs a script as root where systemd is the first process.
type machine func(script string) (out string, code int, err error)

// TestPackage is in a container.
func TestPackage(t *testing.T) {
	harness.Require(t, "root", "engine", "busybox", "dpkg")
	archive := harness.SystemdImage(t)
	e := harness.Run(t, harness.Options{})
	if err := e.LoadArchive(archive); err != nil {
		t.Fatal(err)
	}
	deb := build(t)
	host := func(args ...string) {
		t.Helper()
		out, errOut, code, err := e.CLI(args...)
		if code != 0 || err != nil {
			t.Fatalf("%v: %d %s%s %v", args, code, out, errOut, err)
		}
	}
	host("run", "-d", "--name", "machine", "--privileged", "--cgroupns", "private", "-e", "container=docker",
		"--tmpfs", "/run", "--tmpfs", "/tmp", "-v", "data:/var/lib/wherry", "-v", filepath.Dir(deb)+":/deb:ro", "example/systemd")
	try(t, "/deb/"+filepath.Base(deb), func(script string) (string, int, error) {
		out, errOut, code, err := e.CLI("exec", "machine", "sh", "-euc", script)
		if code != 0 {
			out += errOut
		}
		return out, code, err
	})
	host("rm", "-f", "-v", "machine")
	host("volume", "rm", "data")
	// Under cgroup v1 containers share groups of device rules, and in one of them a
	// privileged systemd made its own.
	if shared := "/sys/fs/cgroup/devices/" + e.ID; exists(shared) {
		if out, err := exec.Command("find", shared, "-mindepth", "1", "-depth", "-type", "d", "-exec", "rmdir", "{}", "+").CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, out)
		}
	}
}

// TestGuest is on a machine of its own: see test/vm.
func TestGuest(t *testing.T) {
	harness.Require(t, "root", "guest", "deb")
	try(t, harness.GuestPackage, func(script string) (string, int, error) {
		out, err := exec.Command("sh", "-euc", script).Output()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return string(append(out, exit.Stderr...)), exit.ExitCode(), nil
		}
		return string(out), 0, err
	})
}

// try installs the package and tries it.
func try(t *testing.T, deb string, run machine) {
	in := func(script string) string {
		t.Helper()
		out, code, err := run(script)
		if code != 0 || err != nil {
			t.Fatalf("%s: %d\n%s %v", script, code, out, err)
		}
		return strings.TrimSpace(out)
	}
	// What systemd does in the guest is told to nobody out here.
	until := func(what, script string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
			if _, code, err := run(script); err == nil && code == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("not in time: %s\n%s", what, in("journalctl --no-pager -n 20"))
			}
		}
	}
	until("systemd is up", "systemctl is-active --quiet dbus")
	in("dpkg -i " + deb + " >/tmp/dpkg 2>&1")
	if got := in("systemctl is-active wherry; stat -c '%a %U %G' /run/wherry.sock"); got != "active\n660 root wherry" {
		t.Errorf("%q", got)
	}
	if got := in("wherry run --rm hello-world"); !strings.Contains(got, "Hello from Wherry!") {
		t.Errorf("%q", got)
	}
	in(`mkdir -p /r/bin && cp /bin/busybox /r/bin/ && tar -C /r -c . | wherry import - bb
wherry run -d --name box bb /bin/busybox sh -c 'i=0; while :; do i=$((i+1)); echo $i; /bin/busybox sleep 0.1; done'`)
	const state = `wherry inspect -f '{{.State.Running}} {{.State.Pid}} {{.RestartCount}}' box`
	before, engine := in(state), in("systemctl show -p MainPID wherry")
	same := func(what string) {
		t.Helper()
		if after := in(state); after != before {
			t.Errorf("%s: %q was %q", what, after, before)
		}
		if now := in("systemctl show -p MainPID wherry"); now == engine {
			t.Errorf("%s: the engine is the same: %s", what, now)
		} else {
			engine = now
		}
	}
	in("systemctl restart wherry")
	same("restart")
	in("systemctl kill -s KILL --kill-whom=main wherry")
	until("it is started again", "systemctl is-active --quiet wherry && [ \"$(systemctl show -p MainPID wherry)\" != "+engine+" ]")
	same("kill -9")
	in("systemctl stop wherry.service")
	same("stop, and a client that wakes it") // inspect is that client
	in("dpkg -i " + deb + " >/tmp/dpkg 2>&1")
	same("upgrade")
	// Nothing of what it wrote meanwhile is missing.
	in(`n=$(wherry logs box | tail -1); [ "$(wherry logs box | head -n $n | tail -1)" = $n ]`)
	in(`mkdir -p /etc/wherry && echo '{"labels": ["reloaded=yes"]}' >/etc/wherry/daemon.json && systemctl reload wherry`)
	until("it is reloaded", "wherry info -f '{{.Labels}}' | grep -q reloaded=yes")
	in("dpkg -r wherry >/tmp/dpkg 2>&1")
	if got := in("ls -d /var/lib/wherry; cat /proc/[0-9]*/comm | grep -c -e '^wherryd' -e '^busybox$' || true"); got != "/var/lib/wherry\n0" {
		t.Errorf("after the removal: %q", got)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// build makes the package, not compressed, outside of bin.
func build(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "scripts/build_deb")
	cmd.Dir = harness.Root()
	cmd.Env = append(os.Environ(), "DEB_COMPRESSION=none")
	out, err := cmd.CombinedOutput()
	_, after, _ := strings.Cut(string(out), "building package 'wherry' in '")
	name, _, ok := strings.Cut(after, "'")
	if err != nil || !ok {
		t.Fatalf("%v\n%s", err, out)
	}
	deb := filepath.Join(t.TempDir(), filepath.Base(name))
	if err := os.Rename(filepath.Join(harness.Root(), name), deb); err != nil {
		t.Fatal(err)
	}
	return deb
}
