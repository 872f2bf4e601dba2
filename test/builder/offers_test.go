package builder

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// wherry makes a build that must succeed.
func wherry(t *testing.T, e *harness.Engine, args ...string) string {
	t.Helper()
	out, code := client(t, e, nil, nil, append([]string{harness.Binary("wherry")}, args...)...)
	if code != 0 {
		t.Fatalf("wherry %v: exit %d\n%s", args, code, out)
	}
	return out
}

// inside runs a command in a container of an image.
func inside(t *testing.T, e *harness.Engine, image string, command ...string) string {
	t.Helper()
	out, stderr, code, err := e.CLI(append([]string{"run", "--rm", image}, command...)...)
	if err != nil || code != 0 {
		t.Fatalf("%v: %q %d %v", command, stderr, code, err)
	}
	return out
}

// The limits that a client gives are in effect inside of a step, with each client.
func TestLimits(t *testing.T) {
	e := engine(t, "")
	show := `cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max; ` +
		`ulimit -n; df -k /dev/shm | tail -1 | awk '{print $2}'`
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN ( " + show + " ) 2>/dev/null > /seen; true\n"})
	limits := []string{"--ulimit", "nofile=77:88", "--shm-size", "2m", "--memory", "64m", "--cpu-quota", "50000", "--cpu-period", "100000"}
	v1, v2 := "67108864 50000 77 2048", "67108864 50000 100000 77 2048"
	for _, c := range []struct {
		name string
		env  []string
		args []string
	}{
		{"wherry", nil, []string{harness.Binary("wherry"), "build"}},
		{"classic", classicEnv, []string{harness.DockerCLI(), "build"}},
	} {
		args := append(append(c.args, limits...), "--no-cache", "-t", "t", dir)
		if out, code := client(t, e, c.env, nil, args...); code != 0 {
			t.Errorf("%s: exit %d\n%s", c.name, code, out)
			continue
		}
		if got := strings.Join(strings.Fields(inside(t, e, "t", "cat", "/seen")), " "); got != v1 && got != v2 {
			t.Errorf("%s: a step sees %q", c.name, got)
		}
	}
	// The group of a step lies below the parent that was asked for.
	dir = files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN --mount=type=bind,target=/c sleep 1234\n"})
	cmd := e.Command(t.Context(), harness.Binary("wherry"), "build", "--cgroup-parent", e.CgroupParent("memory")+"/asked", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the step runs", func() bool { return sleeps(e) == 1 })
	found := false
	for _, pid := range pidsOf(t, "sleep\x001234\x00") {
		b, err := os.ReadFile("/proc/" + pid + "/cgroup")
		found = found || err == nil && strings.Contains(string(b), "/asked/")
	}
	if !found {
		t.Error("the step is not below --cgroup-parent")
	}
	cmd.Process.Kill()
	cmd.Wait()
	eventually(t, "the step of a killed client ends", func() bool { return sleeps(e) == 0 })
}

func pidsOf(t *testing.T, command string) (pids []string) {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if b, err := os.ReadFile(f); err == nil && string(b) == command {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}

// A step that asks for it talks to the user's ssh agent, and another does not.
func TestSSH(t *testing.T) {
	e := engine(t, "")
	dir := t.TempDir()
	if _, err := harness.Program(dir, "./test/builder/testdata/sshlist"); err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	text := "FROM busybox\nCOPY sshlist /bin/\nUSER 1000\nRUN --mount=type=ssh,required=true,uid=1000 sshlist > /tmp/seen\nRUN test -z \"$SSH_AUTH_SOCK\"; ! ls /run/buildkit\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	wherry(t, e, "build", "--ssh", "default="+keyFile, "-t", "t", dir)
	if out := inside(t, e, "t", "cat", "/tmp/seen"); out != "keys: 1\n" {
		t.Errorf("the step saw %q", out)
	}
	out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "--no-cache", dir)
	if code == 0 || !strings.Contains(out, "unset ssh forward key default") {
		t.Errorf("without --ssh: exit %d\n%s", code, out)
	}
	out, code = client(t, e, nil, nil, buildx(t, e)[1], "build", "--no-cache", "--ssh", "default="+keyFile, dir)
	if code != 0 {
		t.Errorf("buildx: exit %d\n%s", code, out)
	}
}

// As many layers as docker can have.
func TestManyLayers(t *testing.T) {
	e := engine(t, "")
	const layers = 125 // and two more, which makes 127
	text := "FROM scratch\nCOPY f /f0\n"
	for i := 1; i < layers; i++ {
		text += fmt.Sprintf("COPY f /f%d\n", i)
	}
	dir := files(t, map[string]string{"f": "x", "Dockerfile": text, "D": "FROM many\nCOPY --from=busybox /bin /bin\nRUN ls / | grep -c ^f > /count\n", "E": "FROM more\nCOPY f /one\nCOPY f /more\n"})
	wherry(t, e, "build", "-t", "many", dir)
	wherry(t, e, "build", "-t", "more", "-f", dir+"/D", dir)
	out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "-f", dir+"/E", dir)
	if code == 0 || !strings.Contains(out, "max depth exceeded") {
		t.Errorf("a layer too many: exit %d\n%s", code, out)
	}
	if out := inside(t, e, "more", "/bin/cat", "/count"); out != fmt.Sprintln(layers) {
		t.Errorf("%q files", out)
	}
}

