package acceptance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
	"github.com/wherry-engine/wherry/test/promise"
)

// TestWhichEngine: -H, --context, WHERRY_HOST, DOCKER_HOST, DOCKER_CONTEXT and
// the context that docker has set, each before the next.
func TestWhichEngine(t *testing.T) {
	one := harness.Run(t, harness.Options{Flags: []string{"--label", "name=one"}})
	two := harness.Run(t, harness.Options{Flags: []string{"--label", "name=two"}})
	config := t.TempDir()
	// As `docker context create two --docker host=...` leaves it.
	sum := sha256.Sum256([]byte("two"))
	meta := filepath.Join(config, "contexts", "meta", hex.EncodeToString(sum[:]))
	if err := os.MkdirAll(meta, 0o755); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{
		"Name": "two", "Metadata": map[string]any{},
		"Endpoints": map[string]any{"docker": map[string]any{"Host": two.Host(), "SkipTLSVerify": false}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(meta, "meta.json"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	clients := map[string]string{"wherry": harness.Binary("wherry")}
	link := filepath.Join(t.TempDir(), "docker")
	if err := os.Symlink(harness.Binary("wherry"), link); err != nil {
		t.Fatal(err)
	}
	clients["link named docker"] = link
	if have, _ := harness.Have("docker28"); have {
		clients["docker"] = harness.DockerCLI() // the tests are right about it
	}
	const nowhere = "unix:///nowhere/at/all.sock"
	for _, c := range []struct {
		name string
		env  []string
		args []string
		set  string // currentContext of config.json
		want string // label of the engine, or part of the error
	}{
		{"host flag", []string{"DOCKER_HOST=" + nowhere}, []string{"-H", two.Host()}, "", "name=two"},
		{"context flag", []string{"DOCKER_HOST=" + one.Host()}, []string{"--context", "two"}, "", "name=two"},
		{"default by flag", []string{"DOCKER_HOST=" + one.Host(), "DOCKER_CONTEXT=two"}, []string{"--context", "default"}, "two", "name=one"},
		{"environment", []string{"DOCKER_HOST=" + one.Host()}, nil, "two", "name=one"},
		{"host before context", []string{"DOCKER_HOST=" + one.Host(), "DOCKER_CONTEXT=two"}, nil, "", "name=one"},
		{"context in the environment", []string{"DOCKER_CONTEXT=two"}, nil, "", "name=two"},
		{"context that is set", nil, nil, "two", "name=two"},
		{"both flags", nil, []string{"-H", one.Host(), "--context", "two"}, "", "conflicting options: cannot specify both --host and --context"},
		{"unknown context", nil, []string{"--context", "three"}, "", `context "three"`},
		{"nobody there", []string{"DOCKER_HOST=" + nowhere}, nil, "", "/nowhere/at/all.sock"},
	} {
		for client, path := range clients {
			t.Run(c.name+"/"+client, func(t *testing.T) {
				text := "{}"
				if c.set != "" {
					text = `{"currentContext": "` + c.set + `"}`
				}
				if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				cmd := exec.CommandContext(context.Background(), path, append(c.args, "info", "-f", "{{index .Labels 0}}")...)
				cmd.Env = append([]string{"HOME=" + config, "PATH=" + os.Getenv("PATH"), "DOCKER_CONFIG=" + config}, c.env...)
				out, err := cmd.CombinedOutput()
				if wantErr := !strings.HasPrefix(c.want, "name="); (err != nil) != wantErr || !strings.Contains(string(out), c.want) {
					t.Errorf("%v %q, want %q", err, out, c.want)
				}
			})
		}
	}
	t.Run("WHERRY_HOST", func(t *testing.T) {
		cmd := exec.CommandContext(context.Background(), clients["wherry"], "info", "-f", "{{index .Labels 0}}")
		cmd.Env = []string{"DOCKER_CONFIG=" + config, "WHERRY_HOST=" + two.Host(), "DOCKER_HOST=" + one.Host()}
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "name=two\n" {
			t.Errorf("%v %q, want that WHERRY_HOST comes first", err, out)
		}
	})
}

// TestDockerLink: called by docker's name, wherry calls itself that.
func TestDockerLink(t *testing.T) {
	harness.Require(t, "engine")
	link := filepath.Join(t.TempDir(), "docker")
	if err := os.Symlink(harness.Binary("wherry"), link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
		ok   bool
	}{
		{[]string{"--version"}, "Docker version ", true},
		{[]string{"ps", "--help"}, "Usage:  docker ps [OPTIONS]", true},
		{[]string{"run"}, "'docker run' requires at least 1 argument", false},
		{[]string{"nothing"}, "docker: unknown command: docker nothing", false},
	} {
		out, err := exec.Command(link, c.args...).CombinedOutput()
		if (err == nil) != c.ok || !strings.Contains(string(out), c.want) {
			t.Errorf("%q: %v %q, want %q", c.args, err, out, c.want)
		}
		if strings.Contains(string(out), "wherry") {
			t.Errorf("%q speaks of wherry: %q", c.args, out)
		}
	}
}

// TestCompletion: each shell can read its script, and asking for candidates
// gives flags, commands and the names that the engine knows.
func TestCompletion(t *testing.T) {
	e := harness.Run(t, harness.Options{})
	for shell, check := range map[string][]string{"bash": {"-n"}, "zsh": {"-n"}, "fish": {"--no-execute"}} {
		t.Run(shell, func(t *testing.T) {
			script, err := exec.Command(harness.Binary("wherry"), "completion", shell).Output()
			if err != nil || len(script) == 0 {
				t.Fatalf("%v, %d bytes", err, len(script))
			}
			path := promise.Program(t, shell)
			if out, err := exec.Command(path, append(check, file(t, "script", string(script)))...).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	harness.Require(t, "busybox")
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	start(t, e, "running-one", "sleep", "1000")
	if code, body, err := e.API("POST", "/containers/create?name=created-one", map[string]any{"Image": "busybox"}); err != nil || code != 201 {
		t.Fatalf("create: %d %s %v", code, body, err)
	}
	for _, c := range []struct {
		words string
		want  []string
		not   string
	}{
		{"ru", []string{"run"}, "exec"},
		{"run --cap-", []string{"--cap-add", "--cap-drop"}, "--rm"},
		{"run ", []string{"busybox:latest"}, "running-one"},
		{"exec ", []string{"running-one"}, "created-one"},
		{"rm ", []string{"created-one"}, ""},
		{"run --network ", []string{"bridge", "host", "none"}, ""},
	} {
		words := strings.Split(c.words, " ")
		out, _, code, err := e.CLI(append([]string{"__complete"}, words...)...)
		if err != nil || code != 0 {
			t.Errorf("%q: %d %v", c.words, code, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains("\n"+out, "\n"+want) {
				t.Errorf("%q: no %q among\n%s", c.words, want, out)
			}
		}
		if c.not != "" && strings.Contains("\n"+out, "\n"+c.not) {
			t.Errorf("%q: %q among\n%s", c.words, c.not, out)
		}
	}
}
