package acceptance

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestExchangePlain: an image whose layers are plain here is pushed compressed,
// and what others pull has its id and the digest that wherry tells.
func TestExchangePlain(t *testing.T) {
	harness.Require(t, "root", "engine", "busybox", "dockerd", "skopeo", "podman")
	w := harness.Run(t, harness.Options{Flags: []string{"--bridge", "none"}})
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", w.PID()), name}, args...)...)
		cmd.Dir = dir
		b, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, b)
		}
		return strings.TrimSpace(string(b))
	}
	by := func(e *harness.Engine, cli string, args ...string) string {
		t.Helper()
		stdout, stderr, code, err := e.Run(cli, nil, args...)
		if err != nil || code != 0 {
			t.Fatalf("%s %s: %d %v\n%s%s", cli, strings.Join(args, " "), code, err, stdout, stderr)
		}
		return strings.TrimSpace(stdout)
	}
	host := w.ServeRegistry(t, "127.0.0.1:0")
	im, err := harness.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	name := host + "/plain:1"
	im.Names = []string{name}
	if err := w.Load(im.DockerArchive()); err != nil {
		t.Fatal(err)
	}
	wherry := func(args ...string) string { t.Helper(); return by(w, harness.Binary("wherry"), args...) }
	wherry("push", "-q", name)
	id, digest, ok := strings.Cut(wherry("image", "inspect", "-f", "{{.Id}} {{index .RepoDigests 0}}", name), " "+host+"/plain@")
	if !ok {
		t.Fatal(id)
	}
	if got := run("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", "docker://"+name); got != digest {
		t.Errorf("the registry has %s, wherry says %s", got, digest)
	}
	if raw := run("skopeo", "inspect", "--tls-verify=false", "--raw", "docker://"+name); !strings.Contains(raw, "gzip") {
		t.Error("no layer is compressed:", raw)
	}
	storage := []string{"--root", filepath.Join(dir, "storage"), "--runroot", filepath.Join(dir, "storage-run"), "--storage-driver", "vfs"}
	run("podman", append(storage, "pull", "-q", "--tls-verify=false", name)...)
	if got := run("podman", append(storage, "image", "inspect", "-f", "sha256:{{.Id}} {{.Digest}}", name)...); got != id+" "+digest {
		t.Errorf("podman pulled %s %s as %s", id, digest, got)
	}
	d := harness.Run(t, harness.Options{Kind: harness.Docker, NetOf: w, Flags: []string{"--bridge", "none", "--iptables=false"}})
	by(d, harness.OldDockerCLI(), "pull", "-q", name)
	if got := by(d, harness.OldDockerCLI(), "image", "inspect", "-f", "{{.Id}} {{index .RepoDigests 0}}", name); got != id+" "+host+"/plain@"+digest {
		t.Errorf("docker pulled %s %s as %s", id, digest, got)
	}
}
