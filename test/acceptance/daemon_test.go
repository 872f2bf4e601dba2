package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
	"github.com/wherry-engine/wherry/test/promise"
)

// file writes one file of a test and returns its path.
func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestValidate: what is wrong with flags and file is said by name before
// anything is started, and nothing is written.
func TestValidate(t *testing.T) {
	harness.Require(t, "engine")
	for _, c := range []struct {
		name, file string
		flags      []string
		want       string // "configuration OK" means exit code 0
	}{
		{"nothing", `{}`, nil, "configuration OK"},
		{"everyday", `{"debug": true, "labels": ["a=b"], "log-opts": {"max-size": "10m"}, "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 9, "Soft": 8}}}`, nil, "configuration OK"},
		{"flag beside file", `{"debug": true}`, []string{"--debug"},
			"the following directives are specified both as a flag and in the configuration file: debug: (from flag: true, from file: true)"},
		{"hosts twice", `{"hosts": ["unix:///a"]}`, []string{"-H", "unix:///b"},
			"the following directives are specified both as a flag and in the configuration file: hosts: (from flag: [unix:///b], from file: [unix:///a])"},
		{"unknown key", `{"nokey": 1}`, nil, "the following directives don't match any configuration option: nokey"},
		{"wrong type", `{"mtu": "much"}`, nil, "mtu"},
		{"not JSON", `{"debug":`, nil, "invalid JSON"},
		{"unknown flag", `{}`, []string{"--nope"}, "unknown flag: --nope"},
		{"argument", `{}`, []string{"start"}, `"wherryd" accepts no arguments`},
		{"not served", `{}`, []string{"--metrics-addr", "127.0.0.1:1"}, "--metrics-addr is not supported by this version of wherryd"},
		{"key not served", `{"authorization-plugins": ["x"]}`, nil, "authorization-plugins is not supported by this version of wherryd"},
		{"log level", `{}`, []string{"-l", "loud"}, "invalid logging level: loud"},
		{"bip", `{}`, []string{"--bip", "300.1.1.1/24"}, `"300.1.1.1/24"`},
		{"cgroup driver", `{}`, []string{"--exec-opt", "native.cgroupdriver=x"}, `must be "cgroupfs" or "systemd"`},
		{"storage driver", `{"storage-driver": "zfs"}`, nil, "zfs"},
		{"host", `{}`, []string{"-H", "bogus://x"}, "invalid bind address format: bogus://x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			args := append([]string{"--validate", "--config-file", file(t, "daemon.json", c.file), "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec")}, c.flags...)
			var out, errOut bytes.Buffer
			cmd := exec.Command(harness.Binary("wherryd"), args...)
			cmd.Stdout, cmd.Stderr = &out, &errOut
			err := cmd.Run()
			if (err == nil) != (c.want == "configuration OK") || !strings.Contains(errOut.String(), c.want) || out.Len() > 0 {
				t.Errorf("%v\nstdout %q\nstderr %q, want %q", err, out.String(), errOut.String(), c.want)
			}
			if made, _ := os.ReadDir(dir); len(made) > 0 {
				t.Errorf("--validate made %v", made)
			}
		})
	}
	t.Run("means nothing here", func(t *testing.T) {
		path := file(t, "daemon.json", `{"containerd": "/x", "userland-proxy-path": "/y"}`)
		out, err := exec.Command(harness.Binary("wherryd"), "--validate", "--config-file", path, "--init-path", "/z").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, want := range []string{"containerd has no effect: ", "userland-proxy-path has no effect: ", "--init-path has no effect: ", "configuration OK"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%q is not in\n%s", want, out)
			}
		}
	})
}

