package builder

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// private starts a registry that asks for the password of "me", of which it has
// the bcrypt hash, in the engine's network.
func private(t *testing.T, e *harness.Engine, addr, hash string) {
	t.Helper()
	e.ServeRegistry(t, addr, "--htpasswd", files(t, map[string]string{"users": "me:" + hash + "\n"})+"/users")
}

// The base of a classic build comes from a registry that asks for a password,
// with what the client sends in X-Registry-Config, and only with that.
func TestClassicPrivateBase(t *testing.T) {
	harness.Require(t, "docker28")
	e := engine(t, "")
	const registry, password = "127.0.0.1:5001", "open-sesame-4711"
	private(t, e, registry, "$2a$04$2UQ.Qt.gq/YUwjh2itYvoOtobxovDmm6Z543qu6VNtMt3H3rHojaO")
	run := func(stdin string, args ...string) {
		t.Helper()
		if out, code := client(t, e, nil, []byte(stdin), append([]string{harness.DockerCLI()}, args...)...); code != 0 {
			t.Fatalf("%v: exit %d\n%s", args, code, out)
		}
	}
	run("", "tag", "busybox", registry+"/team/base:1")
	run(password, "login", "-u", "me", "--password-stdin", registry)
	run("", "push", "-q", registry+"/team/base:1")
	run("", "rmi", registry+"/team/base:1", "busybox")

	text := "FROM " + registry + "/team/base:1\nRUN echo built > /said\n"
	build := func(tag, header string) string {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "POST", "http://engine/v1.41/build?pull=1&t="+tag, pack(map[string]string{"Dockerfile": text}))
		if err != nil {
			t.Fatal(err)
		}
		if header != "" {
			r.Header.Set("X-Registry-Config", header)
		}
		resp, err := e.HTTP().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	config := func(host, password string) string {
		b, err := json.Marshal(map[string]map[string]string{host: {"username": "me", "password": password, "serveraddress": host}})
		if err != nil {
			t.Fatal(err)
		}
		return base64.URLEncoding.EncodeToString(b)
	}
	for what, header := range map[string]string{
		"none": "", "a wrong password": config(registry, "guessed"), "another registry's": config("127.0.0.1:5002", password),
	} {
		out := build("refused", header)
		if strings.Contains(out, "Successfully built") || !strings.Contains(out, "errorDetail") || !strings.Contains(out, registry+"/team/base:1") || !strings.Contains(out, "401 Unauthorized") {
			t.Errorf("credentials: %s:\n%s", what, out)
		}
	}
	if out := build("api", config(registry, password)); !strings.Contains(out, "Successfully built") {
		t.Errorf("the right password:\n%s", out)
	}
	run("", "rmi", "api")
	// docker sends what it keeps of docker login.
	dir := files(t, map[string]string{"Dockerfile": text})
	docker(t, e, classicEnv, "build", "--pull", "--no-cache", "-t", "cli", dir)
	if out, stderr, code, err := e.CLI("run", "--rm", "cli", "cat", "/said"); err != nil || code != 0 || out != "built\n" {
		t.Errorf("%q %q %d %v", out, stderr, code, err)
	}
	run("", "logout", registry)
	out, code := client(t, e, classicEnv, nil, harness.DockerCLI(), "build", "--pull", "--no-cache", "-t", "late", dir)
	if code == 0 || !strings.Contains(out, "401 Unauthorized") {
		t.Errorf("after docker logout: exit %d\n%s", code, out)
	}
	// The password is the client's: the engine keeps it nowhere.
	found, err := exec.Command("grep", "-rl", password, e.DataRoot(), e.ExecRoot()).CombinedOutput()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("the password was kept: %v\n%s", err, found)
	}
	if strings.Contains(e.LogTail(10_000), password) {
		t.Error("the password was logged")
	}
}
