// Package builder tests the builder with real clients: what they print, what
// is built, what stays after a kill, and what hostile Dockerfiles come to.
package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
	"github.com/wherry-engine/wherry/test/promise"
)

// engine starts one with busybox.
func engine(t *testing.T, config string) *harness.Engine {
	t.Helper()
	harness.Require(t, "engine", "busybox")
	e := harness.Run(t, harness.Options{Config: config})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	return e
}

// files writes a build context.
func files(t *testing.T, list map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range list {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// buildx gives the docker client, and its buildx.
func buildx(t *testing.T, e *harness.Engine) []string {
	t.Helper()
	harness.Require(t, "docker28")
	return []string{harness.DockerCLI(), harness.Buildx(t)}
}

// client runs a client with settings of its own in its environment.
func client(t *testing.T, e *harness.Engine, env []string, stdin []byte, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := e.Command(ctx, args[0], args[1:]...)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.WaitDelay = time.Second
	b, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

var classicEnv = []string{"DOCKER_BUILDKIT=0"}

// docker makes a build that must succeed, and gives its output.
func docker(t *testing.T, e *harness.Engine, env []string, args ...string) string {
	t.Helper()
	harness.Require(t, "docker28")
	out, code := client(t, e, env, nil, append([]string{harness.DockerCLI()}, args...)...)
	if code != 0 {
		t.Fatalf("%v: exit %d\n%s", args, code, out)
	}
	return out
}

const hello = "FROM busybox\nLABEL a=b\nCOPY f /f\nRUN cat /f > /g && echo said\nCMD [\"cat\", \"/g\"]\n"

var classicHello = regexp.MustCompile(`(?s)Step 1/5 : FROM busybox
 ---> [0-9a-f]{12}
Step 2/5 : LABEL a=b
 ---> Using cache
 ---> [0-9a-f]{12}
Step 3/5 : COPY f /f
 ---> [0-9a-f]{12}
Step 4/5 : RUN cat /f > /g && echo said
 ---> Running in [0-9a-f]{12}
said
 ---> Removed intermediate container [0-9a-f]{12}
 ---> [0-9a-f]{12}
Step 5/5 : CMD \["cat", "/g"\]
 ---> Running in [0-9a-f]{12}
 ---> Removed intermediate container [0-9a-f]{12}
 ---> [0-9a-f]{12}
Successfully built [0-9a-f]{12}
Successfully tagged t:classic
$`)

// The clients that people have build the same Dockerfile, and share the cache.
func TestClients(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"Dockerfile": hello, "f": "content\n"})
	out := docker(t, e, classicEnv, "build", "-t", "t:classic", dir)
	if !classicHello.MatchString(out) {
		t.Errorf("classic build printed\n%s", out)
	}
	if out := docker(t, e, classicEnv, "build", "-t", "t:classic", dir); strings.Count(out, "Using cache") != 4 {
		t.Errorf("classic build again printed\n%s", out)
	}
	// --cache-from names the only images whose steps count.
	for ref, steps := range map[string]int{"t:classic": 4, "nosuchimage": 0} {
		if out := docker(t, e, classicEnv, "build", "--cache-from", ref, dir); strings.Count(out, "Using cache") != steps {
			t.Errorf("classic build with --cache-from %s printed\n%s", ref, out)
		}
	}
	harness.Require(t, "docker20")
	out, code := client(t, e, []string{"DOCKER_BUILDKIT=1"}, nil, harness.OldDockerCLI(), "build", "--progress", "plain", "-t", "t:old", dir)
	if code != 0 || !strings.Contains(out, "CACHED") {
		t.Errorf("docker 20.10 with BuildKit: exit %d\n%s", code, out)
	}
	bx := buildx(t, e)
	out, code = client(t, e, nil, nil, bx[1], "build", "--progress", "plain", "-t", "t:x", dir)
	if code != 0 || !strings.Contains(out, "CACHED") {
		t.Errorf("buildx: exit %d\n%s", code, out)
	}
	for _, tag := range []string{"classic", "old", "x"} {
		stdout, stderr, code, err := e.CLI("run", "--rm", "t:"+tag)
		if err != nil || code != 0 || stdout != "content\n" {
			t.Errorf("run t:%s: %q %q %d %v", tag, stdout, stderr, code, err)
		}
	}
}

// A step that fails gives its exit code and the reason, in both builders' words.
func TestFailure(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo last words >&2; exit 3\n"})
	out, code := client(t, e, classicEnv, nil, harness.DockerCLI(), "build", dir)
	if code != 3 || !strings.Contains(out, "last words") || !strings.Contains(out, "The command '/bin/sh -c echo last words >&2; exit 3' returned a non-zero code: 3") {
		t.Errorf("classic: exit %d\n%s", code, out)
	}
	out, code = client(t, e, nil, nil, buildx(t, e)[1], "build", "--progress", "plain", dir)
	if code == 0 || !strings.Contains(out, "last words") || !strings.Contains(out, "exit code: 3") || !strings.Contains(out, ">>> RUN echo last words") {
		t.Errorf("buildx: exit %d\n%s", code, out)
	}
	for text, want := range map[string]string{
		"FROM busybox\nNOPE\n":                                 "unknown instruction: NOPE",
		"FROM busybox\nCOPY nope /\n":                          "COPY failed: file not found in build context or excluded by .dockerignore: stat nope: file does not exist",
		"FROM busybox\nCOPY --from=missing / /x\n":             "missing",
		"FROM a AS b\nFROM b AS a\nFROM nowhere.invalid/x:1\n": "nowhere.invalid",
		"RUN true\n":                        "no build stage in current context",
		"":                                  "cannot be empty",
		"FROM busybox\nRUN [\"/nope\"]\n":   "/nope",
		"FROM busybox\nUSER nope\nRUN id\n": "unable to find user nope: no matching entries in passwd file\n",
	} {
		dir := files(t, map[string]string{"Dockerfile": text})
		out, code := client(t, e, classicEnv, nil, harness.DockerCLI(), "build", dir)
		if code == 0 || !strings.Contains(out, want) {
			t.Errorf("%q: exit %d\n%s", text, code, out)
		}
	}
}

// pack makes a build context as the API takes it.
func pack(list map[string]string) *bytes.Buffer {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range list {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			panic(err) // in memory
		}
		if _, err := w.Write([]byte(text)); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return &b
}

// What a client of the classic API can say arrives.
func TestClassicParameters(t *testing.T) {
	e := engine(t, "")
	text := "ARG base=nope\nFROM $base AS one\nARG who=x\nRUN echo $who > /who; cat /etc/hosts > /h; ulimit -n > /n; df -k /dev/shm | tail -1 > /shm\nFROM one AS two\nRUN false\n"
	query := `?dockerfile=sub/D&target=one&t=a&t=b:1&buildargs={"base":"busybox","who":"me"}&labels={"k":"v"}&extrahosts=far:1.2.3.4` +
		`&ulimits=[{"Name":"nofile","Soft":77,"Hard":88}]&shmsize=2097152&q=1`
	code, body, err := e.API("POST", "/v1.41/build"+strings.ReplaceAll(query, `"`, "%22"), pack(map[string]string{"sub/D": text}))
	if err != nil || code != 200 {
		t.Fatal(code, string(body), err)
	}
	var answer struct{ Stream string }
	if err := json.Unmarshal(body, &answer); err != nil || !strings.HasPrefix(answer.Stream, "sha256:") || len(answer.Stream) != 72 {
		t.Fatalf("a quiet build answered %s", body)
	}
	for _, name := range []string{"a", "b:1", strings.TrimSpace(answer.Stream)} {
		out, stderr, code, err := e.CLI("run", "--rm", name, "sh", "-c", "cat /who /n; grep far /h; awk '{print $2}' /shm")
		if err != nil || code != 0 || strings.Join(strings.Fields(out), " ") != "me 77 1.2.3.4 far 2048" {
			t.Errorf("%s: %q %q %d %v", name, out, stderr, code, err)
		}
	}
	out, _, _, err := e.CLI("inspect", "-f", "{{.Config.Labels.k}}", "a")
	if err != nil || strings.TrimSpace(out) != "v" {
		t.Errorf("label: %q %v", out, err)
	}
	for query, want := range map[string]string{
		"?version=9":                       "invalid version",
		"?t=UPPER":                         "must be lowercase",
		"?networkmode=container:x":         "not supported",
		"?memory=x":                        "invalid value for memory",
		"?version=2&remote=client-session": "session",
		"?isolation=hyperv":                "unsupported isolation",
		"?dockerfile=nope":                 "Cannot locate specified Dockerfile: nope",
	} {
		code, body, err := e.API("POST", "/v1.41/build"+query, pack(map[string]string{"Dockerfile": "FROM busybox\n"}))
		if err != nil || code == 200 && !bytes.Contains(body, []byte("errorDetail")) || !bytes.Contains(body, []byte(want)) {
			t.Errorf("%s: %d %s %v", query, code, body, err)
		}
	}
}

// A cancelled build ends its step.
func TestCancel(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo waiting; sleep 1234\n"})
	for _, how := range []string{"classic", "buildx"} {
		args, env := []string{harness.DockerCLI(), "build", dir}, classicEnv
		if how == "buildx" {
			args, env = []string{buildx(t, e)[1], "build", "--progress", "plain", dir}, nil
		}
		cmd := e.Command(t.Context(), args[0], args[1:]...)
		cmd.Env = append(cmd.Env, env...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, how+": the step runs", func() bool { return sleeps(e) == 1 })
		cmd.Process.Kill()
		cmd.Wait()
		eventually(t, how+": the step of a killed client ends", func() bool { return sleeps(e) == 0 })
	}
}

func sleeps(e *harness.Engine) (n int) {
	for _, p := range e.Processes() {
		if strings.Contains(p, "sleep 1234") {
			n++
		}
	}
	return n
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 20 s: %s", what)
}

// A foreign platform needs an emulator for its steps, and for nothing else.
func TestForeignPlatform(t *testing.T) {
	e := engine(t, "")
	bx := buildx(t, e)
	dir := files(t, map[string]string{"f": "x", "Dockerfile": "FROM scratch AS copied\nCOPY --chmod=755 f /f\nFROM copied\nRUN [\"/f\"]\n"})
	out, code := client(t, e, nil, nil, bx[1], "build", "--platform", "linux/s390x", "--target", "copied", "-t", "foreign", dir)
	if code != 0 {
		t.Errorf("without a step: exit %d\n%s", code, out)
	}
	if out, _, _, err := e.CLI("inspect", "-f", "{{.Architecture}}", "foreign"); err != nil || strings.TrimSpace(out) != "s390x" {
		t.Errorf("%q %v", out, err)
	}
	if _, err := os.Stat("/proc/sys/fs/binfmt_misc/qemu-s390x"); err == nil {
		t.Skip("an emulator is registered here")
	}
	out, code = client(t, e, nil, nil, bx[1], "build", "--platform", "linux/s390x", dir)
	if code == 0 || !strings.Contains(out, "cannot run a step for linux/s390x on this machine: no emulator is registered") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

// docker-compose 1.29 builds through the classic API.
func TestCompose(t *testing.T) {
	const compose = "/usr/bin/docker-compose"
	if _, err := os.Stat(compose); err != nil {
		promise.Lacks(t, "compose1", err)
	}
	e := engine(t, "")
	dir := files(t, map[string]string{
		"web/Dockerfile":     "FROM busybox AS first\nARG who\nRUN echo $who > /who\nFROM first\nRUN false\n",
		"docker-compose.yml": "version: '3.4'\nservices:\n  web:\n    image: composed:1\n    build:\n      context: ./web\n      target: first\n      args: {who: compose}\n      labels: {k: v}\n",
	})
	out, code := client(t, e, []string{"COMPOSE_DOCKER_CLI_BUILD=0", "DOCKER_BUILDKIT=0"}, nil, compose, "-f", dir+"/docker-compose.yml", "build")
	if code != 0 || !strings.Contains(out, "Successfully tagged composed:1") {
		t.Fatalf("exit %d\n%s", code, out)
	}
	if out, _, _, err := e.CLI("run", "--rm", "composed:1", "cat", "/who"); err != nil || out != "compose\n" {
		t.Errorf("%q %v", out, err)
	}
}

// Contexts from elsewhere: a tar and a Dockerfile by http, and a repository.
func TestRemoteContext(t *testing.T) {
	harness.Require(t, "engine", "busybox")
	e := harness.Run(t, harness.Options{HostNet: true, Flags: []string{"--bridge", "none"}})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=n", "-c", "user.email=e", "-C", dir + "/work"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	if err := os.MkdirAll(dir+"/work/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/work/sub/Dockerfile", []byte("FROM busybox\nCOPY f /f\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/work/sub/f", []byte("from git\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	git("init", "-q", "-b", "main")
	git("add", "-A")
	git("commit", "-q", "-m", "one")
	git("clone", "-q", "--bare", ".", dir+"/repo.git")
	git("--git-dir", dir+"/repo.git", "update-server-info")
	mux := http.NewServeMux()
	mux.Handle("/repo.git/", http.FileServer(http.Dir(dir)))
	mux.HandleFunc("/c.tar", func(w http.ResponseWriter, _ *http.Request) {
		w.Write(pack(map[string]string{"Dockerfile": "FROM busybox\nCOPY f /f\n", "f": "from a tar\n"}).Bytes())
	})
	mux.HandleFunc("/Dockerfile", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("FROM busybox\nRUN --network=none echo from a file > /f\n"))
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	for remote, want := range map[string]string{
		"/c.tar": "from a tar\n", "/Dockerfile": "from a file\n", "/repo.git%23main:sub": "from git\n",
	} {
		code, body, err := e.API("POST", "/v1.41/build?t=r&remote="+server.URL+remote, nil)
		if err != nil || code != 200 || !bytes.Contains(body, []byte("Successfully built")) {
			t.Errorf("%s: %d %s %v", remote, code, body, err)
			continue
		}
		if out, stderr, _, err := e.CLI("run", "--rm", "--network", "none", "r", "cat", "/f"); err != nil || out != want {
			t.Errorf("%s: %q %q %v", remote, out, stderr, err)
		}
	}
}
