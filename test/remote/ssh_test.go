package remote

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// sshd is Debian's OpenSSH server on 127.0.0.1:2222 of an engine's network,
// with everything that it and its clients need in one directory.
type sshd struct {
	dir string
	pid int // of the engine, for its network
}

const sshdConfig = `Port 2222
ListenAddress 127.0.0.1
HostKey %[1]s/host
AuthorizedKeysFile %[1]s/user.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
SetEnv PATH=%[1]s/remote DOCKER_HOST=%[2]s
`

const sshConfig = `Host *
IdentityFile %[1]s/user
IdentitiesOnly yes
UserKnownHostsFile %[1]s/known
StrictHostKeyChecking yes
BatchMode yes
`

// startSSHD starts it; programs are what its users find in PATH, by name.
func startSSHD(t *testing.T, e *harness.Engine, programs map[string]string) *sshd {
	t.Helper()
	harness.Require(t, "root", "sshd")
	s := &sshd{dir: t.TempDir(), pid: e.PID()}
	write := func(name, text string, mode os.FileMode) {
		path := filepath.Join(s.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(s.dir, key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v %s", err, out)
		}
	}
	public, err := os.ReadFile(filepath.Join(s.dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	write("known", "[127.0.0.1]:2222 "+string(public), 0o644)
	write("sshd_config", fmt.Sprintf(sshdConfig, s.dir, e.Host()), 0o644)
	write("ssh_config", fmt.Sprintf(sshConfig, s.dir), 0o644)
	// ssh looks for its configuration in the home of its user, whatever HOME says.
	write("local/ssh", "#!/bin/sh\nexec /usr/bin/ssh -F "+s.dir+"/ssh_config \"$@\"\n", 0o755)
	programs["sh"] = "/bin/sh"
	if err := os.Mkdir(filepath.Join(s.dir, "remote"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, path := range programs {
		if err := os.Symlink(path, filepath.Join(s.dir, "remote", name)); err != nil {
			t.Fatal(err)
		}
	}
	// /run/sshd must exist, so sshd gets a /run of its own.
	script := "mount -t tmpfs none /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f " + s.dir + "/sshd_config"
	cmd := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", s.pid), "--", "unshare", "--mount", "--propagation", "private", "sh", "-c", script)
	cmd.Env = clean()
	log := watch(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	if !log.says("Server listening on") {
		t.Fatalf("sshd does not listen:\n%s", log)
	}
	return s
}

func (s *sshd) env(more ...string) []string {
	return append(more, "PATH="+s.dir+"/local:"+os.Getenv("PATH"))
}

func TestSSH(t *testing.T) {
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	wherry := harness.Binary("wherry")
	const host = "ssh://root@127.0.0.1:2222"
	// docker's client asks for a docker there; wherry's is content with either.
	both := startSSHD(t, e, map[string]string{"wherry": wherry, "docker": wherry})
	for name, program := range clients(t) {
		for what, at := range map[string]string{"host": host, "path": host + e.Socket()} {
			if name == "docker20" && at != host {
				continue // it takes no path behind the host
			}
			t.Run(name+"/"+what, func(t *testing.T) {
				env := both.env("DOCKER_HOST=" + at)
				out, err := near(t, e.PID(), env, "through ssh\n", program, "run", "--rm", "-i", "--network", "none", "busybox", "sh", "-c", "cat; echo end; exit 7")
				if code := exitCode(err); code != 7 || out != "through ssh\nend\n" {
					t.Errorf("%v %q", err, out)
				}
				if out, err := near(t, e.PID(), env, "", program, "ps", "-aq"); err != nil || out != "" {
					t.Errorf("%v %q", err, out)
				}
			})
		}
	}
	t.Run("context", func(t *testing.T) {
		harness.Require(t, "docker28")
		env := both.env("DOCKER_CONFIG=" + t.TempDir())
		if out, err := near(t, e.PID(), env, "", harness.DockerCLI(), "context", "create", "far", "--docker", "host="+host); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		for name, program := range clients(t) {
			if out, err := near(t, e.PID(), env, "", program, "--context", "far", "images", "--format", "{{.Repository}}"); err != nil || out != "busybox\n" {
				t.Errorf("%s: %v %q", name, err, out)
			}
		}
	})
	t.Run("refused", func(t *testing.T) {
		for host, want := range map[string]string{
			"ssh://root:secret@127.0.0.1":       "ssh host connection is not valid: invalid SSH URL: plain-text password is not supported",
			"ssh://":                            "hostname is empty",
			"ssh://root@127.0.0.1:2":            "Connection refused",
			"ssh://root@127.0.0.1:2222/no/sock": "Cannot connect to the Docker daemon at http://127.0.0.1. Is the docker daemon running?",
		} {
			out, err := near(t, e.PID(), both.env(), "", wherry, "-H", host, "ps")
			if !anyOf(out, want) || exitCode(err) != 1 {
				t.Errorf("%s: %v %q", host, err, out)
			}
		}
	})
}

// TestSSHWithoutWherry: the other machine has docker's client only.
func TestSSHWithoutWherry(t *testing.T) {
	harness.Require(t, "docker28")
	e := harness.Run(t, harness.Options{})
	s := startSSHD(t, e, map[string]string{"docker": harness.DockerCLI()})
	out, err := near(t, e.PID(), s.env(), "", harness.Binary("wherry"), "-H", "ssh://root@127.0.0.1:2222", "version", "-f", "{{.Server.Platform.Name}}")
	if err != nil || out != "Wherry Engine\n" {
		t.Errorf("%v %q", err, out)
	}
	// Neither of them.
	if err := os.Remove(filepath.Join(s.dir, "remote", "docker")); err != nil {
		t.Fatal(err)
	}
	if out, err = near(t, e.PID(), s.env(), "", harness.Binary("wherry"), "-H", "ssh://root@127.0.0.1:2222", "ps"); err == nil || !strings.Contains(out, "docker: not found") {
		t.Errorf("%v %q", err, out)
	}
}
