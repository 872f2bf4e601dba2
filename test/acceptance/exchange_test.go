package acceptance

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestExchange passes one image round: what wherry pushes and saves, skopeo,
// podman, buildah and docker pull and load, and what they push and save, wherry
// takes. The image's id stays, and the manifest's digest wherever the other
// program does not rewrite manifests.
func TestExchange(t *testing.T) {
	harness.Require(t, "root", "engine", "busybox", "dockerd", "skopeo", "podman", "buildah")
	w := harness.Run(t, harness.Options{Flags: []string{"--bridge", "none"}})
	dir := t.TempDir()
	in := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", w.PID()), name}, args...)...)
		cmd.Dir = dir
		return cmd
	}
	host := w.ServeRegistry(t, "127.0.0.1:0")
	run := func(name string, args ...string) string {
		t.Helper()
		b, err := in(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, b)
		}
		return strings.TrimSpace(string(b))
	}
	wherry := func(args ...string) string {
		t.Helper()
		stdout, stderr, code, err := w.Run(harness.Binary("wherry"), nil, args...)
		if err != nil || code != 0 {
			t.Fatalf("wherry %s: %d %v\n%s%s", strings.Join(args, " "), code, err, stdout, stderr)
		}
		return strings.TrimSpace(stdout)
	}
	im, err := harness.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	im.Names = []string{"img:1"}
	im.Layers = append(im.Layers, []harness.File{{Name: "extra", Mode: 0o640, Data: []byte("extra"), UID: 33}})
	if err := w.Load(im.OCIArchive("gzip")); err != nil {
		t.Fatal(err)
	}
	id := wherry("image", "inspect", "-f", "{{.Id}}", "img:1")
	digestOf := func(tag string) string {
		t.Helper()
		return run("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", "docker://"+host+"/"+tag)
	}
	wherry("tag", "img:1", host+"/img:w")
	wherry("push", "-q", host+"/img:w")
	digest := digestOf("img:w")
	// taken pulls what somebody pushed, and removes it again.
	taken := func(who, tag string, same bool) {
		t.Helper()
		wherry("rmi", "-f", id)
		wherry("pull", "-q", host+"/"+tag)
		if got := wherry("image", "inspect", "-f", "{{.Id}}", host+"/"+tag); got != id {
			t.Errorf("%s pushed the image %s as %s", who, id, got)
		}
		if got := digestOf(tag); same && got != digest {
			t.Errorf("%s pushed the manifest %s as %s", who, digest, got)
		}
	}
	loaded := func(who, file string) {
		t.Helper()
		wherry("rmi", "-f", id)
		said := wherry("load", "-i", filepath.Join(dir, file))
		if got := wherry("image", "inspect", "-f", "{{.Id}}", id); got != id {
			t.Errorf("%s saved the image %s, loaded as: %s", who, id, said)
		}
		wherry("run", "--rm", "--network", "none", id, "cat", "/extra")
	}
	saved := filepath.Join(dir, "wherry.tar")
	wherry("save", "-o", saved, "img:1")

	skopeo := func(from, to string) {
		t.Helper()
		run("skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", "--insecure-policy", from, to)
	}
	skopeo("docker://"+host+"/img:w", "docker://"+host+"/by/skopeo:1")
	taken("skopeo", "by/skopeo:1", true)
	skopeo("oci-archive:"+saved, "docker://"+host+"/by/skopeo:2")
	taken("skopeo, from our archive,", "by/skopeo:2", true)
	skopeo("docker-archive:"+saved, "docker://"+host+"/by/skopeo:3")
	taken("skopeo, from our docker-archive,", "by/skopeo:3", false)
	skopeo("docker://"+host+"/img:w", "oci-archive:skopeo-oci.tar:img:1")
	loaded("skopeo", "skopeo-oci.tar")
	skopeo("docker://"+host+"/img:w", "docker-archive:skopeo-docker.tar:img:1")
	loaded("skopeo, as docker-archive,", "skopeo-docker.tar")

	storage := []string{"--root", filepath.Join(dir, "storage"), "--runroot", filepath.Join(dir, "storage-run"), "--storage-driver", "vfs"}
	podman := func(args ...string) string {
		t.Helper()
		return run("podman", append(append([]string{}, storage...), args...)...)
	}
	podman("pull", "-q", "--tls-verify=false", host+"/img:w")
	if got := podman("image", "inspect", "-f", "sha256:{{.Id}}", host+"/img:w"); got != id {
		t.Errorf("podman pulled %s as %s", id, got)
	}
	podman("push", "-q", "--tls-verify=false", host+"/img:w", host+"/by/podman:1")
	taken("podman", "by/podman:1", false)
	podman("save", "-q", "-o", "podman-docker.tar", host+"/img:w")
	loaded("podman", "podman-docker.tar")
	podman("save", "-q", "--format", "oci-archive", "-o", "podman-oci.tar", host+"/img:w")
	loaded("podman, as oci-archive,", "podman-oci.tar")
	podman("rmi", "-f", host+"/img:w")
	podman("load", "-q", "-i", saved)
	if got := podman("image", "inspect", "-f", "sha256:{{.Id}}", "img:1"); got != id {
		t.Errorf("podman loaded %s as %s", id, got)
	}
	buildah := func(args ...string) string {
		t.Helper()
		return run("buildah", append(append([]string{}, storage...), args...)...)
	}
	buildah("pull", "-q", "--tls-verify=false", host+"/img:w")
	buildah("push", "-q", "--tls-verify=false", host+"/img:w", "docker://"+host+"/by/buildah:1")
	taken("buildah", "by/buildah:1", false)
	buildah("push", "-q", host+"/img:w", "oci-archive:buildah.tar:img:1")
	loaded("buildah", "buildah.tar")

	d := harness.Run(t, harness.Options{Kind: harness.Docker, NetOf: w, Flags: []string{"--bridge", "none", "--iptables=false"}})
	docker := func(args ...string) string {
		t.Helper()
		stdout, stderr, code, err := d.Run(harness.OldDockerCLI(), nil, args...)
		if err != nil || code != 0 {
			t.Fatalf("docker %s: %d %v\n%s%s", strings.Join(args, " "), code, err, stdout, stderr)
		}
		return strings.TrimSpace(stdout)
	}
	docker("pull", "-q", host+"/img:w")
	if got := docker("image", "inspect", "-f", "{{.Id}} {{index .RepoDigests 0}}", host+"/img:w"); got != id+" "+host+"/img@"+digest {
		t.Errorf("docker pulled %s %s as %s", id, digest, got)
	}
	docker("tag", host+"/img:w", host+"/by/docker:1")
	docker("push", "-q", host+"/by/docker:1")
	taken("docker", "by/docker:1", false)
	docker("save", "-o", filepath.Join(dir, "docker.tar"), host+"/img:w")
	loaded("docker", "docker.tar")
	docker("rmi", "-f", id)
	docker("load", "-q", "-i", saved)
	if got := docker("image", "inspect", "-f", "{{.Id}}", "img:1"); got != id {
		t.Errorf("docker loaded %s as %s", id, got)
	}
}