// Contexts by name: an OCI layout, a repository, a stage of another build.
func TestNamedContexts(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo layout > /said\n", "D": "FROM other AS a\nFROM busybox\nCOPY --from=other /said /said\n"})
	layout := filepath.Join(t.TempDir(), "layout")
	wherry(t, e, "build", "-o", "type=oci,tar=false,dest="+layout, dir)
	wherry(t, e, "build", "-t", "t", "-f", dir+"/D", "--build-context", "other=oci-layout://"+layout, dir)
	if out := inside(t, e, "t", "cat", "/said"); out != "layout\n" {
		t.Errorf("oci-layout: %q", out)
	}
	out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "-f", dir+"/D", "--build-context", "other=oci-layout://"+layout+"/missing", dir)
	if code == 0 || !strings.Contains(out, "missing") {
		t.Errorf("a layout that is not there: exit %d\n%s", code, out)
	}
}

// An image by its digest alone is found, whatever its tags are.
func TestFromDigest(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo one > /said\n"})
	meta := filepath.Join(t.TempDir(), "meta")
	wherry(t, e, "build", "-t", "nowhere.invalid/base:1", "--metadata-file", meta, dir)
	var m struct {
		Digest string `json:"containerimage.digest"`
	}
	b, err := os.ReadFile(meta)
	if err != nil || json.Unmarshal(b, &m) != nil || m.Digest == "" {
		t.Fatalf("%s %v", b, err)
	}
	for _, from := range []string{"nowhere.invalid/base@", "nowhere.invalid/base:1@", "nowhere.invalid/base:other@"} {
		dir := files(t, map[string]string{"Dockerfile": "FROM " + from + m.Digest + "\nRUN cat /said > /again\n"})
		out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "--progress", "plain", "-t", "t", dir)
		if code != 0 {
			t.Errorf("%s: exit %d\n%s", from, code, out)
			continue
		}
		if out := inside(t, e, "t", "cat", "/again"); out != "one\n" {
			t.Errorf("%s: %q", from, out)
		}
	}
}

// The cache travels by a registry, a directory, and inside of an image, to an
// engine that has nothing.
func TestCacheTravels(t *testing.T) {
	e := engine(t, "")
	const registry = "127.0.0.1:5001"
	e.ServeRegistry(t, registry)
	store := t.TempDir()
	for _, how := range []struct{ name, to, from string }{
		{"registry", "type=registry,mode=max,ref=" + registry + "/cache:1", "type=registry,ref=" + registry + "/cache:1"},
		{"local", "type=local,mode=max,dest=" + store, "type=local,src=" + store},
		{"inline", "type=inline", "type=registry,ref=" + registry + "/image:1"},
	} {
		dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo " + how.name + " $(cat /proc/sys/kernel/random/uuid) > /made\n"})
		wherry(t, e, "build", "-t", registry+"/image:1", "--push", "--cache-to", how.to, dir)
		first := inside(t, e, registry+"/image:1", "cat", "/made")
		wherry(t, e, "rmi", "-f", registry+"/image:1")
		for range 2 {
			wherry(t, e, "builder", "prune", "-af")
			out := wherry(t, e, "build", "--progress", "plain", "--cache-from", how.from, "-t", "t", dir)
			made := inside(t, e, "t", "cat", "/made")
			if !strings.HasPrefix(made, how.name) || made != first {
				t.Errorf("%s: %q, before %q\n%s", how.name, made, first, out)
			}
			wherry(t, e, "rmi", "-f", "t")
		}
	}
}

