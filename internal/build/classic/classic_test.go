package classic

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/moby/api/types/jsonstream"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// said collects the lines, with ids left out.
type said struct{ text strings.Builder }

func (s *said) message(m jsonstream.Message) { s.text.WriteString(m.Stream) }

func (s *said) lines() []string {
	var out []string
	for line := range strings.Lines(s.text.String()) {
		line = strings.TrimSuffix(line, "\n")
		for _, prefix := range []string{" ---> Running in ", " ---> Removed intermediate container ", " ---> Using cache", " ---> ", "Successfully built "} {
			if strings.HasPrefix(line, prefix) {
				line = strings.TrimSpace(prefix)
				break
			}
		}
		out = append(out, line)
	}
	return out
}

func output(dockerfile, target string, triggers ...string) (*Output, *said, error) {
	s := &said{}
	o := New(s.message, true, false, func(ref string) (string, []string) { return "sha256:0123456789abcdef", triggers })
	return o, s, o.Plan([]byte(dockerfile), target)
}

// report tells of vertices: "name" starts, "name!" ends, "name~" is cached.
func report(t *testing.T, o *Output, names ...string) {
	t.Helper()
	var s controlapi.StatusResponse
	for _, n := range names {
		v := &controlapi.Vertex{Started: timestamppb.Now()}
		if name, ok := strings.CutSuffix(n, "!"); ok {
			n, v.Completed = name, timestamppb.Now()
		} else if name, ok := strings.CutSuffix(n, "~"); ok {
			n, v.Completed, v.Cached = name, timestamppb.Now(), true
		}
		v.Name, v.Digest = n, n
		s.Vertexes = append(s.Vertexes, v)
	}
	if err := o.Status(&s); err != nil {
		t.Fatal(err)
	}
}

func log(t *testing.T, o *Output, name, text string) {
	t.Helper()
	if err := o.Status(&controlapi.StatusResponse{Logs: []*controlapi.VertexLog{{Vertex: name, Stream: 1, Msg: []byte(text)}}}); err != nil {
		t.Fatal(err)
	}
}

// The lines come in the Dockerfile's order, whatever the order of the steps.
func TestOrder(t *testing.T) {
	o, s, err := output("ARG v=1\nFROM busybox AS a\nRUN one\nFROM busybox AS unused\nRUN never\nFROM busybox\nCOPY --from=a /x /y\nENV k=v\nRUN two\n", "")
	if err != nil {
		t.Fatal(err)
	}
	report(t, o, "[a 1/2] FROM docker.io/library/busybox@sha256:0!", "[stage-2 1/3] FROM docker.io/library/busybox@sha256:0!")
	report(t, o, "[a 2/2] RUN one", "[stage-2 3/3] RUN two")
	log(t, o, "[stage-2 3/3] RUN two", "second\n")
	log(t, o, "[a 2/2] RUN one", "first\n")
	report(t, o, "[stage-2 3/3] RUN two!", "[stage-2 2/3] COPY --from=a /x /y!")
	report(t, o, "[a 2/2] RUN one!")
	o.Done("sha256:fedcba9876543210")
	want := []string{
		"Step 1/7 : ARG v=1", "Step 2/7 : FROM busybox AS a", "--->", "Step 3/7 : RUN one", "---> Running in", "first", "---> Removed intermediate container", "--->",
		"Step 4/7 : FROM busybox", "--->", "Step 5/7 : COPY --from=a /x /y", "--->", "Step 6/7 : ENV k=v", "---> Running in", "---> Removed intermediate container", "--->",
		"Step 7/7 : RUN two", "---> Running in", "second", "---> Removed intermediate container", "--->", "Successfully built",
	}
	if d := cmp.Diff(want, s.lines()); d != "" {
		t.Error(d)
	}
}

// What is cached, also what BuildKit did not have to look at, says so.
func TestCached(t *testing.T) {
	o, s, err := output("FROM busybox\nLABEL a=b\nRUN one\nRUN two\n", "")
	if err != nil {
		t.Fatal(err)
	}
	report(t, o, "[3/3] RUN two~")
	o.Done("sha256:fedcba9876543210")
	want := []string{
		"Step 1/4 : FROM busybox", "--->", "Step 2/4 : LABEL a=b", "---> Using cache", "--->", "Step 3/4 : RUN one", "---> Using cache", "--->",
		"Step 4/4 : RUN two", "---> Using cache", "--->", "Successfully built",
	}
	if d := cmp.Diff(want, s.lines()); d != "" {
		t.Error(d)
	}
}

// Triggers of the base come behind it, without lines of their own.
func TestTriggers(t *testing.T) {
	o, s, err := output("FROM parent\nRUN own\n", "", "COPY f /f", "RUN trigger")
	if err != nil {
		t.Fatal(err)
	}
	report(t, o, "[1/4] FROM docker.io/library/parent!", "[2/4] ONBUILD COPY f /f!", "[3/4] ONBUILD RUN trigger", "[4/4] RUN own")
	log(t, o, "[3/4] ONBUILD RUN trigger", "pulled\n")
	report(t, o, "[3/4] ONBUILD RUN trigger!", "[4/4] RUN own!")
	o.Done("sha256:fedcba9876543210")
	want := []string{
		"Step 1/2 : FROM parent", "--->", "# Executing 2 build triggers", "--->", "---> Running in", "pulled", "---> Removed intermediate container", "--->",
		"Step 2/2 : RUN own", "---> Running in", "---> Removed intermediate container", "--->", "Successfully built",
	}
	if d := cmp.Diff(want, s.lines()); d != "" {
		t.Error(d)
	}
}

func TestTarget(t *testing.T) {
	for target, want := range map[string]string{"one": "Step 2/2 : RUN 1", "TWO": "Step 2/2 : RUN 2", "0": "Step 2/2 : RUN 1", "": "Step 4/4 : RUN 3"} {
		o, s, err := output("FROM a AS one\nRUN 1\nFROM b AS two\nRUN 2\nFROM one\nRUN 3\n", target)
		if err != nil {
			t.Fatal(err)
		}
		o.Done("sha256:fedcba9876543210")
		if !strings.Contains(s.text.String(), want+"\n") {
			t.Errorf("%q:\n%s", target, s.text.String())
		}
	}
}
