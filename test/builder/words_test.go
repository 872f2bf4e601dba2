package builder

import (
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