// The cache that an image carries is taken from the image that is here, by all
// clients, whether a registry has it or not.
func TestCacheHere(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /made\n"})
	wherry(t, e, "build", "-t", "carries", "--cache-to", "type=inline", dir)
	first := inside(t, e, "carries", "cat", "/made")
	for _, program := range [][]string{{harness.Binary("wherry"), "build"}, {buildx(t, e)[1], "build"}} {
		wherry(t, e, "builder", "prune", "-af")
		out, code := client(t, e, nil, nil, append(program, "--progress", "plain", "--cache-from", "carries", "-t", "t", dir)...)
		if made := inside(t, e, "t", "cat", "/made"); code != 0 || made != first || strings.Contains(out, "registry-1") {
			t.Errorf("%v: exit %d, %q, before %q\n%s", program, code, made, first, out)
		}
		wherry(t, e, "rmi", "-f", "t")
	}
	// One without a cache is none; the build goes on.
	wherry(t, e, "tag", "busybox", "plain")
	out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "--progress", "plain", "--no-cache", "--cache-from", "plain", "-t", "t", dir)
	if made := inside(t, e, "t", "cat", "/made"); code != 0 || made == first || !strings.Contains(out, "importing cache manifest from plain") {
		t.Errorf("exit %d, %q\n%s", code, made, out)
	}
}

// What is said about an image goes with it to a registry.
func TestAttestations(t *testing.T) {
	e := engine(t, "")
	const registry = "127.0.0.1:5001"
	e.ServeRegistry(t, registry)
	// A scanner is an image that writes what it finds.
	scan := `#!/bin/sh
test -d $BUILDKIT_SCAN_SOURCE || exit 1
echo '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","predicate":{"name":"found"}}' > $BUILDKIT_SCAN_DESTINATION/found.spdx.json
`
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo x > /made\n", "S": "FROM busybox\nCOPY --chmod=755 scan /scan\nENTRYPOINT [\"/scan\"]\n", "scan": scan})
	wherry(t, e, "build", "-q", "-t", registry+"/scanner:1", "-f", dir+"/S", "--push", dir)
	wherry(t, e, "build", "-t", registry+"/said:1", "--push", "--provenance", "mode=max", "--sbom", "generator="+registry+"/scanner:1", dir)
	wherry(t, e, "rmi", registry+"/said:1", registry+"/scanner:1")
	wherry(t, e, "builder", "prune", "-af")
	bx := buildx(t, e)[1]
	for what, want := range map[string]string{"{{json .SBOM}}": `"name":"found"`, "{{json .Provenance}}": `"echo x`} {
		out, code := client(t, e, nil, nil, "nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", e.PID()), bx, "imagetools", "inspect", "--format", what, registry+"/said:1")
		if out = strings.Join(strings.Fields(out), ""); code != 0 || !strings.Contains(out, strings.ReplaceAll(want, " ", "")) {
			t.Errorf("%s: exit %d\n%s", what, code, out)
		}
	}
	out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "--sbom", "generator="+registry+"/missing:1", dir)
	if code == 0 || !strings.Contains(out, registry+"/missing:1: not found") {
		t.Errorf("a scanner that is nowhere: exit %d\n%s", code, out)
	}
}

