package builder

import (
	"bytes"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// A build of version 2 takes its context also as docker 20.10 sends an archive that is on
// its stdin, in a request of its own, and as programs do, in the build's body without a session.
func TestUploadedContext(t *testing.T) {
	e := engine(t, "")
	context := pack(map[string]string{"in/f": "hello", "in/Dockerfile": "FROM busybox\nCOPY in/f /f\n"}).Bytes()
	harness.Require(t, "docker20")
	buildkit := []string{"DOCKER_BUILDKIT=1"}
	out, code := client(t, e, buildkit, context, harness.OldDockerCLI(), "build", "--progress", "plain", "-t", "t:old", "-f", "in/Dockerfile", "-")
	if code != 0 {
		t.Errorf("docker 20.10: exit %d\n%s", code, out)
	} else if out := inside(t, e, "t:old", "cat", "/f"); out != "hello" {
		t.Errorf("docker 20.10 built a file with %q", out)
	}
	out, code = client(t, e, buildkit, context, harness.OldDockerCLI(), "build", "--progress", "plain", "-f", "missing", "-")
	if code == 0 || !strings.Contains(out, "open missing: no such file or directory") {
		t.Errorf("docker 20.10, without a Dockerfile: exit %d\n%s", code, out)
	}

	status, body, err := e.API("POST", "/v1.44/build?version=2&t=t:body&dockerfile=in/Dockerfile", bytes.NewReader(context))
	if err != nil || status != 200 || !strings.Contains(string(body), `"moby.image.id"`) {
		t.Errorf("in the body: %d %v %s", status, err, body)
	} else if out := inside(t, e, "t:body", "cat", "/f"); out != "hello" {
		t.Errorf("in the body: built a file with %q", out)
	}
	for _, c := range []struct{ query, want string }{
		{"&remote=client-session", "a build with remote=client-session needs a session: POST /session first"},
		{"&remote=upload-request&buildid=x", "no context came for the build x"},
		{"&buildid=upload-request:y", "no build y waits for a context"},
	} {
		status, body, err := e.API("POST", "/v1.44/build?version=2"+c.query, bytes.NewReader(context))
		if err != nil || status != 400 || !strings.Contains(string(body), c.want) {
			t.Errorf("%s: %d %v %s", c.query, status, err, body)
		}
	}
}
