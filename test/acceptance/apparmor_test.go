package acceptance

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/internal/linux/apparmor"
	"github.com/wherry-engine/wherry/test/harness"
)

// TestProfileUnloaded: what is started after somebody has unloaded the default
// profile is confined nevertheless, be it a container, an exec or a step of a
// build.
func TestProfileUnloaded(t *testing.T) {
	harness.Require(t, "guest", "apparmor", "busybox")
	const profile, confined = "docker-default", "docker-default (enforce)"
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	cli := func(args ...string) string {
		t.Helper()
		out, errOut, code, err := e.CLI(args...)
		if err != nil || code != 0 {
			t.Fatalf("%v: exit %d %v\n%s%s", args, code, err, out, errOut)
		}
		return out
	}
	unload := func() {
		t.Helper()
		if err := os.WriteFile("/sys/kernel/security/apparmor/.remove", []byte(profile), 0o600); err != nil {
			t.Fatal(err)
		}
		if there, err := apparmor.Loaded(profile); err != nil || there {
			t.Fatalf("the profile is still there (%v)", err)
		}
	}
	cli("run", "-d", "--name", "box", "busybox", "sleep", "1000")
	defer cli("rm", "-f", "box")
	for what, started := range map[string]func() string{
		"exec": func() string { return cli("exec", "box", "cat", "/proc/self/attr/current") },
		"run":  func() string { return cli("run", "--rm", "busybox", "cat", "/proc/self/attr/current") },
		"a container that ran before": func() string {
			cli("restart", "-t", "0", "box")
			return cli("exec", "box", "cat", "/proc/1/attr/current")
		},
		"a step": func() string {
			// Without a client's program, for the guest is slow.
			context, err := packed(map[string]string{"Dockerfile": "FROM busybox\nRUN cat /proc/self/attr/current\n"})
			if err != nil {
				t.Fatal(err)
			}
			code, body, err := e.API("POST", "/v1.41/build?nocache=1", context)
			if err != nil || code != 200 {
				t.Fatalf("build: %d %s %v", code, body, err)
			}
			var out strings.Builder
			for line := range bytes.Lines(body) {
				var m struct{ Stream string }
				if json.Unmarshal(line, &m) == nil && strings.HasPrefix(m.Stream, "docker-default") {
					out.WriteString(m.Stream)
				}
			}
			if out.Len() == 0 {
				return string(body)
			}
			return out.String()
		},
	} {
		unload()
		if got := strings.TrimSpace(started()); got != confined {
			t.Errorf("%s: %q after the profile was unloaded, want %q", what, got, confined)
		}
	}
}