// The history of builds, as buildx asks for it.
func TestHistoryOfBuildx(t *testing.T) {
	e := engine(t, "")
	bx := buildx(t, e)[1]
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo in the log\n"})
	run := func(args ...string) string {
		t.Helper()
		out, code := client(t, e, nil, nil, append([]string{bx}, args...)...)
		if code != 0 {
			t.Errorf("buildx %v: exit %d\n%s", args, code, out)
		}
		return out
	}
	if out := run("build", "--progress", "plain", "-t", "t", dir); strings.Contains(out, ":sha256-") {
		t.Errorf("a base has a tag that nobody gave it:\n%s", out)
	}
	id := strings.TrimSpace(run("history", "ls", "--format", "{{.Ref}}"))
	id = id[strings.LastIndex(id, "/")+1:]
	if out := run("history", "inspect", id); !strings.Contains(out, "Build Steps:") || !strings.Contains(out, "https://slsa.dev/provenance") {
		t.Errorf("inspect:\n%s", out)
	}
	if out := run("history", "logs", id); !strings.Contains(out, "in the log") {
		t.Errorf("logs:\n%s", out)
	}
	bundle := filepath.Join(t.TempDir(), "b.dockerbuild")
	run("history", "export", "-o", bundle, id)
	if info, err := os.Stat(bundle); err != nil || info.Size() == 0 {
		t.Errorf("export: %v", err)
	}
	run("history", "inspect", "attachment", "--type", "https://slsa.dev/provenance/v1", id)
	// wherry shows the same.
	if out := wherry(t, e, "builder", "history", "inspect", "--format", "{{range .Attachments}}{{.Type}} {{end}}", id); !strings.Contains(out, "https://slsa.dev/provenance/v1 ") {
		t.Errorf("wherry's inspect lists %q", out)
	}
	for kind, want := range map[string]string{"provenance": `"buildType"`, "manifest": `"layers"`} {
		if out := wherry(t, e, "builder", "history", "inspect", "attachment", "--type", kind, id); !strings.Contains(out, want) {
			t.Errorf("wherry's attachment %s:\n%s", kind, out)
		}
	}
	for args, want := range map[string]string{
		"inspect attachment --type sbom " + id: "no matching attachment found for ref", "inspect attachment " + id: "at least one of --type, --platform or DIGEST must be specified",
		"export -o x": "docker buildx history export", "import -f x": "Docker Desktop", "open": "Docker Desktop", "trace": "records no traces",
	} {
		out, code := client(t, e, nil, nil, append([]string{harness.Binary("wherry"), "builder", "history"}, strings.Fields(args)...)...)
		if code != 1 || !strings.Contains(out, want) {
			t.Errorf("wherry builder history %s: exit %d\n%s", args, code, out)
		}
	}
	run("history", "rm", id)
	if out := run("history", "ls", "--format", "{{.Ref}}"); strings.TrimSpace(out) != "" {
		t.Errorf("after rm: %s", out)
	}
}

// COPY and ADD keep the times of files, and tell them apart to the second.
func TestTimes(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"f": "x", "d/g": "x", "Dockerfile": "FROM busybox\nCOPY f d /c/\nADD f /a/\nCOPY --chmod=600 --chown=1:2 f /o\n"})
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, f := range []string{"f", "d/g"} {
		if err := os.Chtimes(filepath.Join(dir, f), old, old); err != nil {
			t.Fatal(err)
		}
	}
	want := strings.Repeat(fmt.Sprintln(old.Unix()), 4)
	wherry(t, e, "build", "-t", "t", dir)
	if out := inside(t, e, "t", "stat", "-c", "%Y", "/c/f", "/c/g", "/a/f", "/o"); out != want {
		t.Errorf("BuildKit: %q", out)
	}
	docker(t, e, classicEnv, "build", "--no-cache", "-t", "t", dir)
	if out := inside(t, e, "t", "stat", "-c", "%Y", "/c/f", "/c/g", "/a/f", "/o"); out != want {
		t.Errorf("classic: %q", out)
	}
}

// A name for the host leads to where the engine's default network has it.
func TestHostGateway(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN grep far /etc/hosts > /far\n"})
	gateway := strings.TrimSpace(wherry(t, e, "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge"))
	for _, c := range []struct {
		env  []string
		args []string
	}{
		{nil, []string{harness.Binary("wherry"), "build"}},
		{nil, []string{buildx(t, e)[1], "build"}},
		{classicEnv, []string{harness.DockerCLI(), "build"}},
	} {
		out, code := client(t, e, c.env, nil, append(c.args, "--no-cache", "-t", "t", "--add-host", "near:1.2.3.4", "--add-host", "far:host-gateway", dir)...)
		if code != 0 {
			t.Errorf("%v: exit %d\n%s", c.args, code, out)
			continue
		}
		if got := strings.Fields(inside(t, e, "t", "cat", "/far")); len(got) != 2 || got[0] != gateway {
			t.Errorf("%v: %q, want %s", c.args, got, gateway)
		}
	}
}
