package builder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// What the check of a Dockerfile found is listed once, with docker's words, also when the
// build fails; with --debug there is why, and where.
func TestWarnings(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox as x\nENV a b\nRUN --mount=type=ssh,required true\n"})
	const short = ` - FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)
 - LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format (line 2)
`
	for _, c := range []struct{ flag, want string }{
		{"-t=t", "\n 2 warnings found (use wherry --debug to expand):\n" + short},
		{"--debug", "   More info: https://docs.docker.com/go/dockerfile/rule/from-as-casing/\nDockerfile:1\n"},
	} {
		args := []string{harness.Binary("wherry"), "build", c.flag, dir}
		if c.flag == "--debug" {
			args = []string{args[0], c.flag, args[1], dir}
		}
		out, code := client(t, e, nil, nil, args...)
		if code != 1 || !strings.Contains(out, c.want) {
			t.Errorf("%s: exit %d, want %q in\n%s", c.flag, code, c.want, out)
		}
		if want := "ERROR: failed to build: failed to solve: unset ssh forward key default\n"; !strings.HasSuffix(out, want) {
			t.Errorf("%s: want %q at the end of\n%s", c.flag, want, out)
		}
	}
}

// A build that fails leaves no id of an earlier one, and a cache that is not there is told of.
func TestLeftovers(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nARG S\nRUN $S\n"})
	id, none := filepath.Join(t.TempDir(), "id"), filepath.Join(dir, "nocache")
	for _, step := range []string{"true", "false"} {
		out, code := client(t, e, nil, nil, harness.Binary("wherry"), "build", "--iidfile", id, "--cache-from", "type=local,src="+none, "--build-arg", "S="+step, dir)
		if (code == 0) != (step == "true") {
			t.Errorf("%s: exit %d\n%s", step, code, out)
		}
		if want := "WARNING: local cache import at " + none + " skipped: "; !strings.Contains(out, want) {
			t.Errorf("%s: want %q in\n%s", step, want, out)
		}
		if b, err := os.ReadFile(id); (err == nil) != (step == "true") {
			t.Errorf("%s: the file of the id: %q %v", step, b, err)
		}
	}
}

// buildx's verbs that are not here say where they are.
func TestElsewhere(t *testing.T) {
	e := engine(t, "")
	for verb, want := range map[string]string{
		"bake":   "wherry: buildx bake is not served: docker's client does it with this engine, too: docker buildx bake\n",
		"create": `wherry: buildx create is not served: the engine has one builder, "default", which is always there; other engines are reached by -H or --context` + "\n",
	} {
		if out, code := client(t, e, nil, nil, harness.Binary("wherry"), "buildx", verb, "--use"); code != 1 || out != want {
			t.Errorf("buildx %s: exit %d %q", verb, code, out)
		}
	}
}