// TestReload: SIGHUP changes what can be changed, and clients see it; what
// is wrong changes nothing.
func TestReload(t *testing.T) {
	e := harness.Run(t, harness.Options{Config: `{"labels": ["stage=one"]}`})
	var info struct {
		Labels []string
		Debug  bool
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://engine/events?filters="+`{"event":["reload"]}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := e.HTTP().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	reloads := json.NewDecoder(resp.Body)
	reload := func(text string) {
		t.Helper()
		if err := e.Reload(text); err != nil {
			t.Fatal(err)
		}
	}
	reload(`{"labels": ["stage=two"], "debug": true}`)
	var event struct {
		Type, Action string
		Actor        struct{ Attributes map[string]string }
	}
	if err := reloads.Decode(&event); err != nil || event.Type != "daemon" || !strings.Contains(event.Actor.Attributes["labels"], "stage=two") {
		t.Fatalf("the event of the reload: %+v %v", event, err)
	}
	if err := e.GetJSON("/info", &info); err != nil || len(info.Labels) != 1 || info.Labels[0] != "stage=two" || !info.Debug {
		t.Errorf("after the reload: %+v %v", info, err)
	}
	reload(`{"nokey": 1}`)
	reload(`{"labels": ["stage=three"]}`) // its event comes after whatever the wrong one did
	if err := reloads.Decode(&event); err != nil || !strings.Contains(event.Actor.Attributes["labels"], "stage=three") {
		t.Fatalf("the event of the third file: %+v %v", event, err)
	}
	if err := e.GetJSON("/info", &info); err != nil || info.Labels[0] != "stage=three" || info.Debug {
		t.Errorf("after the third file: %+v %v", info, err)
	}
}

// TestOneEngine: a data root has one engine, and the first is not disturbed.
func TestOneEngine(t *testing.T) {
	e := harness.Run(t, harness.Options{})
	dir := t.TempDir()
	out, err := exec.Command(harness.Binary("wherryd"), "--data-root", e.DataRoot(), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "-H", "unix://"+filepath.Join(dir, "s"), "--config-file", file(t, "daemon.json", "{}")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another wherryd uses the data root "+e.DataRoot()) {
		t.Errorf("a second engine: %v\n%s", err, out)
	}
	out, err = exec.Command(harness.Binary("wherryd"), "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(e.Dir, "pid"), "-H", "unix://"+filepath.Join(dir, "s"), "--config-file", file(t, "daemon.json", "{}")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "is still running") {
		t.Errorf("a second engine with the same pidfile: %v\n%s", err, out)
	}
	if err := e.Ping(); err != nil {
		t.Error(err)
	}
}

// TestHosts: several sockets at once; one that is open to the network is
// warned about.
func TestHosts(t *testing.T) {
	// In the host's network namespace, to be able to dial; with nothing made there.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	second := filepath.Join(t.TempDir(), "s2")
	e := harness.Run(t, harness.Options{HostNet: true, Flags: []string{"--bridge", "none", "-H", "unix://" + second, "-H", "tcp://" + address}})
	for _, host := range []string{e.Host(), "unix://" + second, "tcp://" + address} {
		cmd := e.Command(context.Background(), harness.Binary("wherry"), "-H", host, "version", "-f", "{{.Server.Os}}")
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "linux\n" {
			t.Errorf("%s: %v %s", host, err, out)
		}
	}
	if log := e.LogTail(20); !strings.Contains(log, "Binding to IP address without --tlsverify is insecure") {
		t.Errorf("no warning about %s:\n%s", address, log)
	}
	if st, err := os.Stat(e.Socket()); err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("the socket's mode: %v %v, want 0660", st.Mode(), err)
	}
	if err := e.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{e.Socket(), second} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is left behind", path)
		}
	}
}

// TestActivation: systemd holds the socket, the first client starts the engine.
func TestActivation(t *testing.T) {
	activate := promise.Program(t, "systemd-socket-activate")
	harness.Require(t, "root", "engine")
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	cmd := exec.Command(activate, "-l", socket, harness.Binary("wherryd"), "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--config-file", file(t, "daemon.json", "{}"), "--bridge", "none", "--cgroup-parent", fmt.Sprintf("/wact%d", os.Getpid()), "-H", "fd://")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var conn net.Conn
	var err error
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if conn, err = net.Dial("unix", socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			cmd.Wait()
			t.Fatalf("%v\n%s", err, log.String())
		}
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, "GET /_ping HTTP/1.0\r\n\r\n")
	answer, err := io.ReadAll(conn)
	conn.Close()
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.0 200") || !strings.HasSuffix(string(answer), "\r\n\r\nOK") {
		t.Errorf("_ping: %q %v", answer, err)
	}
	// systemd-socket-activate has become wherryd.
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, log.String())
	}
	if _, err := os.Stat(socket); err != nil {
		t.Errorf("the socket is systemd's, not to be removed: %v", err)
	}
}

// TestNotify: systemd hears READY=1 when the engine answers, not before, and
// STOPPING=1 when it ends.
func TestNotify(t *testing.T) {
	harness.Require(t, "root", "engine")
	path := filepath.Join(t.TempDir(), "n")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	notify.SetReadDeadline(time.Now().Add(20 * time.Second))
	e, err := harness.New(harness.Options{Env: []string{"NOTIFY_SOCKET=" + path}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := e.Spawn(); err != nil {
		t.Fatal(err)
	}
	await := func(want string) {
		t.Helper()
		buf := make([]byte, 4096)
		for {
			n, err := notify.Read(buf)
			if err != nil {
				t.Fatalf("waiting for %s: %v", want, err)
			}
			if strings.Contains(string(buf[:n]), want) {
				return
			}
		}
	}
	await("READY=1")
	if err := e.Ping(); err != nil {
		t.Errorf("ready, and yet: %v", err)
	}
	if err := e.Stop(); err != nil {
		t.Error(err)
	}
	await("STOPPING=1")
}
